//! oci-client, what Rust programs use.
//!
//! It asks for tokens for one repository and nothing else: a mount and the list of repositories are beyond them, here
//! as everywhere. In mode basic it has both.

use std::path::Path;

use super::{
    ALICE, BOB, GRANTS_TO_USERS, assert_mounted, assert_uploaded_instead, file, furnish, reference,
    says, stage,
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
    let lab = stage();
    let file = file(&lab, "layer");
    pull(&lab, None, "public/base").succeeds();
    says(pull(&lab, None, "team/base"), &["Not authorized"]);
    says(
        push(&lab, None, "public/new", &file),
        &["authentication required"],
    );
    let image = reference(&lab, "team/base");
    let wrong = oci_client(&lab, Some(("alice", "wrong")), &["login", &image]);
    says(wrong, &["incorrect user name or password"]);
    for repository in ["public/new", "team/new"] {
        push(&lab, Some(ALICE), repository, &file).succeeds();
        pull(&lab, Some(ALICE), repository).succeeds();
    }
    let refused = &["requested access to the resource is denied"];
    says(push(&lab, Some(ALICE), "secret/new", &file), refused);
}

#[test]
fn mounts_and_lists_with_a_password_alone() {
    let lab = Lab::configured("basic", GRANTS_TO_USERS);
    furnish(&lab);
    let file = file(&lab, "layer");
    let curl = Curl::new(&lab, "--http1.1");
    let (digest, _) = curl.push_blob("public/made", Path::new(&file));
    push(&lab, Some(BOB), "secret/made", &file).succeeds();
    mount(&lab, "public/made", "team/mounted", &digest).succeeds();
    assert_mounted(&lab, "public/made");
    says(
        mount(&lab, "secret/made", "team/uploaded", &digest),
        &["got 202 Accepted instead"],
    );
    push(&lab, Some(ALICE), "team/uploaded", &file).succeeds();
    assert_uploaded_instead(&lab, "team/uploaded");
    for (who, all) in [
        (ALICE, ["public/base", "team/base", "team/uploaded"]),
        (BOB, ["public/base", "secret/base", "secret/made"]),
    ] {
        let listed = list(&lab, Some(who)).succeeds();
        for name in all {
            assert!(
                listed.lines().any(|line| line == name),
                "{name} in {listed}"
            );
        }
        let hidden = if who == ALICE { "secret/" } else { "team/" };
        assert!(!listed.contains(hidden), "{listed}");
    }
}

#[test]
fn its_tokens_are_for_no_mount_and_no_list() {
    let lab = stage();
    let file = file(&lab, "layer");
    let curl = Curl::new(&lab, "--http1.1");
    let (digest, _) = curl.push_blob("public/made", Path::new(&file));
    // It gets no token for the source, though the challenge names one: the mount fails, and the user hears why.
    let said = mount(&lab, "public/made", "team/new", &digest);
    says(said, &["code: 401", "this takes another token"]);
    assert_eq!(lab.mounts(), Vec::<String>::new());
    for login in [None, Some(ALICE)] {
        says(list(&lab, login), &["Not authorized"]);
    }
}
