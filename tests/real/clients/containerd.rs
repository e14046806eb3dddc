//! containerd, by its own client `ctr`: pushes and mounts. Fetches without a login are in `shared_rights`.

use super::{assert_mounted, assert_uploaded_instead, reference, says, stage};
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
fn pushes_where_it_may_alone() {
    let lab = stage();
    let docker = Docker::start(&lab, "docker");
    docker
        .ctr(&["content", "fetch"], &[&reference(&lab, "public/base")])
        .succeeds();
    let alice = Lab::credentials();
    for (to, who) in [
        ("public/new", None),
        ("team/new", None),
        ("secret/new", Some(&*alice)),
    ] {
        let said = push(&lab, &docker, "public/base", to, who);
        says(
            said,
            &["insufficient_scope", "401 Unauthorized", "403 Forbidden"],
        );
    }
    push(&lab, &docker, "public/base", "team/new", Some(&alice)).succeeds();
}

#[test]
fn mounts_what_may_be_pulled_alone() {
    let lab = stage();
    let docker = Docker::start(&lab, "docker");
    let (alice, bob) = (Lab::credentials(), Lab::other_credentials());
    fetch(&lab, &docker, "public/base", &alice).succeeds();
    push(&lab, &docker, "public/base", "team/mounted", Some(&alice)).succeeds();
    assert_mounted(&lab, "public/base");
    fetch(&lab, &docker, "secret/base", &bob).succeeds();
    let said = push(&lab, &docker, "secret/base", "team/uploaded", Some(&alice));
    assert!(
        said.story().contains("&from=secret/base"),
        "{}",
        said.story()
    );
    said.succeeds();
    assert_uploaded_instead(&lab, "team/uploaded");
    fetch(&lab, &docker, "team/uploaded", &alice).succeeds();
}
