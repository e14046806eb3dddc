//! containerd, through its client `ctr`: pushes and mounts. The module `shared_rights` tests fetches without a login.

use super::{assert_fails_with, assert_mounted, assert_uploaded_instead, reference, start_lab};
use crate::lab::{Docker, Lab, Outcome};

fn push(
    lab: &Lab,
    docker: &Docker<'_>,
    from: &str,
    to: &str,
    credentials: Option<&str>,
) -> Outcome {
    let mut command = vec!["--debug", "images", "push"];
    command.extend(
        credentials
            .iter()
            .flat_map(|credentials| ["--user", credentials]),
    );
    docker.ctr(&command, &[&reference(lab, to), &reference(lab, from)])
}

fn fetch(lab: &Lab, docker: &Docker<'_>, repository: &str, credentials: &str) -> Outcome {
    let fetch = ["content", "fetch", "--user", credentials];
    docker.ctr(&fetch, &[&reference(lab, repository)])
}

#[test]
fn pushes_only_where_granted() {
    let lab = start_lab();
    let docker = Docker::start(&lab, "docker");
    docker
        .ctr(&["content", "fetch"], &[&reference(&lab, "public/base")])
        .succeeds();
    let alice = Lab::credentials();
    for (to, login) in [
        ("public/new", None),
        ("team/new", None),
        ("secret/new", Some(&*alice)),
    ] {
        let outcome = push(&lab, &docker, "public/base", to, login);
        assert_fails_with(
            outcome,
            &["insufficient_scope", "401 Unauthorized", "403 Forbidden"],
        );
    }
    push(&lab, &docker, "public/base", "team/new", Some(&alice)).succeeds();
}

#[test]
fn mounts_only_what_may_be_pulled() {
    let lab = start_lab();
    let docker = Docker::start(&lab, "docker");
    let (alice, bob) = (Lab::credentials(), Lab::other_credentials());
    fetch(&lab, &docker, "public/base", &alice).succeeds();
    push(&lab, &docker, "public/base", "team/mounted", Some(&alice)).succeeds();
    assert_mounted(&lab, "public/base");
    fetch(&lab, &docker, "secret/base", &bob).succeeds();
    let outcome = push(&lab, &docker, "secret/base", "team/uploaded", Some(&alice));
    assert!(
        outcome.story().contains("&from=secret/base"),
        "{}",
        outcome.story()
    );
    outcome.succeeds();
    assert_uploaded_instead(&lab, "team/uploaded");
    fetch(&lab, &docker, "team/uploaded", &alice).succeeds();
}
