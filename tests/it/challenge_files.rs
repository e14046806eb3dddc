//! `respond.files`: the files of an ACME client beside the proxy, over plain HTTP and nothing else.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::support::{Client, HttpVersion, Proxy, Registry, TestRequest, config, exchange};

const BELOW: &str = "/.well-known/acme-challenge";

/// A proxy whose ACME client has `webroot`, and the directory of its files.
fn start(registry: &Registry) -> (Proxy, PathBuf) {
    let text = config("", "")
        .after("https", "http = [\"127.0.0.1:0\"]\npublic_port = 443")
        .append(&format!(
            "[[site.route]]\npath = \"{BELOW}/\"\nrespond = {{ files = \"{{dir}}/webroot\" }}\n"
        ));
    let proxy = Proxy::start(registry, text);
    let files = proxy.path("webroot").join(&BELOW[1..]);
    fs::create_dir_all(&files).unwrap();
    (proxy, files)
}

fn get(proxy: &Proxy, target: &str) -> (u16, Vec<u8>) {
    let answer = Client::plain(proxy.http()).exchange(&TestRequest::new("GET", target));
    (answer.status, answer.body)
}

#[test]
fn a_challenge_file_is_served_over_plain_http() {
    let registry = Registry::accepting_all();
    let (proxy, files) = start(&registry);
    let content =
        b"LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI";
    let token = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0";
    fs::write(files.join(token), content).unwrap();
    let target = format!("{BELOW}/{token}");
    assert_eq!(get(&proxy, &target), (200, content.to_vec()));
    // A query is no part of the name.
    assert_eq!(get(&proxy, &format!("{target}?x")).0, 200);
    let answer = Client::plain(proxy.http()).exchange(&TestRequest::new("HEAD", &target));
    assert_eq!(answer.header("content-length"), content.len().to_string());
    assert_eq!(answer.header("content-type"), "application/octet-stream");
    for http in HttpVersion::BOTH {
        assert_eq!(
            exchange(&proxy, http, &TestRequest::new("GET", &target)).status,
            404
        );
    }
    // Other paths and other hosts are as before.
    assert_eq!(get(&proxy, "/x").0, 308);
    assert_eq!(get(&proxy, "/v2/").0, 400);
    let foreign = TestRequest::new("GET", &target).host("evil.test");
    assert_eq!(Client::plain(proxy.http()).exchange(&foreign).status, 421);
    fs::remove_file(files.join(token)).unwrap();
    assert_eq!(get(&proxy, &target).0, 404);
    assert!(registry.requests().is_empty());
}

#[test]
fn nothing_but_a_regular_file_with_the_name_of_a_token_is_served() {
    let registry = Registry::accepting_all();
    let (proxy, files) = start(&registry);
    let webroot = proxy.path("webroot");
    fs::write(files.join("good"), "good").unwrap();
    fs::write(webroot.join("outside"), "secret").unwrap();
    fs::create_dir(files.join("folder")).unwrap();
    fs::write(files.join("folder/inside"), "secret").unwrap();
    fs::write(files.join("with.dot"), "secret").unwrap();
    fs::write(files.join("large"), vec![b'x'; 1025]).unwrap();
    fs::write(files.join("a".repeat(129)), "secret").unwrap();
    symlink(proxy.path("htpasswd"), files.join("link")).unwrap();
    symlink(files.join("good"), files.join("near")).unwrap();
    let pipe = files.join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
    assert_eq!(
        get(&proxy, &format!("{BELOW}/good")),
        (200, b"good".to_vec())
    );
    let long = "a".repeat(129);
    for name in [
        "",
        "folder",
        "folder/inside",
        "with.dot",
        "large",
        &long,
        "link",
        "near",
        "pipe",
        "missing",
        "good/",
        "..",
        "../outside",
        "..%2foutside",
        "%2e%2e/outside",
        "%2e%2e%2foutside",
        "good%00",
        "g%6fod%2f",
        "./good/..",
    ] {
        let (status, body) = get(&proxy, &format!("{BELOW}/{name}"));
        assert!([400, 404, 308].contains(&status), "{name}: {status}");
        assert!(!body.windows(6).any(|part| part == b"secret"), "{name}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let request = TestRequest::new(method, &format!("{BELOW}/good"));
        let answer = Client::plain(proxy.http()).exchange(&request);
        assert_eq!(answer.status, 404, "{method}");
    }
    // A symbolic link in place of a directory of the ACME client.
    let moved = proxy.path("moved");
    fs::rename(webroot.join(".well-known"), &moved).unwrap();
    symlink(&moved, webroot.join(".well-known")).unwrap();
    assert_eq!(get(&proxy, &format!("{BELOW}/good")).0, 404);
}
