//! The `Authorization` field: what is read as credentials, and that all else gets one and the same answer.

use base64ct::{Base64, Base64Unpadded, Base64Url, Encoding};

use crate::support::proxy::{ALICE, directory};
use crate::support::{
    Client, HttpVersion, Proxy, Registry, TestRequest, TestResponse, config, exchange,
};

#[test]
fn what_clients_send_logs_in() {
    let registry = Registry::accepting_all();
    let proxy = gate(&registry);
    let fields = [
        basic(b"alice:pw"),
        basic(b"bob:pass:word"),
        basic(b"empty:"),
        basic("jürgen:päss".as_bytes()),
        basic(b"m\xfcller:p\xe4ss"),
        format!("bAsIc   {}", Base64::encode_string(b"alice:pw")),
        format!("BASIC {}", Base64::encode_string(b"alice:pw")),
        format!("Basic {}", Base64Unpadded::encode_string(b"empty:")),
        format!("Basic {}", Base64Unpadded::encode_string(b"bob:pass:word")),
    ];
    for http in HttpVersion::BOTH {
        for field in &fields {
            let answer = exchange(&proxy, http, &with(field));
            assert_eq!(answer.status, 200, "{field}");
        }
    }
    for seen in registry.requests() {
        assert!(seen.all("authorization").is_empty(), "{seen:?}");
        let all = format!("{seen:?}");
        assert!(!all.contains("pw") && !all.contains("YWxpY2U6"), "{all}");
    }
}

#[test]
fn everything_else_gets_the_same_bytes() {
    let registry = Registry::accepting_all();
    let proxy = gate(&registry);
    let right = Base64::encode_string(b"alice:pw");
    let junk = [
        String::new(),
        "Basic".to_owned(),
        "Basic ".to_owned(),
        "Bearer x".to_owned(),
        format!("Bearer {right}"),
        format!("Basic\t{right}"),
        format!("Basic{right}"),
        format!("Basic {right} x"),
        format!("Basic {right}x"),
        format!("Basic {right}, Basic {right}"),
        format!("Basic {right}\u{e4}"),
        format!(
            "Basic {}",
            Base64Url::encode_string(b"bob\xff\xfe:\xff\xfe\xfd")
        ),
        "Basic Og==".to_owned(),
        basic(b":pw"),
        basic(b"alice"),
        basic(b"alice:"),
        basic(b"alice:pw "),
        basic(b"alice:pw\0"),
        basic(b"Alice:pw"),
        basic(b" alice:pw"),
        basic(b"nobody:pw"),
        basic(b"j\xfcrgen:p\xe4ss"),
        basic("müller:päss".as_bytes()),
        // Decomposed umlauts are other bytes.
        basic("ju\u{308}rgen:pa\u{308}ss".as_bytes()),
        basic(ALICE.trim_end().as_bytes()),
        basic(&[b'a'; 2000]),
    ];
    for http in HttpVersion::BOTH {
        let nothing = exchange(&proxy, http, &TestRequest::new("GET", "/v2/"));
        nothing.assert_rejection(401, "UNAUTHORIZED");
        let head = exchange(&proxy, http, &TestRequest::new("HEAD", "/v2/"));
        for field in &junk {
            let answer = exchange(&proxy, http, &with(field));
            assert_eq!(
                answer.without_request_id(),
                nothing.without_request_id(),
                "{field:?}"
            );
            let mut same = with(field);
            same.method = "HEAD".to_owned();
            let answer = exchange(&proxy, http, &same);
            assert_eq!(
                answer.without_request_id(),
                head.without_request_id(),
                "{field:?}"
            );
        }
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn a_repository_that_exists_looks_like_one_that_does_not() {
    let registry = Registry::accepting_all();
    let proxy = gate(&registry);
    for http in HttpVersion::BOTH {
        let ping = exchange(&proxy, http, &TestRequest::new("GET", "/v2/"));
        for target in [
            "/v2/team/app/tags/list",
            "/v2/Not/A/Name/tags/list",
            "/v2/none",
            "/v2/_catalog?n=x&n=y",
        ] {
            let answer = exchange(&proxy, http, &TestRequest::new("GET", target));
            assert_eq!(
                answer.without_request_id(),
                ping.without_request_id(),
                "{target}"
            );
        }
    }
}

#[test]
fn two_fields_are_a_bad_request() {
    let registry = Registry::accepting_all();
    let proxy = gate(&registry);
    let (right, wrong) = (basic(b"alice:pw"), basic(b"alice:no"));
    for http in HttpVersion::BOTH {
        for (first, second) in [(&right, &wrong), (&wrong, &right), (&right, &right)] {
            let answer = exchange(&proxy, http, &with(first).header("authorization", second));
            answer.assert_rejection(400, "UNAUTHORIZED");
        }
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn other_fields_hold_no_credentials() {
    let registry = Registry::accepting_all();
    let proxy = gate(&registry);
    let right = basic(b"alice:pw");
    for http in HttpVersion::BOTH {
        for name in [
            "proxy-authorization",
            "authorization_",
            "x-authorization",
            "cookie",
        ] {
            let answer = exchange(
                &proxy,
                http,
                &TestRequest::new("GET", "/v2/").header(name, &right),
            );
            answer.assert_rejection(401, "UNAUTHORIZED");
        }
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn credentials_in_trailers_come_too_late() {
    let registry = Registry::accepting_all();
    let proxy = gate(&registry);
    let mut client = Client::connect(&proxy);
    client.send(
        TestRequest::new("PATCH", "/v2/a/blobs/uploads/u")
            .chunked()
            .head(),
    );
    let trailer = format!(
        "1\r\nx\r\n0\r\nAuthorization: {}\r\n\r\n",
        basic(b"alice:pw")
    );
    let _ = client.try_send(trailer);
    client
        .read_response("PATCH")
        .assert_rejection(401, "UNAUTHORIZED");
    assert!(registry.requests().is_empty());
}

#[test]
fn a_huge_field_is_refused_before_it_is_read() {
    let registry = Registry::accepting_all();
    let proxy = gate(&registry);
    let huge = basic(&vec![b'a'; 48 * 1024]);
    for http in HttpVersion::BOTH {
        let answer = exchange(&proxy, http, &with(&huge));
        assert_eq!(answer.status, 431);
        assert!(!answer.has_header("www-authenticate"));
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn every_request_of_a_connection_proves_itself() {
    let registry = Registry::accepting_all();
    let proxy = gate(&registry);
    let mut client = Client::connect(&proxy);
    let statuses: Vec<u16> = [
        TestRequest::alice("GET", "/v2/"),
        TestRequest::new("GET", "/v2/"),
        TestRequest::alice("GET", "/v2/"),
        with(&basic(b"alice:no")),
    ]
    .iter()
    .map(|request| client.exchange(request))
    .map(|answer: TestResponse| answer.status)
    .collect();
    assert_eq!(statuses, [200, 401, 200, 401]);
    assert_eq!(registry.requests().len(), 2);
}

/// Alice, and users whose names and passwords are no plain words.
fn gate(registry: &Registry) -> Proxy {
    let dir = directory();
    let mut users = ALICE.as_bytes().to_vec();
    let others: [(&[u8], &[u8]); 4] = [
        (b"bob", b"pass:word"),
        (b"empty", b""),
        ("jürgen".as_bytes(), "päss".as_bytes()),
        (b"m\xfcller", b"p\xe4ss"),
    ];
    for (user, password) in others {
        let hash = bcrypt::hash(password, 4).unwrap();
        users.extend([user, b":", hash.as_bytes(), b"\n"].concat());
    }
    std::fs::write(dir.path().join("htpasswd"), users).unwrap();
    Proxy::start_in(dir, &registry.url(), config("", ""))
}

fn basic(credentials: &[u8]) -> String {
    format!("Basic {}", Base64::encode_string(credentials))
}

fn with(field: &str) -> TestRequest {
    TestRequest::new("GET", "/v2/").header("authorization", field)
}
