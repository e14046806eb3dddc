use super::*;
use crate::net::addr::PeerAddr;
use crate::net::cidr::Networks;

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_str(value).unwrap(),
        );
    }
    map
}

/// Sorted: a map keeps the order of one name's values only.
fn names(headers: &HeaderMap) -> Vec<&str> {
    let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

#[test]
fn a_request_loses_what_is_forged_or_of_the_hop() {
    let mut headers = map(&[
        ("accept", "a"),
        ("accept", "b"),
        ("authorization", "Basic eDp5"),
        ("connection", "close, X-Private"),
        ("connection", "x-other"),
        ("x-private", "1"),
        ("x-other", "1"),
        ("forwarded", "host=evil"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-host", "evil"),
        ("x-forwarded-prefix", "/evil"),
        ("x_forwarded_proto", "gopher"),
        ("x-real-ip", "6.6.6.6"),
        ("x-original-url", "/"),
        ("proxy", "http://evil"),
        ("proxy-authorization", "Basic eDp5"),
        ("te", "trailers"),
        ("expect", "100-continue"),
        ("x-request-id", "mine"),
    ]);
    strip_request(&mut headers, false);
    assert_eq!(names(&headers), ["accept"]);
    assert_eq!(headers.get_all("accept").iter().count(), 2);
}

#[test]
fn authorization_passes_where_the_upstream_checks_it_and_cannot_be_nominated_away() {
    let mut headers = map(&[
        ("authorization", "Bearer x"),
        ("connection", "Authorization, Content-Length"),
    ]);
    headers.insert("content-length", HeaderValue::from(5));
    strip_request(&mut headers, true);
    assert_eq!(headers["authorization"], "Bearer x");
    assert_eq!(headers["content-length"], "5");
}

#[test]
fn our_fields_are_added_after_the_stripping() {
    let mut headers = map(&[
        ("connection", "x-forwarded-proto, host"),
        ("x-forwarded-proto", "http"),
        ("host", "a"),
    ]);
    strip_request(&mut headers, false);
    let client = PeerAddr::new("[2001:db8::1]:5".parse().unwrap()).client();
    let (none, nobody) = (HeaderMap::new(), Networks::default());
    add_request(
        &mut headers,
        HeaderValue::from_static("Reg:8443"),
        &ClientInfo::new(client, &client.header_value(), "https", &none, &nobody),
        "id",
    );
    assert_eq!(headers["host"], "Reg:8443");
    assert_eq!(headers["x-forwarded-proto"], "https");
    assert_eq!(headers["x-forwarded-for"], "2001:db8::1");
    assert_eq!(headers["x-real-ip"], "2001:db8::1");
    assert_eq!(headers["x-request-id"], "id");
}

#[test]
fn cookie_crumbs_become_one_line() {
    let mut headers = map(&[("cookie", "a=1"), ("cookie", "b=2")]);
    strip_request(&mut headers, true);
    let lines: Vec<_> = headers.get_all("cookie").iter().collect();
    assert_eq!(lines, ["a=1; b=2"]);
}

#[test]
fn an_answer_loses_hop_fields_and_keeps_the_rest() {
    let mut headers = map(&[
        ("connection", "keep-alive, x-hop"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("x-accel-redirect", "/etc"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("range", "0-5"),
    ]);
    strip_response(&mut headers);
    assert_eq!(names(&headers), ["range", "set-cookie"]);
    assert_eq!(headers.get_all("set-cookie").iter().count(), 2);
}

#[test]
fn the_api_version_is_there_exactly_once() {
    for fields in [
        &[][..],
        &[("docker-distribution-api-version", "")],
        &[
            ("docker-distribution-api-version", "registry/2.0"),
            ("Docker-Distribution-API-Version", "registry/2.0"),
        ],
    ] {
        let mut headers = map(fields);
        set_api_version(&mut headers);
        let lines: Vec<_> = headers.get_all(API_VERSION).iter().collect();
        assert_eq!(lines, ["registry/2.0"]);
    }
}

#[test]
fn operators_set_and_remove() {
    let mut headers = map(&[("server", "x"), ("x-a", "1")]);
    let edits = vec![
        (HeaderName::from_static("server"), None),
        (
            HeaderName::from_static("strict-transport-security"),
            Some(HeaderValue::from_static("max-age=1")),
        ),
    ];
    edit(&mut headers, &edits);
    assert_eq!(names(&headers), ["strict-transport-security", "x-a"]);
    assert!(
        is_reserved(&header::HOST)
            && is_reserved(&FORWARDED_FOR)
            && is_reserved(&header::TRANSFER_ENCODING)
    );
    assert!(!is_reserved(&header::SERVER));
}

#[test]
fn cookies_become_secure_once() {
    let mut headers = map(&[
        ("set-cookie", "sid=1; Path=/; HttpOnly"),
        ("set-cookie", "csrf=2; secure"),
        ("set-cookie", "secure=3"),
    ]);
    secure_cookies(&mut headers);
    let cookies: Vec<_> = headers.get_all("set-cookie").iter().collect();
    assert_eq!(
        cookies,
        [
            "sid=1; Path=/; HttpOnly; Secure",
            "csrf=2; secure",
            "secure=3; Secure"
        ]
    );
}
