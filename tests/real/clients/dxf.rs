//! python-dxf, through its command `dxf`.

use super::{
    ALICE, BOB, GRANTS_TO_USERS, assert_fails_with, assert_mounted, assert_uploaded_instead,
    push_base_images, random_file, start_lab,
};
use crate::lab::{Lab, dxf};

/// The only message that python-dxf prints for a 401.
const UNAUTHORIZED: &[&str] = &["DXFUnauthorizedError"];

#[test]
fn pulls_without_login_and_pushes_with_one() {
    let lab = start_lab();
    let file = random_file(&lab, "blob");
    let push = |login, repository: &str| {
        dxf(
            &lab,
            login,
            None,
            &["push-blob", repository, &file, "@latest"],
        )
    };
    let digest = push(Some(ALICE), "public/made").succeeds();
    push(Some(ALICE), "team/made").succeeds();
    let pull =
        |login, repository: &str| dxf(&lab, login, None, &["pull-blob", repository, "@latest"]);
    let pulled = pull(None, "public/made");
    assert!(
        pulled.stdout == std::fs::read(&file).unwrap(),
        "the downloaded blob differs: {digest}"
    );
    assert_fails_with(pull(None, "team/made"), UNAUTHORIZED);
    assert_fails_with(push(None, "public/made"), UNAUTHORIZED);
    let wrong = Some(("alice", "wrong"));
    assert_fails_with(
        dxf(&lab, wrong, None, &["auth", "team/made", "pull"]),
        UNAUTHORIZED,
    );
    pull(Some(ALICE), "team/made").succeeds();
}

#[test]
fn pushes_only_where_granted() {
    let lab = start_lab();
    let file = random_file(&lab, "blob");
    let push = |repository: &str| dxf(&lab, Some(ALICE), None, &["push-blob", repository, &file]);
    assert_fails_with(push("secret/new"), &["403 Client Error: Forbidden"]);
    push("team/new").succeeds();
}

#[test]
fn mounts_only_what_may_be_pulled() {
    let lab = start_lab();
    let file = random_file(&lab, "blob");
    let push = |login, repository: &str| {
        dxf(&lab, Some(login), None, &["push-blob", repository, &file]).succeeds()
    };
    let digest = push(ALICE, "public/made");
    push(BOB, "secret/made");
    let mount = |from: &str, to: &str| {
        dxf(
            &lab,
            Some(ALICE),
            None,
            &["mount-blob", to, from, digest.trim()],
        )
    };
    mount("public/made", "team/mounted").succeeds();
    assert_mounted(&lab, "public/made");
    assert_fails_with(mount("secret/made", "team/uploaded"), &["DXFMountFailed"]);
    push(ALICE, "team/uploaded");
    assert_uploaded_instead(&lab, "team/uploaded");
}

#[test]
fn the_catalog_has_only_what_may_be_pulled() {
    let lab = Lab::configured("token", GRANTS_TO_USERS);
    push_base_images(&lab);
    for (login, all) in [
        (ALICE, ["public/base", "team/base"]),
        (BOB, ["public/base", "secret/base"]),
    ] {
        let listed = dxf(&lab, Some(login), None, &["list-repos"]).succeeds();
        assert_eq!(listed.lines().collect::<Vec<_>>(), all);
    }
    assert_fails_with(dxf(&lab, None, None, &["list-repos"]), UNAUTHORIZED);
    let anonymous = start_lab();
    let listed = dxf(&anonymous, None, None, &["list-repos"]).succeeds();
    assert_eq!(listed.trim(), "public/base");
}
