//! docker: pushes and mounts. The module `shared_rights` tests pulls without a login.

use super::{BOB, assert_fails_with, assert_mounted, assert_uploaded_instead, start_lab};
use crate::lab::Docker;

const DENIED: &[&str] = &["denied: requested access to the resource is denied"];

#[test]
fn pushes_only_where_granted() {
    let lab = start_lab();
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
        let output = assert_fails_with(docker.run(&["push", &elsewhere]), DENIED);
        // docker does not retry a push that is denied.
        assert!(!output.contains("Retrying"), "{output}");
    }
    assert_fails_with(
        docker.run(&["pull", &docker.reference("secret/base")]),
        &["denied"],
    );
}

#[test]
fn mounts_only_what_may_be_pulled() {
    let lab = start_lab();
    let docker = Docker::start(&lab, "docker");
    let (public, secret) = (
        docker.reference("public/base"),
        docker.reference("secret/base"),
    );
    docker.run(&["pull", &public]).succeeds();
    docker.try_login_as(BOB.0, BOB.1).succeeds();
    docker.run(&["pull", &secret]).succeeds();
    docker.log_in();
    let mounted = docker.reference("team/mounted");
    docker.run(&["tag", &public, &mounted]).succeeds();
    let output = docker.run(&["push", &mounted]).succeeds();
    assert_eq!(
        output.matches("Mounted from public/base").count(),
        2,
        "{output}"
    );
    assert_mounted(&lab, "public/base");
    // The daemon remembers the repository from which bob pulled the layers, and attempts to mount them from there.
    let uploaded = docker.reference("team/uploaded");
    docker.run(&["tag", &secret, &uploaded]).succeeds();
    let output = docker.run(&["push", &uploaded]).succeeds();
    assert!(!output.contains("Mounted from"), "{output}");
    let is_attempt =
        |line: &str| line.contains("attempting to mount") && line.contains("secret/base");
    assert!(docker.log().lines().any(is_attempt), "{}", docker.log());
    assert_uploaded_instead(&lab, "team/uploaded");
    docker.run(&["rmi", &secret, &uploaded]).succeeds();
    docker.run(&["pull", &uploaded]).succeeds();
}
