//! podman: pushes, mounts and `podman search`. The module `shared_rights` tests pulls without a login.

use super::{
    ALICE, BOB, assert_fails_with, assert_mounted, assert_source_was_denied,
    assert_uploaded_instead, reference, start_lab,
};
use crate::lab::{Lab, Outcome};
use crate::podman::{plain, podman};

/// The messages with which podman reports a 403. They do not depend on the body of the response.
const DENIED: &[&str] = &["403 (Forbidden)", "denied"];

fn push(lab: &Lab, from: &str, to: &str) -> Outcome {
    let to = format!("docker://{}", reference(lab, to));
    let certs = lab.certs().trust_dir().display().to_string();
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
fn pushes_only_where_granted() {
    let lab = start_lab();
    podman(&lab, "store", "pull", &[&reference(&lab, "public/base")]).succeeds();
    assert_fails_with(push(&lab, "public/base", "secret/new"), DENIED);
    push(&lab, "public/base", "team/new").succeeds();
}

#[test]
fn mounts_only_what_may_be_pulled() {
    let lab = start_lab();
    podman(&lab, "store", "pull", &[&reference(&lab, "public/base")]).succeeds();
    push(&lab, "public/base", "team/mounted").succeeds();
    assert_mounted(&lab, "public/base");
    let bob = Lab::other_credentials();
    let secret = reference(&lab, "secret/base");
    podman(&lab, "store", "pull", &["--creds", &bob, &secret]).succeeds();
    let outcome = push(&lab, "secret/base", "team/uploaded");
    assert_source_was_denied(&lab, &outcome);
    outcome.succeeds();
    assert_uploaded_instead(&lab, "team/uploaded");
    let alice = Lab::credentials();
    let uploaded = reference(&lab, "team/uploaded");
    podman(&lab, "clean", "pull", &["--creds", &alice, &uploaded]).succeeds();
}

#[test]
fn search_finds_only_what_may_be_pulled() {
    let lab = start_lab();
    let search = |term: &str| {
        let arguments = [
            "search",
            "--format",
            "{{.Name}}",
            &format!("{}/{term}", lab.host()),
        ];
        let output = plain(&lab, "store", &arguments).succeeds();
        let names = output.lines().filter_map(|line| line.split_once('/'));
        let mut names: Vec<_> = names.map(|(_, name)| name.trim().to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(search(""), ["public/base"]);
    for ((user, password), all) in [
        (ALICE, ["public/base", "team/base"]),
        (BOB, ["public/base", "secret/base"]),
    ] {
        let login = ["--username", user, "--password", password, &lab.host()];
        podman(&lab, "store", "login", &login).succeeds();
        assert_eq!(search(""), all, "{user}");
        assert_eq!(search("secret").is_empty(), user == ALICE.0);
    }
}
