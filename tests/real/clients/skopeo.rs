//! skopeo: pushes and mounts. Copies without a login are in `shared_rights`.

use super::{assert_mounted, assert_searched_in_vain, assert_uploaded_instead, says, stage};
use crate::lab::{Lab, Outcome, run};
use crate::skopeo;

/// Its words for a 403, whatever the answer says.
const DENIED: &[&str] = &["403 (Forbidden)", "denied"];

fn copy(lab: &Lab, from: &str, who: &str, to: &str) -> Outcome {
    let mut command = lab.command("skopeo");
    command
        .args([
            "--debug",
            "copy",
            "--src-creds",
            who,
            "--dest-creds",
            &Lab::credentials(),
        ])
        .args(skopeo::certs(lab, "src"))
        .args(skopeo::certs(lab, "dest"));
    run(command.args([skopeo::remote(lab, from), skopeo::remote(lab, to)]))
}

#[test]
fn pushes_where_it_may_alone() {
    let lab = stage();
    let alice = Lab::credentials();
    says(copy(&lab, "public/base", &alice, "secret/new"), DENIED);
    says(copy(&lab, "secret/base", &alice, "team/new"), DENIED);
    copy(&lab, "public/base", &alice, "team/new").succeeds();
}

#[test]
fn mounts_what_may_be_pulled_alone() {
    let lab = stage();
    copy(&lab, "public/base", &Lab::credentials(), "team/mounted").succeeds();
    assert_mounted(&lab, "public/base");
    let said = copy(
        &lab,
        "secret/base",
        &Lab::other_credentials(),
        "team/uploaded",
    );
    assert_searched_in_vain(&lab, &said);
    said.succeeds();
    assert_uploaded_instead(&lab, "team/uploaded");
}
