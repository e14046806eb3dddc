//! python-dxf, by its own command.

use super::{
    ALICE, BOB, GRANTS_TO_USERS, assert_mounted, assert_uploaded_instead, file, furnish, says,
    stage,
};
use crate::lab::{Lab, dxf};

/// All that it says of a 401.
const UNAUTHORIZED: &[&str] = &["DXFUnauthorizedError"];

#[test]
fn pulls_without_login_and_pushes_with_one() {
    let lab = stage();
    let file = file(&lab, "blob");
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
        "the blob came back changed: {digest}"
    );
    says(pull(None, "team/made"), UNAUTHORIZED);
    says(push(None, "public/made"), UNAUTHORIZED);
    let wrong = Some(("alice", "wrong"));
    says(
        dxf(&lab, wrong, None, &["auth", "team/made", "pull"]),
        UNAUTHORIZED,
    );
    pull(Some(ALICE), "team/made").succeeds();
}

#[test]
fn pushes_where_it_may_alone() {
    let lab = stage();
    let file = file(&lab, "blob");
    let push = |repository: &str| dxf(&lab, Some(ALICE), None, &["push-blob", repository, &file]);
    says(push("secret/new"), &["403 Client Error: Forbidden"]);
    push("team/new").succeeds();
}

#[test]
fn mounts_what_may_be_pulled_alone() {
    let lab = stage();
    let file = file(&lab, "blob");
    let blob = |login, repository: &str| {
        dxf(&lab, Some(login), None, &["push-blob", repository, &file]).succeeds()
    };
    let digest = blob(ALICE, "public/made");
    blob(BOB, "secret/made");
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
    says(mount("secret/made", "team/uploaded"), &["DXFMountFailed"]);
    blob(ALICE, "team/uploaded");
    assert_uploaded_instead(&lab, "team/uploaded");
}

#[test]
fn lists_what_may_be_pulled() {
    let lab = Lab::configured("token", GRANTS_TO_USERS);
    furnish(&lab);
    for (who, all) in [
        (ALICE, ["public/base", "team/base"]),
        (BOB, ["public/base", "secret/base"]),
    ] {
        let listed = dxf(&lab, Some(who), None, &["list-repos"]).succeeds();
        assert_eq!(listed.lines().collect::<Vec<_>>(), all);
    }
    says(dxf(&lab, None, None, &["list-repos"]), UNAUTHORIZED);
    let open = stage();
    let listed = dxf(&open, None, None, &["list-repos"]).succeeds();
    assert_eq!(listed.trim(), "public/base");
}
