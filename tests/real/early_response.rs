//! Early responses over HTTP/2: while curl sends 256 MiB, the proxy responds, and curl prints the status in every attempt.
//!
//! If RST_STREAM arrives together with the response, curl 7.88 (Debian 12) exits with code 92 and prints no status.

use std::path::Path;

use crate::lab::{Curl, Lab, MIB, PASSWORD, USER};

const TRIES: usize = 10;

/// Uploads the file [`TRIES`] times and returns the statuses that curl printed.
fn statuses(curl: &Curl<'_>, file: &Path, options: &[&str]) -> Vec<u16> {
    let upload = [
        "--upload-file",
        file.to_str().unwrap(),
        "--request",
        "PATCH",
    ];
    let options = [&upload[..], options].concat();
    (0..TRIES)
        .map(|_| {
            curl.request("/v2/team/app/blobs/uploads/u", &options)
                .status
        })
        .collect()
}

/// With and without a Content-Length.
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
        let options = [&["--user", &login], framing].concat();
        assert_eq!(
            statuses(&curl, &file, &options),
            [403; TRIES],
            "{framing:?}"
        );
    }
}

#[test]
fn curl_prints_413() {
    let lab = Lab::configured("basic", "max_body = \"1MiB\"");
    let curl = Curl::new(&lab, "--http2");
    let file = curl.random_file("big", 256 * MIB);
    let login = format!("{USER}:{PASSWORD}");
    let options = ["--user", &login];
    assert_eq!(statuses(&curl, &file, &options), [413; TRIES]);
}

#[test]
fn curl_prints_429() {
    let lab = Lab::start();
    let curl = Curl::new(&lab, "--http2");
    for guess in 0..10 {
        let response = curl.request("/v2/", &["--user", &format!("alice:guess-{guess}")]);
        assert_eq!(response.status, 401, "{response:?}");
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

/// The upload does not exist, and the registry responds with 404 before the body has arrived.
#[test]
fn curl_prints_404_of_the_registry() {
    let lab = Lab::start();
    let curl = Curl::new(&lab, "--http2");
    let file = curl.random_file("big", 256 * MIB);
    let login = format!("{USER}:{PASSWORD}");
    assert_eq!(statuses(&curl, &file, &["--user", &login]), [404; TRIES]);
}
