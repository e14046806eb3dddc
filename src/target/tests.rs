//! Tests of request targets: hosts, forms of the target, canonical paths, queries.

use http::Request;
use proptest::prelude::*;

use super::*;

fn parts(version: Version, method: &str, uri: &str, hosts: &[&str]) -> Parts {
    let mut request = Request::builder().version(version).method(method).uri(uri);
    for host in hosts {
        request = request.header(HOST, HeaderValue::from_bytes(host.as_bytes()).unwrap());
    }
    request.body(()).unwrap().into_parts().0
}

fn http1(uri: &str, hosts: &[&str]) -> Result<Target, Error> {
    Target::parse(&parts(Version::HTTP_11, "GET", uri, hosts))
}

fn http2(uri: &str, hosts: &[&str]) -> Result<Target, Error> {
    Target::parse(&parts(Version::HTTP_2, "GET", uri, hosts))
}

#[test]
fn host_is_normalised_and_authority_is_not() {
    let cases = [
        ("example.com", "example.com", None),
        ("EXAMPLE.com.", "example.com", None),
        ("Example.Com:5000", "example.com", Some(5000)),
        ("my_host-1.lan.:1", "my_host-1.lan", Some(1)),
        ("localhost:65535", "localhost", Some(65535)),
        ("127.0.0.1:443", "127.0.0.1", Some(443)),
        ("[::1]", "::1", None),
        // An empty port means no port. The authority keeps the colon.
        ("localhost:", "localhost", None),
        ("my.lan.:", "my.lan", None),
        ("[::1]:", "::1", None),
        ("[0:0:0:0:0:0:0:1]:5000", "::1", Some(5000)),
        ("[FE80::ABCD]:8443", "fe80::abcd", Some(8443)),
    ];
    for (sent, host, port) in cases {
        let target = http1("/", &[sent]).unwrap();
        assert_eq!((target.host(), target.port()), (host, port), "{sent}");
        assert_eq!(
            (target.authority(), target.host_header().as_bytes()),
            (sent, sent.as_bytes())
        );
    }
}

#[test]
fn host_outside_the_grammar_is_rejected() {
    let cases = [
        "",
        ".",
        "..",
        ".a",
        "a..b",
        "a..",
        "a b",
        "a,b",
        "a/b",
        "a@b",
        "user:pw@a",
        "a::",
        ":",
        ":80",
        "a:0",
        "a:65536",
        "a:+80",
        "a:-1",
        "a:8o",
        "a:000080",
        "a:80:80",
        "::1",
        "[::1",
        "::1]",
        "[::1]80",
        "[::1]::",
        "[]",
        "[1.2.3.4]",
        "[fe80::1%25eth0]",
        "[v1.x]",
        "a%41",
        "a\tb",
        "ä.example",
        "a?b",
        "a#b",
        "a\\b",
        "*",
        "a*",
    ];
    for sent in cases {
        assert_eq!(http1("/", &[sent]).unwrap_err(), Error::Host, "{sent:?}");
    }
}

#[test]
fn exactly_one_host_in_http1() {
    for version in [Version::HTTP_10, Version::HTTP_11] {
        assert_eq!(
            Target::parse(&parts(version, "GET", "/", &[])).unwrap_err(),
            Error::NoHost
        );
        assert_eq!(
            Target::parse(&parts(version, "GET", "http://a/", &[])).unwrap_err(),
            Error::NoHost
        );
        assert_eq!(
            Target::parse(&parts(version, "GET", "/", &["a", "a"])).unwrap_err(),
            Error::SeveralHosts
        );
        assert_eq!(
            Target::parse(&parts(version, "GET", "/", &["a", "b"])).unwrap_err(),
            Error::SeveralHosts
        );
    }
}

#[test]
fn absolute_target_must_agree_with_host() {
    let good = [
        ("http://a/v2/", "a"),
        ("http://A.Example/v2/", "a.example"),
        ("http://a:80/v2/", "a"),
        ("http://a/v2/", "a:80"),
        ("https://a:443/v2/", "a"),
        ("http://a./v2/", "a"),
        ("http://a:/v2/", "a"),
        ("http://a/v2/", "a:"),
        ("http://a:80/v2/", "a:"),
        ("https://[::1]:5000/v2/", "[0::1]:5000"),
    ];
    for (uri, host) in good {
        let target = http1(uri, &[host]).unwrap();
        assert_eq!(
            (target.authority(), target.raw_path()),
            (host, "/v2/"),
            "{uri} {host}"
        );
    }
    for (uri, host) in good {
        assert_eq!(http1(uri, &[host]).unwrap().overridden_host(), None);
    }
    // `service` decides whether both names belong to one site; the request target takes precedence then.
    let overriding = [
        ("http://b/", "a", "b", "a"),
        ("http://a:81/", "a", "a:81", "a"),
        ("http://a:443/", "A.", "a:443", "a"),
        ("https://a:80/", "a:443", "a:80", "a"),
        ("https://B:/", "[::1]:1", "B:", "::1"),
    ];
    for (uri, host, authority, overridden) in overriding {
        let target = http1(uri, &[host]).unwrap();
        assert_eq!(target.authority(), authority, "{uri} {host}");
        assert_eq!(target.host_header().as_bytes(), authority.as_bytes());
        assert_eq!(target.overridden_host(), Some(overridden), "{uri} {host}");
    }
    assert_eq!(http1("http://a/", &["b b"]).unwrap_err(), Error::Host);
    assert_eq!(http1("http://user@a/", &["a"]).unwrap_err(), Error::Host);
}

#[test]
fn absolute_target_without_a_path_is_the_root() {
    let target = http1("http://a?x=1", &["a"]).unwrap();
    assert_eq!(
        (target.raw_path(), target.path(), target.query()),
        ("/", "/", Some("x=1"))
    );
}

#[test]
fn only_paths_are_targets() {
    assert_eq!(http1("*", &["a"]).unwrap_err(), Error::Form);
    assert_eq!(
        Target::parse(&parts(Version::HTTP_11, "OPTIONS", "*", &["a"])).unwrap_err(),
        Error::Form
    );
    assert_eq!(http1("a:443", &["a:443"]).unwrap_err(), Error::Form);
    assert_eq!(http1("ftp://a/", &["a"]).unwrap_err(), Error::Form);
    for (version, uri) in [
        (Version::HTTP_11, "a:443"),
        (Version::HTTP_11, "/"),
        (Version::HTTP_2, "a:443"),
    ] {
        assert_eq!(
            Target::parse(&parts(version, "CONNECT", uri, &["a:443"])).unwrap_err(),
            Error::Form
        );
    }
    assert_eq!(http2("*", &["a"]).unwrap_err(), Error::Form);
}

#[test]
fn http2_takes_the_pseudo_header_and_falls_back_to_host() {
    let target = http2("https://Example.com:8443/x", &[]).unwrap();
    assert_eq!(
        (target.authority(), target.host(), target.port()),
        ("Example.com:8443", "example.com", Some(8443))
    );
    assert_eq!(http2("/x", &["a:1"]).unwrap().authority(), "a:1");
    let empty_port = http2("https://a:/x", &[]).unwrap();
    assert_eq!(
        (empty_port.authority(), empty_port.host(), empty_port.port()),
        ("a:", "a", None)
    );
    assert_eq!(http2("https://a:/x", &["a"]).unwrap().authority(), "a:");
    assert_eq!(http2("https://a/x", &["A"]).unwrap().authority(), "a");
    assert_eq!(http2("https://a/x", &["a:443"]).unwrap().authority(), "a");
    assert_eq!(
        http2("https://a/x", &["b"]).unwrap_err(),
        Error::Contradiction
    );
    assert_eq!(
        http2("https://a/x", &["a:80"]).unwrap_err(),
        Error::Contradiction
    );
    assert_eq!(
        http2("https://a/x", &["a", "a"]).unwrap_err(),
        Error::SeveralHosts
    );
    assert_eq!(http2("https://u@a/x", &[]).unwrap_err(), Error::Host);
    assert_eq!(http2("/x", &[]).unwrap_err(), Error::NoHost);
}

#[test]
fn canonical_path_is_decoded_once_and_merged() {
    let cases = [
        ("/", "/"),
        ("//", "/"),
        ("/a//b///", "/a/b/"),
        ("//v2/", "/v2/"),
        ("/%761", "/v1"),
        ("/v2/secret%2Frepo", "/v2/secret/repo"),
        ("/v2%2F%2fx", "/v2/x"),
        ("/c/a%252Fb", "/c/a%2Fb"),
        ("/%252e%252e/x", "/%2e%2e/x"),
        ("/a%20b%3F%23", "/a b?#"),
        ("/%C3%BC", "/ü"),
        ("/x%ff%C3%BC%C3", "/x%FF\u{fc}%C3"),
        ("/...", "/..."),
        ("/.well-known/x", "/.well-known/x"),
        ("/a;b=c/..d;.", "/a/..d"),
        ("/a/;b", "/a/"),
        ("/;/a%3bb", "/a"),
        ("/a%2Fb;x/c", "/a/b/c"),
        ("/a+b~", "/a+b~"),
    ];
    for (raw, path) in cases {
        let target = http1(raw, &["a"]).unwrap();
        assert_eq!((target.path(), target.raw_path()), (path, raw));
    }
}

#[test]
fn path_outside_the_grammar_is_rejected() {
    let cases = [
        "/.",
        "/..",
        "/a/../b",
        "/a/./b",
        "/a/%2e%2e/b",
        "/a/.%2E",
        "/%2e",
        "/a%2F..%2Fb",
        "/a%2f%2e%2e",
        "/..;/x",
        "/..;x=1/x",
        "/.;/x",
        "/a/..%3bx/b",
        "/a;x=%2Fb/c",
        "/a;%2f",
        "/a%3Bx%2Fb/c",
        "/a%2Fb;x%2Fc",
        "/;%2Fa",
        "/..%5Cx",
        "/a%5c..",
        "/a%5Cb",
        "/a%5cb",
        "/%5C",
        "/a/%5C/b",
        "/a%5C%2Fb",
        "/a;%5C",
        "/v2%5Ca",
        "/%",
        "/%4",
        "/%zz",
        "/%+1",
        "/a%00",
        "/a%0d%0a",
        "/%7f",
        "/%1F",
        "/%C2%85",
        "/a\\b",
        "/ü",
    ];
    for raw in cases {
        assert!(
            matches!(http1(raw, &["a"]).unwrap_err(), Error::Path(_)),
            "{raw}"
        );
    }
    // `Uri` rejects these before the function is called.
    for raw in ["/a b", "/a#b", "/a\x7f", "/a\tb"] {
        assert!(
            matches!(canonical(raw).unwrap_err(), Error::Path(_)),
            "{raw:?}"
        );
    }
}

#[test]
fn the_rest_after_a_prefix_is_kept_as_sent() {
    for (uri, prefix, rest) in [
        ("/ui/x%2Fy", "/ui", Some("/x%2Fy")),
        ("/ui", "/ui", Some("")),
        ("/ui//x", "/ui", Some("//x")),
        ("//ui/x", "/ui", Some("/x")),
        ("/;a/%75i;b/x;c", "/ui", Some("/x;c")),
        ("/a%2Fb/c", "/a/b", Some("/c")),
        ("/a//b", "/a/b", Some("")),
        ("//x", "", Some("//x")),
        ("/uix", "/ui", None),
        ("/u/i", "/ui", None),
        ("/ui%2Fx", "/ui", None),
        ("/ui%2F/x", "/ui", None),
        ("/other/ui/x", "/ui", None),
    ] {
        let target = http1(uri, &["a"]).unwrap();
        assert_eq!(target.strip_prefix(prefix), rest, "{uri}");
    }
}

/// A client chooses how many segments a path has. A search that reads the path again for each of them would occupy a worker for
/// seconds.
#[test]
fn a_prefix_after_many_empty_segments_is_found_in_linear_time() {
    let empty_segments = "/;".repeat(30_000);
    let target = http1(&format!("{empty_segments}/ui/x"), &["a"]).unwrap();
    let began = std::time::Instant::now();
    assert_eq!(target.strip_prefix("/ui"), Some("/x"));
    assert_eq!(target.strip_prefix("/other"), None);
    let took = began.elapsed();
    assert!(took < std::time::Duration::from_secs(2), "{took:?}");
}

#[test]
fn query_is_kept_as_sent_or_rejected() {
    let target = http1("/x?a=%zz&b=;c//..\\", &["a"]).unwrap();
    assert_eq!(target.query(), Some("a=%zz&b=;c//..\\"));
    assert_eq!(http1("/x?", &["a"]).unwrap().query(), Some(""));
    assert_eq!(http1("/x", &["a"]).unwrap().query(), None);
    for query in ["a b", "ü", "a#b", "\x7f"] {
        assert!(
            matches!(check_query(query).unwrap_err(), Error::Query(_)),
            "{query:?}"
        );
    }
}

proptest! {
    #[test]
    fn canonical_paths_have_no_dots_and_no_double_slashes(raw in "/([a./%;2eEfF5cC\\\\]|%2e|%2F|%5c|\\.\\.){0,16}") {
        if is_canonical(&raw) {
            prop_assert_eq!(canonical(&raw), Ok(raw.clone()));
        }
        if let Ok(path) = canonical(&raw) {
            prop_assert!(path.starts_with('/') && !path.contains("//"));
            prop_assert!(path.split(['/', '\\']).all(|segment| segment != "." && segment != ".."));
            prop_assert!(!path.contains('\\'));
        }
    }

    #[test]
    fn no_host_panics_and_every_accepted_one_is_stable(host in "[\\[\\]a-cA:.0-9@,_-]{0,12}|\\PC{0,8}") {
        if let Some(name) = HostPort::parse(&host) {
            let again = if name.host.contains(':') { format!("[{}]", name.host) } else { name.host.clone() };
            prop_assert_eq!(HostPort::parse(&again), Some(HostPort { port: None, ..name }));
        }
    }

    #[test]
    fn every_head_is_parsed_or_rejected(uri in "\\PC{0,24}", host in "\\PC{0,12}") {
        crate::fuzzing::parsers::check_target(format!("{uri}\n{host}").as_bytes());
        let request = Request::builder().uri(uri.as_str()).header(HOST, host.as_str()).body(());
        if let Ok(request) = request
            && let Ok(target) = Target::parse(&request.into_parts().0)
        {
            prop_assert_eq!(target.authority(), host.as_str());
            prop_assert!(target.path().starts_with('/'));
        }
    }

    #[test]
    fn fragments_never_reach_a_path(path in "/[a-z./%]{0,8}", fragment in "[ -~]{0,8}") {
        if let Ok(target) = http1(&format!("{path}#{fragment}"), &["a"]) {
            prop_assert_eq!((target.raw_path(), target.query()), (path.as_str(), None));
        }
    }
}
