//! The access log: lines have the user, the repository, the action and the status of a request, and contain no secret.

use crate::lab::{Curl, Lab, PASSWORD, wait_until};

#[test]
fn lines_have_user_repository_action_and_status_and_no_secret() {
    let lab = Lab::start();
    let curl = Curl::new(&lab, "--http1.1");
    curl.push_image("team/app");
    curl.request_as_user("/v2/team/app/tags/list", &[]);
    curl.request("/v2/team/app/tags/list", &["--user", "alice:not-the-one"]);
    for words in [
        ["alice", "team/app", "push", "201"],
        ["alice", "team/app", "pull", "200"],
    ] {
        wait_for_line(&lab, &words);
    }
    wait_for_line(&lab, &["team/app", "pull", "401"]);
    let secrets = [
        PASSWORD,
        "not-the-one",
        "YWxpY2U6",
        "Authorization",
        "authorization",
        "_state=",
    ];
    for line in lab.access_log() {
        for secret in secrets {
            assert!(!line.contains(secret), "{secret} is in the log: {line}");
        }
    }
}

/// Waits until the access log has a line that contains all of `words`.
fn wait_for_line(lab: &Lab, words: &[&str]) {
    wait_until(&format!("the access log has a line with {words:?}"), || {
        lab.access_log()
            .iter()
            .any(|line| words.iter().all(|word| line.contains(word)))
    });
}
