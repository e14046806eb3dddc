//! The `Authorization` field: which values are accepted as credentials, and that all other values get the same response.

use base64ct::{Base64, Base64Unpadded, Base64Url, Encoding};

use crate::support::proxy::{ALICE, directory};
use crate::support::{
    Client, HttpVersion, Proxy, Registry, TestRequest, TestResponse, config, exchange,
};

#[test]
fn valid_credentials_in_all_accepted_encodings_get_200() {
    let registry = Registry::accepting_all();
    let proxy = start_proxy(&registry);
    let fields = [
        basic_authorization(b"alice:pw"),
        basic_authorization(b"bob:pass:word"),
        basic_authorization(b"empty:"),
        basic_authorization("jürgen:päss".as_bytes()),
        basic_authorization(b"m\xfcller:p\xe4ss"),
        format!("bAsIc   {}", Base64::encode_string(b"alice:pw")),
        format!("BASIC {}", Base64::encode_string(b"alice:pw")),
        format!("Basic {}", Base64Unpadded::encode_string(b"empty:")),
        format!("Basic {}", Base64Unpadded::encode_string(b"bob:pass:word")),
    ];
    for http in HttpVersion::BOTH {
        for field in &fields {
            let response = exchange(&proxy, http, &request_with_authorization(field));
            assert_eq!(response.status, 200, "{field}");
        }
    }
    for seen in registry.requests() {
        assert!(seen.all("authorization").is_empty(), "{seen:?}");
        let all = format!("{seen:?}");
        assert!(!all.contains("pw") && !all.contains("YWxpY2U6"), "{all}");
    }
}

#[test]
fn all_other_values_get_the_same_401() {
    let registry = Registry::accepting_all();
    let proxy = start_proxy(&registry);
    let valid = Base64::encode_string(b"alice:pw");
    let invalid_fields = [
        String::new(),
        "Basic".to_owned(),
        "Basic ".to_owned(),
        "Bearer x".to_owned(),
        format!("Bearer {valid}"),
        format!("Basic\t{valid}"),
        format!("Basic{valid}"),
        format!("Basic {valid} x"),
        format!("Basic {valid}x"),
        format!("Basic {valid}, Basic {valid}"),
        format!("Basic {valid}\u{e4}"),
        format!(
            "Basic {}",
            Base64Url::encode_string(b"bob\xff\xfe:\xff\xfe\xfd")
        ),
        "Basic Og==".to_owned(),
        basic_authorization(b":pw"),
        basic_authorization(b"alice"),
        basic_authorization(b"alice:"),
        basic_authorization(b"alice:pw "),
        basic_authorization(b"alice:pw\0"),
        basic_authorization(b"Alice:pw"),
        basic_authorization(b" alice:pw"),
        basic_authorization(b"nobody:pw"),
        basic_authorization(b"j\xfcrgen:p\xe4ss"),
        basic_authorization("müller:päss".as_bytes()),
        // Decomposed umlauts are different bytes.
        basic_authorization("ju\u{308}rgen:pa\u{308}ss".as_bytes()),
        basic_authorization(ALICE.trim_end().as_bytes()),
        basic_authorization(&[b'a'; 2000]),
    ];
    for http in HttpVersion::BOTH {
        let without_credentials = exchange(&proxy, http, &TestRequest::new("GET", "/v2/"));
        without_credentials.assert_rejection(401, "UNAUTHORIZED");
        let head_without_credentials = exchange(&proxy, http, &TestRequest::new("HEAD", "/v2/"));
        for field in &invalid_fields {
            let response = exchange(&proxy, http, &request_with_authorization(field));
            assert_eq!(
                response.without_request_id(),
                without_credentials.without_request_id(),
                "{field:?}"
            );
            let mut head_request = request_with_authorization(field);
            head_request.method = "HEAD".to_owned();
            let response = exchange(&proxy, http, &head_request);
            assert_eq!(
                response.without_request_id(),
                head_without_credentials.without_request_id(),
                "{field:?}"
            );
        }
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn without_credentials_an_existing_repository_looks_like_a_missing_one() {
    let registry = Registry::accepting_all();
    let proxy = start_proxy(&registry);
    for http in HttpVersion::BOTH {
        let ping = exchange(&proxy, http, &TestRequest::new("GET", "/v2/"));
        for target in [
            "/v2/team/app/tags/list",
            "/v2/Not/A/Name/tags/list",
            "/v2/none",
            "/v2/_catalog?n=x&n=y",
        ] {
            let response = exchange(&proxy, http, &TestRequest::new("GET", target));
            assert_eq!(
                response.without_request_id(),
                ping.without_request_id(),
                "{target}"
            );
        }
    }
}

#[test]
fn two_authorization_fields_get_400() {
    let registry = Registry::accepting_all();
    let proxy = start_proxy(&registry);
    let (valid, invalid) = (
        basic_authorization(b"alice:pw"),
        basic_authorization(b"alice:no"),
    );
    for http in HttpVersion::BOTH {
        for (first, second) in [(&valid, &invalid), (&invalid, &valid), (&valid, &valid)] {
            let response = exchange(
                &proxy,
                http,
                &request_with_authorization(first).header("authorization", second),
            );
            response.assert_rejection(400, "UNAUTHORIZED");
        }
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn credentials_in_other_fields_get_401() {
    let registry = Registry::accepting_all();
    let proxy = start_proxy(&registry);
    let valid = basic_authorization(b"alice:pw");
    for http in HttpVersion::BOTH {
        for name in [
            "proxy-authorization",
            "authorization_",
            "x-authorization",
            "cookie",
        ] {
            let response = exchange(
                &proxy,
                http,
                &TestRequest::new("GET", "/v2/").header(name, &valid),
            );
            response.assert_rejection(401, "UNAUTHORIZED");
        }
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn credentials_in_trailers_get_401() {
    let registry = Registry::accepting_all();
    let proxy = start_proxy(&registry);
    let mut client = Client::connect(&proxy);
    client.send(
        TestRequest::new("PATCH", "/v2/a/blobs/uploads/u")
            .chunked()
            .head(),
    );
    let trailer = format!(
        "1\r\nx\r\n0\r\nAuthorization: {}\r\n\r\n",
        basic_authorization(b"alice:pw")
    );
    let _ = client.try_send(trailer);
    client
        .read_response("PATCH")
        .assert_rejection(401, "UNAUTHORIZED");
    assert!(registry.requests().is_empty());
}

#[test]
fn a_huge_authorization_field_gets_431() {
    let registry = Registry::accepting_all();
    let proxy = start_proxy(&registry);
    let huge = basic_authorization(&vec![b'a'; 48 * 1024]);
    for http in HttpVersion::BOTH {
        let response = exchange(&proxy, http, &request_with_authorization(&huge));
        assert_eq!(response.status, 431);
        assert!(!response.has_header("www-authenticate"));
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn every_request_of_a_connection_needs_credentials() {
    let registry = Registry::accepting_all();
    let proxy = start_proxy(&registry);
    let mut client = Client::connect(&proxy);
    let statuses: Vec<u16> = [
        TestRequest::alice("GET", "/v2/"),
        TestRequest::new("GET", "/v2/"),
        TestRequest::alice("GET", "/v2/"),
        request_with_authorization(&basic_authorization(b"alice:no")),
    ]
    .iter()
    .map(|request| client.exchange(request))
    .map(|response: TestResponse| response.status)
    .collect();
    assert_eq!(statuses, [200, 401, 200, 401]);
    assert_eq!(registry.requests().len(), 2);
}

/// A proxy with alice, and with users whose names and passwords are empty, have a colon, or are not ASCII.
fn start_proxy(registry: &Registry) -> Proxy {
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

fn basic_authorization(credentials: &[u8]) -> String {
    format!("Basic {}", Base64::encode_string(credentials))
}

fn request_with_authorization(field: &str) -> TestRequest {
    TestRequest::new("GET", "/v2/").header("authorization", field)
}
