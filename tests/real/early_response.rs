//! Early responses over HTTP/2, to curl that is in the middle of sending 256 MiB: it prints the status, every time.
//!
//! curl 7.88 (Debian 12) exits with 92 and without a status when the reset of the stream comes with the response.

use std::path::Path;

use crate::lab::{Curl, Lab, MIB, PASSWORD, USER};

const TRIES: usize = 10;

/// Ten uploads of the file; the statuses that curl printed.
fn statuses(curl: &Curl<'_>, file: &Path, options: &[&str]) -> Vec<u16> {
    let upload = [
        "--upload-file",
        file.to_str().unwrap(),
        "--request",
        "PATCH",
    ];
    let options = [&upload[..], options].concat();
    (0..TRIES)
        .map(|_| curl.ask("/v2/team/app/blobs/uploads/u", &options).status)
        .collect()
}

/// With a length that is announced, and without.
const FRAMINGS: [&[&str]; 2] = [&[], &["--header", "Content-Length:"]];

#[test]
fn curl_prints_401() {
    let lab = Lab::start();
    let curl = Curl::new(&lab, "--http2");
    let file = curl.random_file("big", 256 * MIB);
    for framing in FRAMINGS {
        let wrong = [&["--user", "alice:wrong"], framing].concat();
        assert_eq!(statuses(&curl, &file, &wrong), [401; TRIES], "{framing:?}");
        assert_eq!(statuses(&curl, &file, framing), [401; TRIES], "{framing:?}");
    }
}

#[test]
fn curl_prints_403() {
    let grant =
        "[[site.route.grant]]\nto = [\"alice\"]\nrepositories = [\"**\"]\nactions = [\"pull\"]";
    let lab = Lab::configured("basic", grant);
    let curl = Curl::new(&lab, "--http2");
    let file = curl.random_file("big", 256 * MIB);
    let login = format!("{USER}:{PASSWORD}");
    for framing in FRAMINGS {
        let known = [&["--user", &login], framing].concat();
        assert_eq!(statuses(&curl, &file, &known), [403; TRIES], "{framing:?}");
    }
}

#[test]
fn curl_prints_413() {
    let lab = Lab::configured("basic", "max_body = \"1MiB\"");
    let curl = Curl::new(&lab, "--http2");
    let file = curl.random_file("big", 256 * MIB);
    let login = format!("{USER}:{PASSWORD}");
    let known = ["--user", &login];
    assert_eq!(statuses(&curl, &file, &known), [413; TRIES]);
}

#[test]
fn curl_prints_429() {
    let lab = Lab::start();
    let curl = Curl::new(&lab, "--http2");
    for guess in 0..10 {
        let reply = curl.ask("/v2/", &["--user", &format!("alice:guess-{guess}")]);
        assert_eq!(reply.status, 401, "{reply:?}");
    }
    let file = curl.random_file("big", 256 * MIB);
    for framing in FRAMINGS {
        let another = [&["--user", "alice:another"], framing].concat();
        assert_eq!(
            statuses(&curl, &file, &another),
            [429; TRIES],
            "{framing:?}"
        );
    }
}

/// The registry knows no such upload, and says so before the body has come.
#[test]
fn curl_prints_what_the_registry_said_early() {
    let lab = Lab::start();
    let curl = Curl::new(&lab, "--http2");
    let file = curl.random_file("big", 256 * MIB);
    let login = format!("{USER}:{PASSWORD}");
    assert_eq!(statuses(&curl, &file, &["--user", &login]), [404; TRIES]);
}
