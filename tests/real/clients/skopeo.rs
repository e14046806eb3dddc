//! skopeo: pushes and mounts. The module `shared_rights` tests copies without a login.

use super::{
    assert_fails_with, assert_mounted, assert_source_was_denied, assert_uploaded_instead, start_lab,
};
use crate::lab::{Lab, Outcome, run};
use crate::skopeo;

/// The messages with which skopeo reports a 403. They do not depend on the body of the response.
const DENIED: &[&str] = &["403 (Forbidden)", "denied"];

/// Copies an image within the registry. `source_credentials` are used for reading; alice's are used for writing.
fn copy(lab: &Lab, from: &str, source_credentials: &str, to: &str) -> Outcome {
    let mut command = lab.command("skopeo");
    command
        .args([
            "--debug",
            "copy",
            "--src-creds",
            source_credentials,
            "--dest-creds",
            &Lab::credentials(),
        ])
        .args(skopeo::certs(lab, "src"))
        .args(skopeo::certs(lab, "dest"));
    run(command.args([skopeo::remote(lab, from), skopeo::remote(lab, to)]))
}

#[test]
fn pushes_only_where_granted() {
    let lab = start_lab();
    let alice = Lab::credentials();
    assert_fails_with(copy(&lab, "public/base", &alice, "secret/new"), DENIED);
    assert_fails_with(copy(&lab, "secret/base", &alice, "team/new"), DENIED);
    copy(&lab, "public/base", &alice, "team/new").succeeds();
}

#[test]
fn mounts_only_what_may_be_pulled() {
    let lab = start_lab();
    copy(&lab, "public/base", &Lab::credentials(), "team/mounted").succeeds();
    assert_mounted(&lab, "public/base");
    let outcome = copy(
        &lab,
        "secret/base",
        &Lab::other_credentials(),
        "team/uploaded",
    );
    assert_source_was_denied(&lab, &outcome);
    outcome.succeeds();
    assert_uploaded_instead(&lab, "team/uploaded");
}
