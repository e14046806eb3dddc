//! oci-client, a client library for Rust programs.
//!
//! oci-client requests tokens with the scope of one repository, so that in mode token it cannot mount a blob from another
//! repository and cannot read the catalog; this is the same with other registries. In mode basic both succeed.

use std::path::Path;

use super::{
    ALICE, BOB, GRANTS_TO_USERS, assert_fails_with, assert_mounted, assert_uploaded_instead,
    push_base_images, random_file, reference, start_lab,
};
use crate::lab::{Curl, Lab, Outcome, oci_client};

fn pull(lab: &Lab, login: Option<(&str, &str)>, repository: &str) -> Outcome {
    oci_client(lab, login, &["pull", &reference(lab, repository)])
}

fn push(lab: &Lab, login: Option<(&str, &str)>, repository: &str, file: &str) -> Outcome {
    oci_client(lab, login, &["push", &reference(lab, repository), file])
}

fn mount(lab: &Lab, from: &str, to: &str, digest: &str) -> Outcome {
    let (from, to) = (reference(lab, from), reference(lab, to));
    oci_client(lab, Some(ALICE), &["mount", &to, &from, digest])
}

fn list(lab: &Lab, login: Option<(&str, &str)>) -> Outcome {
    oci_client(lab, login, &["catalog", &reference(lab, "public/base")])
}

#[test]
fn pulls_without_login_and_pushes_with_one() {
    let lab = start_lab();
    let file = random_file(&lab, "layer");
    pull(&lab, None, "public/base").succeeds();
    assert_fails_with(pull(&lab, None, "team/base"), &["Not authorized"]);
    assert_fails_with(
        push(&lab, None, "public/new", &file),
        &["authentication required"],
    );
    let image = reference(&lab, "team/base");
    let wrong = oci_client(&lab, Some(("alice", "wrong")), &["login", &image]);
    assert_fails_with(wrong, &["incorrect user name or password"]);
    for repository in ["public/new", "team/new"] {
        push(&lab, Some(ALICE), repository, &file).succeeds();
        pull(&lab, Some(ALICE), repository).succeeds();
    }
    let denied = &["requested access to the resource is denied"];
    assert_fails_with(push(&lab, Some(ALICE), "secret/new", &file), denied);
}

#[test]
fn mounts_and_lists_in_mode_basic() {
    let lab = Lab::configured("basic", GRANTS_TO_USERS);
    push_base_images(&lab);
    let file = random_file(&lab, "layer");
    let curl = Curl::new(&lab, "--http1.1");
    let (digest, _) = curl.push_blob("public/made", Path::new(&file));
    push(&lab, Some(BOB), "secret/made", &file).succeeds();
    mount(&lab, "public/made", "team/mounted", &digest).succeeds();
    assert_mounted(&lab, "public/made");
    assert_fails_with(
        mount(&lab, "secret/made", "team/uploaded", &digest),
        &["got 202 Accepted instead"],
    );
    push(&lab, Some(ALICE), "team/uploaded", &file).succeeds();
    assert_uploaded_instead(&lab, "team/uploaded");
    for (login, all) in [
        (ALICE, ["public/base", "team/base", "team/uploaded"]),
        (BOB, ["public/base", "secret/base", "secret/made"]),
    ] {
        let listed = list(&lab, Some(login)).succeeds();
        for name in all {
            assert!(
                listed.lines().any(|line| line == name),
                "{name} in {listed}"
            );
        }
        let hidden = if login == ALICE { "secret/" } else { "team/" };
        assert!(!listed.contains(hidden), "{listed}");
    }
}

#[test]
fn its_tokens_allow_no_mount_and_no_catalog() {
    let lab = start_lab();
    let file = random_file(&lab, "layer");
    let curl = Curl::new(&lab, "--http1.1");
    let (digest, _) = curl.push_blob("public/made", Path::new(&file));
    // oci-client requests no token for the source, although the challenge names its scope: the mount fails with a clear message.
    let outcome = mount(&lab, "public/made", "team/new", &digest);
    assert_fails_with(outcome, &["code: 401", "this takes another token"]);
    assert_eq!(lab.mounts(), Vec::<String>::new());
    for login in [None, Some(ALICE)] {
        assert_fails_with(list(&lab, login), &["Not authorized"]);
    }
}
