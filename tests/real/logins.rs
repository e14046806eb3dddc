//! Many concurrent logins after a restart, and the rejected logins that fail2ban detects in the access log.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::lab::{Curl, Lab, run, run_within, wait_until};

const USERS: usize = 120;

/// After a restart the login cache is empty, so that the first login of each user costs a bcrypt hash. Here the hashes have cost
/// 12, as `htpasswd -B -C 12` creates them.
#[test]
fn all_users_log_in_after_a_restart() {
    let mut lab = Lab::start();
    let mut htpasswd = lab.command("htpasswd");
    let line = run(htpasswd.args(["-nbB", "-C", "12", "user", "pw"])).succeeds();
    let hash = line.trim().strip_prefix("user:").unwrap();
    let lines: String = (0..USERS)
        .map(|number| format!("u{number}:{hash}\n"))
        .collect();
    fs::write(lab.path("htpasswd"), lines).unwrap();
    lab.restart_proxy();
    let begin = Instant::now();
    let mut times: Vec<Duration> = std::thread::scope(|scope| {
        let lab = &lab;
        // All logins start before the test waits for the first one.
        let mut logins = Vec::new();
        for number in 0..USERS {
            logins.push(scope.spawn(move || {
                let mut curl = lab.command("curl");
                curl.args(["--silent", "--show-error", "--output", "/dev/null"])
                    .args(["--write-out", "%{http_code}", "--user"])
                    .arg(format!("u{number}:pw"))
                    .arg("--cacert")
                    .arg(lab.certs().ca())
                    .arg(lab.url("/v2/"));
                // skopeo and podman have the same timeout. On a busy machine each hash takes seconds.
                let status = run_within("300", &curl).succeeds();
                assert_eq!(status, "200", "u{number} after {:?}", begin.elapsed());
                begin.elapsed()
            }));
        }
        let logins = logins.into_iter();
        logins.map(|login| login.join().unwrap()).collect()
    });
    times.sort_unstable();
    let within = |seconds| {
        let limit = Duration::from_secs(seconds);
        times.iter().filter(|time| **time <= limit).count()
    };
    eprintln!(
        "of {USERS} logins {} took 10 s at most, {} took 15 s at most, the last one {:?}",
        within(10),
        within(15),
        times[USERS - 1]
    );
}

#[test]
fn fail2ban_counts_only_passwords_that_were_checked_and_wrong() {
    let mut lab = Lab::start();
    for format in ["text", "json"] {
        let config = lab.path("proxy.toml");
        let text = fs::read_to_string(&config).unwrap();
        let text = text.replace("format = \"text\"\n", "");
        let text = text.replace("\n[log]\n", &format!("\n[log]\nformat = \"{format}\"\n"));
        fs::write(&config, text).unwrap();
        fs::write(lab.path("access.log"), "").unwrap();
        lab.restart_proxy();
        send_rejected_logins(&Curl::new(&lab, "--http1.1"));
        let log = lab.path("access.log");
        wait_until("all requests are logged", || lab.access_log().len() == 16);
        assert_eq!(matched(&lab, &log), 10, "{format}: {:#?}", lab.access_log());
    }
}

/// Sends ten requests with wrong passwords, and six rejected requests whose password is not checked: one without credentials, two
/// with an unusable `Authorization` field, and three from a network that has used up its guesses.
fn send_rejected_logins(curl: &Curl<'_>) {
    assert_eq!(curl.request("/v2/", &[]).status, 401);
    for unusable in ["Basic unusable", "Bearer stale"] {
        let header = format!("Authorization: {unusable}");
        assert_eq!(curl.request("/v2/", &["--header", &header]).status, 401);
    }
    for number in 0..10 {
        let wrong = format!("alice:wrong{number}");
        assert_eq!(curl.request("/v2/", &["--user", &wrong]).status, 401);
    }
    for path in ["/v2/", "/v2/team/app/tags/list", "/v2/_catalog"] {
        let response = curl.request_as_user(path, &[]);
        assert_eq!(response.status, 429, "{response:?}");
    }
}

/// The number of lines that match the filter of fail2ban.
fn matched(lab: &Lab, log: &Path) -> usize {
    let filter = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/fail2ban/filter.conf");
    let mut command = lab.command("fail2ban-regex");
    let output = run(command.arg(log).arg(filter)).succeeds();
    let lines = output
        .lines()
        .find(|line| line.starts_with("Lines:"))
        .unwrap();
    let words: Vec<_> = lines.split([' ', ',']).collect();
    let at = words.iter().position(|word| *word == "matched").unwrap();
    words[at - 1].parse().unwrap()
}
