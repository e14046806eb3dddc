//! docker: what its daemon pushes and mounts. Pulls without a login are in `shared_rights`.

use super::{BOB, assert_mounted, assert_uploaded_instead, says, stage};
use crate::lab::Docker;

const DENIED: &[&str] = &["denied: requested access to the resource is denied"];

#[test]
fn pushes_where_it_may_alone() {
    let lab = stage();
    let docker = Docker::start(&lab, "docker");
    let public = docker.reference("public/base");
    docker.run(&["pull", &public]).succeeds();
    docker.log_in();
    let allowed = docker.reference("team/new");
    docker.run(&["tag", &public, &allowed]).succeeds();
    docker.run(&["push", &allowed]).succeeds();
    for repository in ["secret/new", "new"] {
        let elsewhere = docker.reference(repository);
        docker.run(&["tag", &public, &elsewhere]).succeeds();
        let said = says(docker.run(&["push", &elsewhere]), DENIED);
        // It took the first no for an answer.
        assert!(!said.contains("Retrying"), "{said}");
    }
    says(
        docker.run(&["pull", &docker.reference("secret/base")]),
        &["denied"],
    );
}

#[test]
fn mounts_what_may_be_pulled_alone() {
    let lab = stage();
    let docker = Docker::start(&lab, "docker");
    let (public, secret) = (
        docker.reference("public/base"),
        docker.reference("secret/base"),
    );
    docker.run(&["pull", &public]).succeeds();
    docker.login_as(BOB.0, BOB.1).succeeds();
    docker.run(&["pull", &secret]).succeeds();
    docker.log_in();
    let mounted = docker.reference("team/mounted");
    docker.run(&["tag", &public, &mounted]).succeeds();
    let said = docker.run(&["push", &mounted]).succeeds();
    assert_eq!(
        said.matches("Mounted from public/base").count(),
        2,
        "{said}"
    );
    assert_mounted(&lab, "public/base");
    // The daemon remembers where bob had it from, and would rather mount it than send it.
    let uploaded = docker.reference("team/uploaded");
    docker.run(&["tag", &secret, &uploaded]).succeeds();
    let said = docker.run(&["push", &uploaded]).succeeds();
    assert!(!said.contains("Mounted from"), "{said}");
    let tried = |line: &str| line.contains("attempting to mount") && line.contains("secret/base");
    assert!(docker.log().lines().any(tried), "{}", docker.log());
    assert_uploaded_instead(&lab, "team/uploaded");
    docker.run(&["rmi", &secret, &uploaded]).succeeds();
    docker.run(&["pull", &uploaded]).succeeds();
}
