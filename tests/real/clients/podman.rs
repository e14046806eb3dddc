//! podman: pushes, mounts and `podman search`. Pulls without a login are in `shared_rights`.

use super::{
    ALICE, BOB, assert_mounted, assert_searched_in_vain, assert_uploaded_instead, reference, says,
    stage,
};
use crate::lab::{Lab, Outcome};
use crate::podman::{plain, podman};

/// Its words for a 403, whatever the answer says.
const DENIED: &[&str] = &["403 (Forbidden)", "denied"];

fn push(lab: &Lab, from: &str, to: &str) -> Outcome {
    let to = format!("docker://{}", reference(lab, to));
    let certs = lab.certs().trusted().display().to_string();
    let credentials = Lab::credentials();
    let options = [
        "--log-level=debug",
        "push",
        "--cert-dir",
        &certs,
        "--creds",
        &credentials,
    ];
    plain(
        lab,
        "store",
        &[&options[..], &[&reference(lab, from), &to]].concat(),
    )
}

#[test]
fn pushes_where_it_may_alone() {
    let lab = stage();
    podman(&lab, "store", "pull", &[&reference(&lab, "public/base")]).succeeds();
    says(push(&lab, "public/base", "secret/new"), DENIED);
    push(&lab, "public/base", "team/new").succeeds();
}

#[test]
fn mounts_what_may_be_pulled_alone() {
    let lab = stage();
    podman(&lab, "store", "pull", &[&reference(&lab, "public/base")]).succeeds();
    push(&lab, "public/base", "team/mounted").succeeds();
    assert_mounted(&lab, "public/base");
    let bob = Lab::other_credentials();
    let secret = reference(&lab, "secret/base");
    podman(&lab, "store", "pull", &["--creds", &bob, &secret]).succeeds();
    let said = push(&lab, "secret/base", "team/uploaded");
    assert_searched_in_vain(&lab, &said);
    said.succeeds();
    assert_uploaded_instead(&lab, "team/uploaded");
    let alice = Lab::credentials();
    let uploaded = reference(&lab, "team/uploaded");
    podman(&lab, "clean", "pull", &["--creds", &alice, &uploaded]).succeeds();
}

#[test]
fn searches_what_may_be_pulled() {
    let lab = stage();
    let found = |words: &str| {
        let search = [
            "search",
            "--format",
            "{{.Name}}",
            &format!("{}/{words}", lab.host()),
        ];
        let said = plain(&lab, "store", &search).succeeds();
        let names = said.lines().filter_map(|line| line.split_once('/'));
        let mut names: Vec<_> = names.map(|(_, name)| name.trim().to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(found(""), ["public/base"]);
    for ((user, password), all) in [
        (ALICE, ["public/base", "team/base"]),
        (BOB, ["public/base", "secret/base"]),
    ] {
        let login = ["--username", user, "--password", password, &lab.host()];
        podman(&lab, "store", "login", &login).succeeds();
        assert_eq!(found(""), all, "{user}");
        assert_eq!(found("secret").is_empty(), user == ALICE.0);
    }
}
