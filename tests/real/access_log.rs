//! The access log: who did what to which repository, and nothing that lets a reader in.

use crate::lab::{Curl, Lab, PASSWORD, wait_until};

#[test]
fn log_names_user_repository_action_and_status_but_no_secret() {
    let lab = Lab::start();
    let curl = Curl::new(&lab, "--http1.1");
    curl.push_image("team/app");
    curl.ask_as_user("/v2/team/app/tags/list", &[]);
    curl.ask("/v2/team/app/tags/list", &["--user", "alice:not-the-one"]);
    for words in [
        ["alice", "team/app", "push", "201"],
        ["alice", "team/app", "pull", "200"],
    ] {
        expect_line(&lab, &words);
    }
    expect_line(&lab, &["team/app", "pull", "401"]);
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
            assert!(!line.contains(secret), "{secret} stands in the log: {line}");
        }
    }
}

/// Waits for a line with all of `words`.
fn expect_line(lab: &Lab, words: &[&str]) {
    wait_until(&format!("the access log has a line with {words:?}"), || {
        lab.access_log()
            .iter()
            .any(|line| words.iter().all(|word| line.contains(word)))
    });
}
