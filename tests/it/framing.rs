//! Requests that two parsers may frame in two ways (request smuggling): the proxy either rejects the bytes or forwards
//! well-formed requests, and never forwards a hidden second request (RFC 9112 sections 6 and 11.2).
//!
//! The upstream is a [`StrictUpstream`], which records every byte. The inner request of a payload has no credentials.

use std::time::Duration;

use crate::support::client::is_timeout;
use crate::support::proxy::directory;
use crate::support::strict_upstream::StrictUpstream;
use crate::support::{Client, Proxy, config};

/// The bytes that a client sends on a connection, and the expected result.
struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    /// The statuses of the responses, in order.
    statuses: &'static [u16],
    /// The requests that arrive at the upstream, in order: `METHOD target`, followed by `+` and the body if there is one.
    forwarded_requests: &'static [&'static str],
    /// Whether the proxy closes the connection after the last response. Otherwise the connection must serve another
    /// request.
    is_closed: bool,
}

const LOGIN: &str = "Authorization: Basic YWxpY2U6cHc=\r\n";
const HOST: &str = "Host: localhost\r\n";
const INNER: &str = "GET /v2/smuggled/tags/list HTTP/1.1\r\nHost: localhost\r\n\r\n";
const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";
const UPLOAD: &str = "POST /v2/a/blobs/uploads/";
const PING: &[&str] = &["GET /v2/"];

/// A valid request, except for `fields` and `body`.
fn request(line: &str, fields: &str, body: &str) -> Vec<u8> {
    format!("{line} HTTP/1.1\r\n{HOST}{LOGIN}{fields}\r\n{body}").into_bytes()
}

fn get(fields: &str) -> Vec<u8> {
    request("GET /v2/", fields, "")
}

fn post(fields: &str, body: &str) -> Vec<u8> {
    request(UPLOAD, fields, body)
}

fn chunked(body: &str) -> Vec<u8> {
    post(CHUNKED, body)
}

/// A case in which the proxy rejects the last request and closes the connection.
fn rejected(name: &'static str, statuses: &'static [u16], bytes: Vec<u8>) -> Case {
    Case {
        name,
        bytes,
        statuses,
        forwarded_requests: &[],
        is_closed: true,
    }
}

/// A case in which the proxy responds itself and keeps the connection open, because the framing is unambiguous.
fn local_response(name: &'static str, statuses: &'static [u16], bytes: Vec<u8>) -> Case {
    Case {
        is_closed: false,
        ..rejected(name, statuses, bytes)
    }
}

/// A case in which the proxy forwards these requests.
fn forwarded(
    name: &'static str,
    forwarded_requests: &'static [&'static str],
    bytes: Vec<u8>,
) -> Case {
    Case {
        forwarded_requests,
        ..local_response(name, &[200], bytes)
    }
}

#[test]
fn ambiguous_content_lengths_and_transfer_codings_are_rejected() {
    let inner = format!("0\r\n\r\n{INNER}");
    let two = format!("Content-Length: 0\r\nContent-Length: {}\r\n", INNER.len());
    let hidden = format!(
        "X: {}\r\nContent-Length: 1\r\nContent-Length: 1\r\n",
        "x".repeat(200)
    );
    let is_body = &["POST /v2/a/blobs/uploads/ + Z"];
    check(vec![
        forwarded("a length", is_body, post("Content-Length: 1\r\n", "Z")),
        forwarded("chunks", is_body, chunked("1\r\nZ\r\n0\r\n\r\n")),
        rejected(
            "length and coding",
            &[400],
            post(&format!("Content-Length: 5\r\n{CHUNKED}"), &inner),
        ),
        rejected(
            "coding and length",
            &[400],
            post(&format!("{CHUNKED}Content-Length: 5\r\n"), &inner),
        ),
        rejected("two lengths", &[400], post(&two, INNER)),
        rejected(
            "two equal lengths",
            &[400],
            post("Content-Length: 1\r\nContent-Length: 1\r\n", "Z"),
        ),
        rejected(
            "two equal lengths after a long field",
            &[400],
            post(&hidden, "Z"),
        ),
        rejected(
            "list of lengths",
            &[400],
            post("Content-Length: 1, 1\r\n", "Z"),
        ),
        rejected("length +1", &[400], post("Content-Length: +1\r\n", "Z")),
        rejected("length 0x1", &[400], post("Content-Length: 0x1\r\n", "Z")),
        rejected("empty length", &[400], post("Content-Length: \r\n", INNER)),
        rejected("length -1", &[400], post("Content-Length: -1\r\n", "")),
        rejected("length 1Z", &[400], post("Content-Length: 1Z\r\n", "Z")),
        rejected("length 1 1", &[400], post("Content-Length: 1 1\r\n", "Z")),
        rejected(
            "length of 20 digits",
            &[400],
            post("Content-Length: 99999999999999999999\r\n", "Z"),
        ),
        rejected(
            "length of 2^64",
            &[400],
            post("Content-Length: 18446744073709551616\r\n", "Z"),
        ),
        rejected(
            "length after 80 spaces",
            &[400],
            post(&format!("Content-Length:{}1\r\n", " ".repeat(80)), "Z"),
        ),
        rejected(
            "length after \\xa0",
            &[400],
            [
                &post("Content-Length: ", "")[..post("Content-Length: ", "").len() - 2],
                b"\xa01\r\n\r\nZ",
            ]
            .concat(),
        ),
        forwarded(
            "length 010",
            &["POST /v2/a/blobs/uploads/ + ZZZZZZZZZZ"],
            post("Content-Length: 010\r\n", "ZZZZZZZZZZ"),
        ),
        rejected(
            "coding gzip, chunked",
            &[501],
            post("Transfer-Encoding: gzip, chunked\r\n", &inner),
        ),
        rejected(
            "coding chunked, gzip",
            &[400],
            post("Transfer-Encoding: chunked, gzip\r\n", &inner),
        ),
        rejected(
            "coding chunked, chunked",
            &[501],
            post("Transfer-Encoding: chunked, chunked\r\n", &inner),
        ),
        rejected(
            "coding , chunked",
            &[501],
            post("Transfer-Encoding: ,chunked\r\n", &inner),
        ),
        rejected(
            "coding chunked,",
            &[400],
            post("Transfer-Encoding: chunked,\r\n", &inner),
        ),
        rejected("coding twice", &[501], post(&CHUNKED.repeat(2), &inner)),
        rejected(
            "coding identity",
            &[400],
            post("Transfer-Encoding: identity\r\n", &inner),
        ),
        rejected(
            "coding identity and chunked",
            &[501],
            post(&format!("Transfer-Encoding: identity\r\n{CHUNKED}"), &inner),
        ),
        rejected(
            "empty coding",
            &[400],
            post("Transfer-Encoding:\r\n", &inner),
        ),
        rejected(
            "coding \"chunked\"",
            &[400],
            post("Transfer-Encoding: \"chunked\"\r\n", &inner),
        ),
        rejected(
            "coding xchunked",
            &[400],
            post(
                "Transfer-Encoding: xchunked\r\nContent-Length: 3\r\n",
                "abc",
            ),
        ),
        rejected(
            "coding \\x0bchunked",
            &[400],
            post(
                "Transfer-Encoding: \x0bchunked\r\nContent-Length: 3\r\n",
                "abc",
            ),
        ),
        rejected(
            "coding \\x0bchunked alone",
            &[400],
            post("Transfer-Encoding: \x0bchunked\r\n", &inner),
        ),
        forwarded(
            "coding \\tchunked",
            is_body,
            post("Transfer-Encoding:\tchunked\t\r\n", "1\r\nZ\r\n0\r\n\r\n"),
        ),
        forwarded(
            "coding CHUNKED",
            is_body,
            post("TRANSFER-ENCODING: CHUNKED\r\n", "1\r\nZ\r\n0\r\n\r\n"),
        ),
        rejected(
            "coding with a space before the colon",
            &[400],
            post(
                "Transfer-Encoding : chunked\r\nContent-Length: 3\r\n",
                "abc",
            ),
        ),
        rejected(
            "length with a space before the colon",
            &[400],
            post("Content-Length : 3\r\n", "abc"),
        ),
        rejected(
            "coding in HTTP/1.0",
            &[400],
            format!("{UPLOAD} HTTP/1.0\r\n{HOST}{LOGIN}{CHUNKED}\r\n{inner}").into_bytes(),
        ),
        forwarded(
            "underscored length",
            &["POST /v2/a/blobs/uploads/"],
            post("Content_Length: 5\r\n", ""),
        ),
        forwarded(
            "GET with a body",
            &["GET /v2/ + GET /v2/smuggled/tags/list HTTP/1.1\r\nHost: localhost\r\n\r\n"],
            request(
                "GET /v2/",
                &format!("Content-Length: {}\r\n", INNER.len()),
                INNER,
            ),
        ),
        forwarded(
            "HEAD with a body",
            &["HEAD /v2/ + abc"],
            request("HEAD /v2/", "Content-Length: 3\r\n", "abc"),
        ),
    ]);
}

#[test]
fn malformed_chunks_are_rejected() {
    let is_body = &["POST /v2/a/blobs/uploads/ + Z"];
    check(vec![
        rejected("0x1", &[400], chunked("0x1\r\nZ\r\n0\r\n\r\n")),
        rejected("+1", &[400], chunked("+1\r\nZ\r\n0\r\n\r\n")),
        rejected("-1", &[400], chunked("-1\r\nZ\r\n0\r\n\r\n")),
        rejected("1_0", &[400], chunked("1_0\r\nZ\r\n0\r\n\r\n")),
        rejected(
            "space before the size",
            &[400],
            chunked(" 1\r\nZ\r\n0\r\n\r\n"),
        ),
        rejected(
            "space after the size",
            &[400],
            chunked("1 \r\nZ\r\n0\r\n\r\n"),
        ),
        rejected("no size", &[400], chunked("\r\nZ\r\n0\r\n\r\n")),
        rejected("bare LF", &[400], chunked("1\nZ\n0\n\n")),
        rejected(
            "bare LF after the data",
            &[400],
            chunked("1\r\nZ\n0\r\n\r\n"),
        ),
        rejected(
            "bare LF after an extension",
            &[400],
            chunked("1;a\nZ\r\n0\r\n\r\n"),
        ),
        rejected(
            "bare CR in an extension",
            &[400],
            chunked("1;a\rZ\r\n0\r\n\r\n"),
        ),
        rejected(
            "bare LF in an extension",
            &[400],
            chunked(&format!("0;\n\r\n{INNER}")),
        ),
        rejected(
            "NUL in an extension",
            &[400],
            chunked("1;\0\r\nZ\r\n0\r\n\r\n"),
        ),
        rejected(
            "2^64 + 1",
            &[400],
            chunked("10000000000000001\r\nZ\r\n0\r\n\r\n"),
        ),
        rejected(
            "no CRLF after the data",
            &[400],
            chunked("1\r\nZZZ0\r\n\r\n"),
        ),
        rejected("bare LF at the end", &[400], chunked("1\r\nZ\r\n0\r\n\n")),
        rejected(
            "folded trailer",
            &[400],
            chunked("1\r\nZ\r\n0\r\n A: b\r\n\r\n"),
        ),
        forwarded(
            "extension",
            is_body,
            chunked("1;name=\"value\"\r\nZ\r\n0;last\r\n\r\n"),
        ),
        // A recipient must accept white space before an extension (RFC 9112 section 7.1.1).
        forwarded(
            "white space around an extension",
            is_body,
            chunked("1 \t; name = \"value\" ; x\r\nZ\r\n0 ;last\r\n\r\n"),
        ),
        rejected(
            "space without an extension after the last chunk",
            &[400],
            chunked("1\r\nZ\r\n0 \r\n\r\n"),
        ),
        rejected(
            "digits after the space",
            &[400],
            chunked("1 1;x\r\nZ\r\n0\r\n\r\n"),
        ),
        rejected(
            "CR in the space",
            &[400],
            chunked("1 \r ;x\r\nZ\r\n0\r\n\r\n"),
        ),
        rejected(
            "LF in the space",
            &[400],
            chunked(&format!("0 \n;\r\n{INNER}")),
        ),
        rejected(
            "more space than any sender writes",
            &[400],
            chunked(&format!("1{};x\r\nZ\r\n0\r\n\r\n", " ".repeat(64))),
        ),
        forwarded(
            "zeros before the size",
            is_body,
            chunked("0001\r\nZ\r\n000\r\n\r\n"),
        ),
        forwarded(
            "trailers",
            is_body,
            chunked(
                "1\r\nZ\r\n0\r\nContent-Length: 9\r\nAuthorization: Basic x\r\nHost: evil\r\n\r\n",
            ),
        ),
        Case {
            statuses: &[200, 401],
            ..forwarded(
                "a request after the trailers",
                is_body,
                chunked(&format!("1\r\nZ\r\n0\r\nA: b\r\n\r\n{INNER}")),
            )
        },
        Case {
            forwarded_requests: is_body,
            ..rejected(
                "chunks after the end",
                &[200, 400],
                chunked("1\r\nZ\r\n0\r\n\r\n1\r\nZ\r\n0\r\n\r\n"),
            )
        },
    ]);
}

#[test]
fn malformed_lines_and_fields_are_rejected() {
    let bytes = |fields: &[u8]| [&get("")[..get("").len() - 2], fields, b"\r\n"].concat();
    let lf_only = String::from_utf8(get("")).unwrap().replace("\r\n", "\n");
    let many: String = (0..200)
        .map(|number| format!("X-{number}: 1\r\n"))
        .collect();
    check(vec![
        forwarded("a request in order", PING, get("")),
        forwarded(
            "an empty line first",
            PING,
            [b"\r\n", get("").as_slice()].concat(),
        ),
        forwarded(
            "bytes beyond ASCII in a value",
            PING,
            bytes(b"X-A: \xc3\xa4\xff\r\n"),
        ),
        rejected("bare LF everywhere", &[400], lf_only.into_bytes()),
        rejected("bare LF at one line", &[400], get("X-A: 1\nX-B: 2\r\n")),
        rejected(
            "bare LF as the last",
            &[400],
            [&get("")[..get("").len() - 2], b"\n"].concat(),
        ),
        rejected(
            "bare LF first",
            &[400],
            [b"\n", get("").as_slice()].concat(),
        ),
        rejected(
            "CR CR LF as the last",
            &[400],
            [&get("")[..get("").len() - 2], b"\r\r\n"].concat(),
        ),
        rejected(
            "CR CR at the end of the head",
            &[400],
            [&get("")[..get("").len() - 2], b"\r\rX"].concat(),
        ),
        rejected("bare CR in a value", &[400], get("X-A: 1\rSmug: 2\r\n")),
        rejected("NUL in a value", &[400], get("X-A: 1\x002\r\n")),
        rejected("NUL in a name", &[400], get("X-\0A: 1\r\n")),
        rejected(
            "control character in a value",
            &[400],
            get("X-A: 1\x012\r\n"),
        ),
        rejected("folded line", &[400], get("X-A: 1\r\n  folded\r\n")),
        rejected("folded by a tab", &[400], get("X-A: 1\r\n\tfolded\r\n")),
        rejected(
            "length over two lines",
            &[400],
            post("Content-Length:\r\n 3\r\n", "abc"),
        ),
        rejected("name over two lines", &[400], get("X-\r\n A: 1\r\n")),
        rejected(
            "space before the first field",
            &[400],
            format!("GET /v2/ HTTP/1.1\r\n {HOST}{LOGIN}\r\n").into_bytes(),
        ),
        rejected("empty name", &[400], get(": v\r\n")),
        rejected("no colon", &[400], get("Foo bar\r\n")),
        rejected("space in a name", &[400], get("X A: 1\r\n")),
        rejected("space before the colon", &[400], get("X-A : 1\r\n")),
        rejected("\\xa0 after a name", &[400], bytes(b"X-A\xa0: 1\r\n")),
        rejected("\\x85 before a name", &[400], bytes(b"\x85X-A: 1\r\n")),
        rejected("bracket in a name", &[400], get("X[A]: 1\r\n")),
        forwarded(
            "underscore in a name",
            PING,
            get("X_Forwarded_Host: evil\r\n"),
        ),
        rejected(
            "64 KiB",
            &[431],
            get(&format!("X-A: {}\r\n", "a".repeat(65_000))),
        ),
        rejected("200 fields", &[431], get(&many)),
    ]);
}

#[test]
fn malformed_request_lines_are_rejected() {
    let long = format!("GET /v2/{}", "a".repeat(20_000));
    let line = |line: &str| format!("{line}\r\n{HOST}{LOGIN}\r\n").into_bytes();
    check(vec![
        rejected("fragment", &[400], request("GET /v2/#y", "", "")),
        rejected(
            "fragment in a query",
            &[400],
            request("GET /v2/?n=1#y", "", ""),
        ),
        local_response("dot segments", &[400], request("GET /a/../v2/", "", "")),
        local_response(
            "escaped dot segments",
            &[400],
            request("GET /a/%2e%2e/v2/", "", ""),
        ),
        local_response(
            "two slashes",
            &[301],
            request("GET //v2/a/tags/list", "", ""),
        ),
        local_response(
            "a foreign host after two slashes",
            &[404],
            request("GET //evil.test/v2/", "", ""),
        ),
        rejected("two spaces", &[400], line("GET  /v2/ HTTP/1.1")),
        rejected("space at the end", &[400], line("GET /v2/ HTTP/1.1 ")),
        rejected("space first", &[400], line(" GET /v2/ HTTP/1.1")),
        rejected("tabs", &[400], line("GET\t/v2/\tHTTP/1.1")),
        rejected("two targets", &[400], line("GET /v2/ /v2/x HTTP/1.1")),
        rejected("no target", &[400], line("GET HTTP/1.1")),
        rejected("bare CR", &[400], line("GET /v2/\rHTTP/1.1")),
        rejected("HTTP/1.2", &[400], line("GET /v2/ HTTP/1.2")),
        rejected("HTTP/2.0", &[400], line("GET /v2/ HTTP/2.0")),
        rejected("HTTP/257.1", &[400], line("GET /v2/ HTTP/257.1")),
        rejected("HTTP/1.257", &[400], line("GET /v2/ HTTP/1.257")),
        rejected("http/1.1", &[400], line("GET /v2/ http/1.1")),
        rejected("HTTP/0.9", &[400], b"GET /v2/\r\n".to_vec()),
        rejected(
            "the preface of HTTP/2",
            &[400],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        ),
        rejected("another PRI", &[400], line("PRI /v2/ HTTP/1.1")),
        rejected("NUL in the target", &[400], line("GET /v2/\0 HTTP/1.1")),
        local_response("a target of 20 000 bytes", &[414], request(&long, "", "")),
        rejected(
            "CONNECT",
            &[405],
            request("CONNECT localhost:443", "", INNER),
        ),
        rejected(
            "CONNECT with a length",
            &[405],
            request(
                "CONNECT localhost:443",
                &format!("Content-Length: {}\r\n", INNER.len()),
                INNER,
            ),
        ),
        local_response("TRACE", &[405], request("TRACE /v2/", "", "")),
        local_response("OPTIONS *", &[400], request("OPTIONS *", "", "")),
        local_response("method in lower case", &[405], request("get /v2/", "", "")),
        local_response(
            "absolute target of a foreign host",
            &[421],
            request("GET http://evil.test/v2/", "", ""),
        ),
        local_response(
            "absolute target with userinfo",
            &[400],
            request("GET https://user@localhost/v2/", "", ""),
        ),
        local_response(
            "absolute target of another scheme",
            &[400],
            request("GET ftp://localhost/v2/", "", ""),
        ),
        forwarded(
            "absolute target",
            PING,
            request("GET https://localhost/v2/", "", ""),
        ),
        local_response(
            "only a host as target",
            &[400],
            request("GET localhost:443", "", ""),
        ),
    ]);
}

#[test]
fn a_missing_duplicate_or_invalid_host_gets_400() {
    let request_with_host =
        |host: &str| format!("GET /v2/ HTTP/1.1\r\n{host}{LOGIN}\r\n").into_bytes();
    check(vec![
        local_response("none", &[400], request_with_host("")),
        local_response(
            "two",
            &[400],
            request_with_host("Host: localhost\r\nHost: evil.test\r\n"),
        ),
        local_response(
            "two equal ones",
            &[400],
            request_with_host("Host: localhost\r\nHost: localhost\r\n"),
        ),
        local_response(
            "a list",
            &[400],
            request_with_host("Host: localhost, localhost\r\n"),
        ),
        local_response("empty", &[400], request_with_host("Host:\r\n")),
        local_response(
            "userinfo",
            &[400],
            request_with_host("Host: evil@localhost\r\n"),
        ),
        local_response("a path", &[400], request_with_host("Host: localhost/x\r\n")),
        local_response("space", &[400], request_with_host("Host: local host\r\n")),
        local_response(
            "port with a sign",
            &[400],
            request_with_host("Host: localhost:+443\r\n"),
        ),
        local_response(
            "two ports",
            &[400],
            request_with_host("Host: localhost:443:443\r\n"),
        ),
        local_response("foreign", &[421], request_with_host("Host: evil.test\r\n")),
        forwarded(
            "case and port",
            PING,
            request_with_host("hOsT: LocalHost:8443\r\n"),
        ),
        forwarded(
            "an empty port",
            PING,
            request_with_host("Host: localhost:\r\n"),
        ),
        local_response(
            "an empty port twice",
            &[400],
            request_with_host("Host: localhost::\r\n"),
        ),
        local_response("a port alone", &[400], request_with_host("Host: :443\r\n")),
        local_response(
            "none in HTTP/1.1 with an absolute target",
            &[400],
            format!("GET https://localhost/v2/ HTTP/1.1\r\n{LOGIN}\r\n").into_bytes(),
        ),
    ]);
}

#[test]
fn hop_by_hop_fields_are_removed_and_ambiguous_credentials_are_rejected() {
    let login = |line: &str| format!("GET /v2/ HTTP/1.1\r\n{HOST}{line}\r\n").into_bytes();
    let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";
    let h2c = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n";
    let upgraded = |fields: &str| request("GET /v2/", fields, INNER);
    let forged = "X-Forwarded-Host: evil\r\nForwarded: for=evil;host=evil\r\nX-Forwarded-Proto: gopher\r\nX_Forwarded_Host: evil\r\n";
    let named = "Connection: close, X-Forwarded-For, Host, Authorization, Content-Length, foo\r\nX-Forwarded-For: 6.6.6.6\r\nfoo: 1\r\n";
    let trick = format!("{named}Content-Length: 1\r\n");
    check(vec![
        Case {
            statuses: &[200, 401],
            ..forwarded("upgrade to a web socket", PING, upgraded(upgrade))
        },
        Case {
            statuses: &[200, 401],
            ..forwarded(
                "upgrade to anything",
                PING,
                upgraded("Connection: upgrade\r\nUpgrade: foo\r\n"),
            )
        },
        Case {
            statuses: &[200, 401],
            ..forwarded("upgrade to h2c", PING, upgraded(h2c))
        },
        forwarded("forged fields", PING, get(forged)),
        Case {
            is_closed: true,
            ..forwarded("fields named away", PING, get(named))
        },
        Case {
            is_closed: true,
            ..forwarded(
                "fields named away from a body",
                &["POST /v2/a/blobs/uploads/ + Z"],
                post(&trick, "Z"),
            )
        },
        local_response(
            "two logins",
            &[400],
            login(&format!("Authorization: Basic Zm9vOmJhcg==\r\n{LOGIN}")),
        ),
        local_response(
            "two logins, the right one first",
            &[400],
            login(&format!("{LOGIN}Authorization: Basic Zm9vOmJhcg==\r\n")),
        ),
        forwarded(
            "scheme in mixed case",
            PING,
            login(&LOGIN.replace("Basic", "bAsIc")),
        ),
        forwarded(
            "three spaces",
            PING,
            login(&LOGIN.replace("Basic ", "Basic   ")),
        ),
        local_response("tab", &[401], login(&LOGIN.replace("Basic ", "Basic\t"))),
        local_response(
            "NUL in the password",
            &[401],
            login("Authorization: Basic YWxpY2U6cHcAeno=\r\n"),
        ),
        local_response(
            "words after the credentials",
            &[401],
            login(&LOGIN.replace("\r\n", " x\r\n")),
        ),
        local_response(
            "underscored",
            &[401],
            login(&LOGIN.replace("Authorization", "Author_ization")),
        ),
        forwarded(
            "Expect",
            &["POST /v2/a/blobs/uploads/ + Z"],
            post("Content-Length: 1\r\nExpect: 100-continue\r\n", "Z"),
        ),
        rejected(
            "another Expect",
            &[417],
            post("Content-Length: 1\r\nExpect: foo\r\n", "Z"),
        ),
        rejected(
            "Expect without a login",
            &[401],
            format!("{UPLOAD} HTTP/1.1\r\n{HOST}Content-Length: 1\r\nExpect: 100-continue\r\n\r\n")
                .into_bytes(),
        ),
    ]);
}

#[test]
fn pipelined_requests_are_framed_one_by_one() {
    let two = |first: Vec<u8>, second: &[u8]| [first.as_slice(), second].concat();
    let body = || post("Content-Length: 1\r\n", "Z");
    let both = &["POST /v2/a/blobs/uploads/ + Z", "GET /v2/"];
    let first = &["POST /v2/a/blobs/uploads/ + Z"];
    check(vec![
        Case {
            statuses: &[200, 200],
            ..forwarded("two in order", both, two(body(), &get("")))
        },
        Case {
            statuses: &[200, 401],
            ..forwarded(
                "the second without a login",
                first,
                two(body(), INNER.as_bytes()),
            )
        },
        Case {
            forwarded_requests: first,
            ..rejected(
                "the second malformed",
                &[200, 400],
                two(body(), &get("X : 1\r\n")),
            )
        },
        Case {
            forwarded_requests: first,
            ..rejected(
                "the second with bare LF",
                &[200, 400],
                two(body(), b"GET /v2/ HTTP/1.1\n\n"),
            )
        },
        Case {
            forwarded_requests: first,
            ..rejected(
                "the second with ambiguous framing",
                &[200, 400],
                two(
                    body(),
                    &post(&format!("Content-Length: 1\r\n{CHUNKED}"), "0\r\n\r\n"),
                ),
            )
        },
        Case {
            forwarded_requests: first,
            ..rejected(
                "the second with a fragment",
                &[200, 400],
                two(body(), &request("GET /v2/#", "", "")),
            )
        },
        Case {
            forwarded_requests: first,
            ..rejected(
                "the second is a CONNECT request",
                &[200, 405],
                two(body(), &request("CONNECT localhost:1", "", INNER)),
            )
        },
        rejected(
            "a valid request after a malformed one",
            &[400],
            two(get("X : 1\r\n"), &get("")),
        ),
        rejected(
            "a valid request after an unread body",
            &[401],
            two(
                format!("{UPLOAD} HTTP/1.1\r\n{HOST}Content-Length: 1\r\n\r\nZ").into_bytes(),
                &get(""),
            ),
        ),
    ]);
}

/// Sends each payload on a connection of its own, and reports all cases with another result than expected.
#[track_caller]
fn check(cases: Vec<Case>) {
    let upstream = StrictUpstream::start();
    let proxy = Proxy::start_in(directory(), &upstream.url(), config("", ""));
    let mut failures = Vec::new();
    for case in cases {
        upstream.take_requests();
        let mut client = Client::connect(&proxy);
        client.socket.set_read_timeout(Some(SOON)).unwrap();
        // The proxy may reject the request before it has read all bytes.
        let _ = client.try_send(&case.bytes);
        let (statuses, is_closed) = read_statuses(&mut client, &case);
        drop(client);
        let received = upstream.take_requests();
        let mut lines: Vec<_> = received
            .iter()
            .map(|request| format_request(&request.request_line(), &request.body))
            .collect();
        lines.retain(|line| line != PROBE);
        for request in &received {
            // The fields that the proxy adds occur once, with true values.
            assert_eq!(
                request.header_values("x-forwarded-for"),
                ["127.0.0.1"],
                "{}",
                case.name
            );
            assert_eq!(
                request.header_values("x-forwarded-proto"),
                ["https"],
                "{}",
                case.name
            );
            let text = request.text().to_lowercase();
            let must_not_arrive = [
                "evil",
                "authorization:",
                "upgrade",
                "connection:",
                "foo:",
                "expect:",
                "forwarded_host",
                "content_length",
            ];
            assert!(
                !must_not_arrive.iter().any(|word| text.contains(word)),
                "{}: {text}",
                case.name
            );
        }
        if (statuses.as_slice(), lines.as_slice(), is_closed)
            != (
                case.statuses,
                as_strings(case.forwarded_requests).as_slice(),
                case.is_closed,
            )
        {
            failures.push(format!(
                "{}: statuses {statuses:?}, forwarded {lines:?}, closed {is_closed}",
                case.name
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    // The upstream may have received a part of a request that the proxy rejected during its body, but no byte of an inner
    // request.
    for request in upstream.violations() {
        assert!(!request.contains("smuggled"), "{request}");
    }
}

/// Reads the expected number of responses, and returns their statuses and whether the proxy closed the connection after the
/// last one.
fn read_statuses(client: &mut Client, case: &Case) -> (Vec<u16>, bool) {
    let method = if case.bytes.starts_with(b"HEAD") {
        "HEAD"
    } else {
        "GET"
    };
    let mut statuses = Vec::new();
    for _ in case.statuses {
        match client.try_read_response(method) {
            Ok(response) => statuses.push(response.status),
            Err(_) => return (statuses, true),
        }
    }
    if !case.is_closed {
        let result = client.try_send(format!("{PROBE} HTTP/1.1\r\n{HOST}{LOGIN}\r\n"));
        return (
            statuses,
            result.is_err() || client.try_read_response("GET").is_err(),
        );
    }
    let end = client.try_read_response("GET");
    (statuses, end.is_err_and(|error| !is_timeout(&error)))
}

/// A response that does not arrive within this time is a failure.
const SOON: Duration = Duration::from_secs(5);

const PROBE: &str = "GET /v2/probe/tags/list";

fn format_request(line: &str, body: &[u8]) -> String {
    if body.is_empty() {
        return line.to_owned();
    }
    format!("{line} + {}", String::from_utf8_lossy(body))
}

fn as_strings(lines: &[&str]) -> Vec<String> {
    lines.iter().map(ToString::to_string).collect()
}
