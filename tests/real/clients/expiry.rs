//! A token that ends, and what comes after it.

use std::time::Duration;

use super::{ALICE, GRANTS, furnish, says};
use crate::lab::{Curl, Docker, Lab, dxf, wait_up_to};

/// The shortest life there is, the minute by which clocks may differ, and some patience.
const END: Duration = Duration::from_secs(60 + 60 + 30);

#[test]
fn token_ends_and_a_fresh_one_is_as_good() {
    let lab = Lab::with_lifetime("token", Some("1m"), GRANTS);
    furnish(&lab);
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
    let ask = || curl.ask("/v2/team/base/tags/list", &["--header", &field]);
    wait_up_to(END, "the token ends", || {
        std::thread::park_timeout(Duration::from_secs(1));
        ask().status != 200
    });
    let refused = ask();
    let challenge = refused.field("www-authenticate");
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (401, "UNAUTHORIZED")
    );
    assert!(
        challenge.ends_with(r#",error="invalid_token""#),
        "{challenge}"
    );
    // Without a login it asks for a token for nobody, which is good for nothing here; with one it goes on.
    says(tags(None), &["DXFUnauthorizedError"]);
    assert_eq!(tags(Some(ALICE)).succeeds().trim(), "latest");
    docker.run(&["rmi", &image]).succeeds();
    docker.run(&["pull", &image]).succeeds();
}
