//! oras, the Python client of that name.
//!
//! Its way to log in with tokens keeps the first token it got, also when that is not for what comes next: it pushes to
//! where anyone may pull, as it is first asked for a token by the upload. Its way with a password in every request is taken
//! in mode token, too. A login is checked by no request of its own, so a wrong password shows at the first push.

use super::{ALICE, file, reference, says, stage};
use crate::lab::oras;

const TOKEN: &str = "token";
const BASIC: &str = "basic";

#[test]
fn pulls_without_login_and_pushes_with_one() {
    let lab = stage();
    let file = file(&lab, "artifact");
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
        "the file came back changed"
    );
    let tags = oras(&lab, TOKEN, None, &["tags", &public]).succeeds();
    assert_eq!(tags.trim(), "latest");
    for backend in [TOKEN, BASIC] {
        oras(&lab, backend, Some(ALICE), &["pull", &team, &back]).succeeds();
    }
    let refused = &["authentication required"];
    says(oras(&lab, TOKEN, None, &["pull", &team, &back]), refused);
    says(oras(&lab, TOKEN, None, &["push", &public, &file]), refused);
    // The token for its first question is for pulling.
    let said = oras(
        &lab,
        TOKEN,
        Some(ALICE),
        &["push", &reference(&lab, "team/other"), &file],
    );
    says(said, refused);
}

#[test]
fn wrong_password_is_refused() {
    let lab = stage();
    let file = file(&lab, "artifact");
    let image = reference(&lab, "team/made");
    for (backend, words) in [
        (TOKEN, "Cannot respond to request for authentication"),
        (BASIC, "authentication required"),
    ] {
        let wrong = Some(("alice", "wrong"));
        says(
            oras(&lab, backend, wrong, &["push", &image, &file]),
            &[words],
        );
    }
}

#[test]
fn pushes_where_it_may_alone() {
    let lab = stage();
    let file = file(&lab, "artifact");
    let image = reference(&lab, "secret/made");
    for backend in [TOKEN, BASIC] {
        let said = oras(&lab, backend, Some(ALICE), &["push", &image, &file]);
        says(said, &["requested access to the resource is denied"]);
    }
}
