//! oras, the Python client.
//!
//! With its authentication backend "token", oras keeps the first token that it gets, even if a later request needs another scope.
//! It can push to repositories that anonymous clients may pull, because the upload is then the first request that gets a 401. Its
//! backend "basic" sends the password in every request, which mode token accepts as well. oras sends no request at its login, so
//! that a wrong password is reported by the first push.

use super::{ALICE, assert_fails_with, random_file, reference, start_lab};
use crate::lab::oras;

const TOKEN: &str = "token";
const BASIC: &str = "basic";

#[test]
fn pulls_without_login_and_pushes_with_one() {
    let lab = start_lab();
    let file = random_file(&lab, "artifact");
    let (public, team) = (reference(&lab, "public/made"), reference(&lab, "team/made"));
    let back = lab.path("back");
    std::fs::create_dir(&back).unwrap();
    let back = back.display().to_string();
    oras(&lab, TOKEN, Some(ALICE), &["push", &public, &file]).succeeds();
    oras(&lab, BASIC, Some(ALICE), &["push", &team, &file]).succeeds();
    oras(&lab, TOKEN, None, &["pull", &public, &back]).succeeds();
    let pulled = std::fs::read(lab.path("back/artifact")).unwrap();
    assert!(
        pulled == std::fs::read(&file).unwrap(),
        "the downloaded file differs"
    );
    let tags = oras(&lab, TOKEN, None, &["tags", &public]).succeeds();
    assert_eq!(tags.trim(), "latest");
    for backend in [TOKEN, BASIC] {
        oras(&lab, backend, Some(ALICE), &["pull", &team, &back]).succeeds();
    }
    let refused = &["authentication required"];
    assert_fails_with(oras(&lab, TOKEN, None, &["pull", &team, &back]), refused);
    assert_fails_with(oras(&lab, TOKEN, None, &["push", &public, &file]), refused);
    // The first request of the push, and therefore the token, has the scope to pull.
    let outcome = oras(
        &lab,
        TOKEN,
        Some(ALICE),
        &["push", &reference(&lab, "team/other"), &file],
    );
    assert_fails_with(outcome, refused);
}

#[test]
fn a_wrong_password_is_reported() {
    let lab = start_lab();
    let file = random_file(&lab, "artifact");
    let image = reference(&lab, "team/made");
    for (backend, message) in [
        (TOKEN, "Cannot respond to request for authentication"),
        (BASIC, "authentication required"),
    ] {
        let wrong = Some(("alice", "wrong"));
        assert_fails_with(
            oras(&lab, backend, wrong, &["push", &image, &file]),
            &[message],
        );
    }
}

#[test]
fn pushes_only_where_granted() {
    let lab = start_lab();
    let file = random_file(&lab, "artifact");
    let image = reference(&lab, "secret/made");
    for backend in [TOKEN, BASIC] {
        let outcome = oras(&lab, backend, Some(ALICE), &["push", &image, &file]);
        assert_fails_with(outcome, &["requested access to the resource is denied"]);
    }
}
