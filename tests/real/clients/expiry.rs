//! An expired token: the 401 that it gets, and the new token that clients request.

use std::time::Duration;

use super::{ALICE, GRANTS, assert_fails_with, push_base_images};
use crate::lab::{Curl, Docker, Lab, dxf, wait_up_to};

/// The shortest possible lifetime, the minute of tolerated clock skew, and a margin.
const EXPIRY: Duration = Duration::from_secs(60 + 60 + 30);

#[test]
fn an_expired_token_gets_401_and_a_new_one_is_accepted() {
    let lab = Lab::with_lifetime("token", Some("1m"), GRANTS);
    push_base_images(&lab);
    let docker = Docker::start(&lab, "docker");
    docker.log_in();
    let image = docker.reference("team/base");
    docker.run(&["pull", &image]).succeeds();
    let token = dxf(&lab, Some(ALICE), None, &["auth", "team/base", "pull"]).succeeds();
    let token = token.trim();
    let tags = |login| dxf(&lab, login, Some(token), &["list-aliases", "team/base"]);
    assert_eq!(tags(None).succeeds().trim(), "latest");
    let curl = Curl::new(&lab, "--http2");
    let field = format!("Authorization: Bearer {token}");
    let request = || curl.request("/v2/team/base/tags/list", &["--header", &field]);
    wait_up_to(EXPIRY, "the token expires", || {
        std::thread::park_timeout(Duration::from_secs(1));
        request().status != 200
    });
    let refused = request();
    let challenge = refused.field("www-authenticate");
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (401, "UNAUTHORIZED")
    );
    assert!(
        challenge.ends_with(r#",error="invalid_token""#),
        "{challenge}"
    );
    // Without a login, python-dxf requests an anonymous token, which does not grant this scope. With a login, it continues.
    assert_fails_with(tags(None), &["DXFUnauthorizedError"]);
    assert_eq!(tags(Some(ALICE)).succeeds().trim(), "latest");
    docker.run(&["rmi", &image]).succeeds();
    docker.run(&["pull", &image]).succeeds();
}
