//! Payloads that two parsers may read in two ways: refused, or one well-formed request to the upstream, never a second.
//!
//! The upstream is the canary, which keeps every byte. The inner request of a payload has no credentials.

use std::time::Duration;

use crate::support::client::is_timeout;
use crate::support::proxy::directory;
use crate::support::strict_upstream::StrictUpstream;
use crate::support::{Client, ListenerKind, Proxy};

/// Bytes for a connection, and what must come of them.
struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    /// Statuses of the answers, in order.
    answers: &'static [u16],
    /// What arrives at the upstream, in order: `METHOD target`, and `+` with the body when there is one.
    arrives: &'static [&'static str],
    /// The gate closes behind the last answer; else the connection is good for another request.
    closes: bool,
}

/// The credentials, and what an address of `listen.behind_proxy` needs; an https address replaces the second field.
const LOGIN: &str = "Authorization: Basic YWxpY2U6cHc=\r\nX-Forwarded-Proto: https\r\n";
const HOST: &str = "Host: localhost\r\n";
const INNER: &str = "GET /v2/smuggled/tags/list HTTP/1.1\r\nHost: localhost\r\n\r\n";
const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";
const UPLOAD: &str = "POST /v2/a/blobs/uploads/";
const PING: &[&str] = &["GET /v2/"];

/// A request in order but for `fields` and `body`.
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

/// Refused, and closed.
fn refused(name: &'static str, answers: &'static [u16], bytes: Vec<u8>) -> Case {
    Case {
        name,
        bytes,
        answers,
        arrives: &[],
        closes: true,
    }
}

/// Answered by the gate; the framing is beyond doubt, so the connection goes on.
fn answered(name: &'static str, answers: &'static [u16], bytes: Vec<u8>) -> Case {
    Case {
        closes: false,
        ..refused(name, answers, bytes)
    }
}

/// Passed on as these requests.
fn passed(name: &'static str, arrives: &'static [&'static str], bytes: Vec<u8>) -> Case {
    Case {
        arrives,
        ..answered(name, &[200], bytes)
    }
}

#[test]
fn lengths_and_codings() {
    let inner = format!("0\r\n\r\n{INNER}");
    let two = format!("Content-Length: 0\r\nContent-Length: {}\r\n", INNER.len());
    let hidden = format!(
        "X: {}\r\nContent-Length: 1\r\nContent-Length: 1\r\n",
        "x".repeat(200)
    );
    let is_body = &["POST /v2/a/blobs/uploads/ + Z"];
    check(vec![
        passed("a length", is_body, post("Content-Length: 1\r\n", "Z")),
        passed("chunks", is_body, chunked("1\r\nZ\r\n0\r\n\r\n")),
        refused(
            "length and coding",
            &[400],
            post(&format!("Content-Length: 5\r\n{CHUNKED}"), &inner),
        ),
        refused(
            "coding and length",
            &[400],
            post(&format!("{CHUNKED}Content-Length: 5\r\n"), &inner),
        ),
        refused("two lengths", &[400], post(&two, INNER)),
        refused(
            "two equal lengths",
            &[400],
            post("Content-Length: 1\r\nContent-Length: 1\r\n", "Z"),
        ),
        refused(
            "two equal lengths behind a long field",
            &[400],
            post(&hidden, "Z"),
        ),
        refused(
            "list of lengths",
            &[400],
            post("Content-Length: 1, 1\r\n", "Z"),
        ),
        refused("length +1", &[400], post("Content-Length: +1\r\n", "Z")),
        refused("length 0x1", &[400], post("Content-Length: 0x1\r\n", "Z")),
        refused("empty length", &[400], post("Content-Length: \r\n", INNER)),
        refused("length -1", &[400], post("Content-Length: -1\r\n", "")),
        refused("length 1Z", &[400], post("Content-Length: 1Z\r\n", "Z")),
        refused("length 1 1", &[400], post("Content-Length: 1 1\r\n", "Z")),
        refused(
            "length of 20 digits",
            &[400],
            post("Content-Length: 99999999999999999999\r\n", "Z"),
        ),
        refused(
            "length of 2^64",
            &[400],
            post("Content-Length: 18446744073709551616\r\n", "Z"),
        ),
        refused(
            "length behind 80 spaces",
            &[400],
            post(&format!("Content-Length:{}1\r\n", " ".repeat(80)), "Z"),
        ),
        refused(
            "length behind \\xa0",
            &[400],
            [
                &post("Content-Length: ", "")[..post("Content-Length: ", "").len() - 2],
                b"\xa01\r\n\r\nZ",
            ]
            .concat(),
        ),
        passed(
            "length 010",
            &["POST /v2/a/blobs/uploads/ + ZZZZZZZZZZ"],
            post("Content-Length: 010\r\n", "ZZZZZZZZZZ"),
        ),
        refused(
            "coding gzip, chunked",
            &[501],
            post("Transfer-Encoding: gzip, chunked\r\n", &inner),
        ),
        refused(
            "coding chunked, gzip",
            &[400],
            post("Transfer-Encoding: chunked, gzip\r\n", &inner),
        ),
        refused(
            "coding chunked, chunked",
            &[501],
            post("Transfer-Encoding: chunked, chunked\r\n", &inner),
        ),
        refused(
            "coding , chunked",
            &[501],
            post("Transfer-Encoding: ,chunked\r\n", &inner),
        ),
        refused(
            "coding chunked,",
            &[400],
            post("Transfer-Encoding: chunked,\r\n", &inner),
        ),
        refused("coding twice", &[501], post(&CHUNKED.repeat(2), &inner)),
        refused(
            "coding identity",
            &[400],
            post("Transfer-Encoding: identity\r\n", &inner),
        ),
        refused(
            "coding identity and chunked",
            &[501],
            post(&format!("Transfer-Encoding: identity\r\n{CHUNKED}"), &inner),
        ),
        refused(
            "empty coding",
            &[400],
            post("Transfer-Encoding:\r\n", &inner),
        ),
        refused(
            "coding \"chunked\"",
            &[400],
            post("Transfer-Encoding: \"chunked\"\r\n", &inner),
        ),
        refused(
            "coding xchunked",
            &[400],
            post(
                "Transfer-Encoding: xchunked\r\nContent-Length: 3\r\n",
                "abc",
            ),
        ),
        refused(
            "coding \\x0bchunked",
            &[400],
            post(
                "Transfer-Encoding: \x0bchunked\r\nContent-Length: 3\r\n",
                "abc",
            ),
        ),
        refused(
            "coding \\x0bchunked alone",
            &[400],
            post("Transfer-Encoding: \x0bchunked\r\n", &inner),
        ),
        passed(
            "coding \\tchunked",
            is_body,
            post("Transfer-Encoding:\tchunked\t\r\n", "1\r\nZ\r\n0\r\n\r\n"),
        ),
        passed(
            "coding CHUNKED",
            is_body,
            post("TRANSFER-ENCODING: CHUNKED\r\n", "1\r\nZ\r\n0\r\n\r\n"),
        ),
        refused(
            "coding with a space before the colon",
            &[400],
            post(
                "Transfer-Encoding : chunked\r\nContent-Length: 3\r\n",
                "abc",
            ),
        ),
        refused(
            "length with a space before the colon",
            &[400],
            post("Content-Length : 3\r\n", "abc"),
        ),
        refused(
            "coding in HTTP/1.0",
            &[400],
            format!("{UPLOAD} HTTP/1.0\r\n{HOST}{LOGIN}{CHUNKED}\r\n{inner}").into_bytes(),
        ),
        passed(
            "underscored length",
            &["POST /v2/a/blobs/uploads/"],
            post("Content_Length: 5\r\n", ""),
        ),
        passed(
            "GET with a body",
            &["GET /v2/ + GET /v2/smuggled/tags/list HTTP/1.1\r\nHost: localhost\r\n\r\n"],
            request(
                "GET /v2/",
                &format!("Content-Length: {}\r\n", INNER.len()),
                INNER,
            ),
        ),
        passed(
            "HEAD with a body",
            &["HEAD /v2/ + abc"],
            request("HEAD /v2/", "Content-Length: 3\r\n", "abc"),
        ),
    ]);
}

#[test]
fn chunks() {
    let is_body = &["POST /v2/a/blobs/uploads/ + Z"];
    check(vec![
        refused("0x1", &[400], chunked("0x1\r\nZ\r\n0\r\n\r\n")),
        refused("+1", &[400], chunked("+1\r\nZ\r\n0\r\n\r\n")),
        refused("-1", &[400], chunked("-1\r\nZ\r\n0\r\n\r\n")),
        refused("1_0", &[400], chunked("1_0\r\nZ\r\n0\r\n\r\n")),
        refused(
            "space before the size",
            &[400],
            chunked(" 1\r\nZ\r\n0\r\n\r\n"),
        ),
        refused(
            "space behind the size",
            &[400],
            chunked("1 \r\nZ\r\n0\r\n\r\n"),
        ),
        refused("no size", &[400], chunked("\r\nZ\r\n0\r\n\r\n")),
        refused("bare LF", &[400], chunked("1\nZ\n0\n\n")),
        refused(
            "bare LF behind the data",
            &[400],
            chunked("1\r\nZ\n0\r\n\r\n"),
        ),
        refused(
            "bare LF behind an extension",
            &[400],
            chunked("1;a\nZ\r\n0\r\n\r\n"),
        ),
        refused(
            "bare CR in an extension",
            &[400],
            chunked("1;a\rZ\r\n0\r\n\r\n"),
        ),
        refused(
            "bare LF in an extension",
            &[400],
            chunked(&format!("0;\n\r\n{INNER}")),
        ),
        refused(
            "NUL in an extension",
            &[400],
            chunked("1;\0\r\nZ\r\n0\r\n\r\n"),
        ),
        refused(
            "2^64 + 1",
            &[400],
            chunked("10000000000000001\r\nZ\r\n0\r\n\r\n"),
        ),
        refused(
            "no CRLF behind the data",
            &[400],
            chunked("1\r\nZZZ0\r\n\r\n"),
        ),
        refused("bare LF at the end", &[400], chunked("1\r\nZ\r\n0\r\n\n")),
        refused(
            "folded trailer",
            &[400],
            chunked("1\r\nZ\r\n0\r\n A: b\r\n\r\n"),
        ),
        passed(
            "extension",
            is_body,
            chunked("1;name=\"value\"\r\nZ\r\n0;last\r\n\r\n"),
        ),
        // White space before an extension is to be read past (RFC 9112 section 7.1.1).
        passed(
            "white space around an extension",
            is_body,
            chunked("1 \t; name = \"value\" ; x\r\nZ\r\n0 ;last\r\n\r\n"),
        ),
        refused(
            "space without an extension behind the last chunk",
            &[400],
            chunked("1\r\nZ\r\n0 \r\n\r\n"),
        ),
        refused(
            "digits behind the space",
            &[400],
            chunked("1 1;x\r\nZ\r\n0\r\n\r\n"),
        ),
        refused(
            "CR in the space",
            &[400],
            chunked("1 \r ;x\r\nZ\r\n0\r\n\r\n"),
        ),
        refused(
            "LF in the space",
            &[400],
            chunked(&format!("0 \n;\r\n{INNER}")),
        ),
        refused(
            "more space than any sender writes",
            &[400],
            chunked(&format!("1{};x\r\nZ\r\n0\r\n\r\n", " ".repeat(64))),
        ),
        passed(
            "zeros before the size",
            is_body,
            chunked("0001\r\nZ\r\n000\r\n\r\n"),
        ),
        passed(
            "trailers",
            is_body,
            chunked(
                "1\r\nZ\r\n0\r\nContent-Length: 9\r\nAuthorization: Basic x\r\nHost: evil\r\n\r\n",
            ),
        ),
        Case {
            answers: &[200, 401],
            ..passed(
                "a request behind the trailers",
                is_body,
                chunked(&format!("1\r\nZ\r\n0\r\nA: b\r\n\r\n{INNER}")),
            )
        },
        Case {
            arrives: is_body,
            ..refused(
                "chunks behind the end",
                &[200, 400],
                chunked("1\r\nZ\r\n0\r\n\r\n1\r\nZ\r\n0\r\n\r\n"),
            )
        },
    ]);
}

#[test]
fn lines_and_fields() {
    let bytes = |fields: &[u8]| [&get("")[..get("").len() - 2], fields, b"\r\n"].concat();
    let lf_only = String::from_utf8(get("")).unwrap().replace("\r\n", "\n");
    let many: String = (0..200)
        .map(|number| format!("X-{number}: 1\r\n"))
        .collect();
    check(vec![
        passed("a request in order", PING, get("")),
        passed(
            "an empty line first",
            PING,
            [b"\r\n", get("").as_slice()].concat(),
        ),
        passed(
            "bytes beyond ASCII in a value",
            PING,
            bytes(b"X-A: \xc3\xa4\xff\r\n"),
        ),
        refused("bare LF everywhere", &[400], lf_only.into_bytes()),
        refused("bare LF at one line", &[400], get("X-A: 1\nX-B: 2\r\n")),
        refused(
            "bare LF as the last",
            &[400],
            [&get("")[..get("").len() - 2], b"\n"].concat(),
        ),
        refused(
            "bare LF first",
            &[400],
            [b"\n", get("").as_slice()].concat(),
        ),
        refused(
            "CR CR LF as the last",
            &[400],
            [&get("")[..get("").len() - 2], b"\r\r\n"].concat(),
        ),
        refused(
            "CR CR at the end of the head",
            &[400],
            [&get("")[..get("").len() - 2], b"\r\rX"].concat(),
        ),
        refused("bare CR in a value", &[400], get("X-A: 1\rSmug: 2\r\n")),
        refused("NUL in a value", &[400], get("X-A: 1\x002\r\n")),
        refused("NUL in a name", &[400], get("X-\0A: 1\r\n")),
        refused(
            "control character in a value",
            &[400],
            get("X-A: 1\x012\r\n"),
        ),
        refused("folded line", &[400], get("X-A: 1\r\n  folded\r\n")),
        refused("folded by a tab", &[400], get("X-A: 1\r\n\tfolded\r\n")),
        refused(
            "length over two lines",
            &[400],
            post("Content-Length:\r\n 3\r\n", "abc"),
        ),
        refused("name over two lines", &[400], get("X-\r\n A: 1\r\n")),
        refused(
            "space before the first field",
            &[400],
            format!("GET /v2/ HTTP/1.1\r\n {HOST}{LOGIN}\r\n").into_bytes(),
        ),
        refused("empty name", &[400], get(": v\r\n")),
        refused("no colon", &[400], get("Foo bar\r\n")),
        refused("space in a name", &[400], get("X A: 1\r\n")),
        refused("space before the colon", &[400], get("X-A : 1\r\n")),
        refused("\\xa0 behind a name", &[400], bytes(b"X-A\xa0: 1\r\n")),
        refused("\\x85 before a name", &[400], bytes(b"\x85X-A: 1\r\n")),
        refused("bracket in a name", &[400], get("X[A]: 1\r\n")),
        passed(
            "underscore in a name",
            PING,
            get("X_Forwarded_Host: evil\r\n"),
        ),
        refused(
            "64 KiB",
            &[431],
            get(&format!("X-A: {}\r\n", "a".repeat(65_000))),
        ),
        refused("200 fields", &[431], get(&many)),
    ]);
}

#[test]
fn request_lines() {
    let long = format!("GET /v2/{}", "a".repeat(20_000));
    let line = |line: &str| format!("{line}\r\n{HOST}{LOGIN}\r\n").into_bytes();
    check(vec![
        refused("fragment", &[400], request("GET /v2/#y", "", "")),
        refused(
            "fragment in a query",
            &[400],
            request("GET /v2/?n=1#y", "", ""),
        ),
        answered("dot segments", &[400], request("GET /a/../v2/", "", "")),
        answered(
            "escaped dot segments",
            &[400],
            request("GET /a/%2e%2e/v2/", "", ""),
        ),
        answered(
            "two slashes",
            &[301],
            request("GET //v2/a/tags/list", "", ""),
        ),
        answered(
            "a foreign host behind two slashes",
            &[404],
            request("GET //evil.test/v2/", "", ""),
        ),
        refused("two spaces", &[400], line("GET  /v2/ HTTP/1.1")),
        refused("space at the end", &[400], line("GET /v2/ HTTP/1.1 ")),
        refused("space first", &[400], line(" GET /v2/ HTTP/1.1")),
        refused("tabs", &[400], line("GET\t/v2/\tHTTP/1.1")),
        refused("two targets", &[400], line("GET /v2/ /v2/x HTTP/1.1")),
        refused("no target", &[400], line("GET HTTP/1.1")),
        refused("bare CR", &[400], line("GET /v2/\rHTTP/1.1")),
        refused("HTTP/1.2", &[400], line("GET /v2/ HTTP/1.2")),
        refused("HTTP/2.0", &[400], line("GET /v2/ HTTP/2.0")),
        refused("HTTP/257.1", &[400], line("GET /v2/ HTTP/257.1")),
        refused("HTTP/1.257", &[400], line("GET /v2/ HTTP/1.257")),
        refused("http/1.1", &[400], line("GET /v2/ http/1.1")),
        refused("HTTP/0.9", &[400], b"GET /v2/\r\n".to_vec()),
        refused(
            "the preface of HTTP/2",
            &[400],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        ),
        refused("another PRI", &[400], line("PRI /v2/ HTTP/1.1")),
        refused("NUL in the target", &[400], line("GET /v2/\0 HTTP/1.1")),
        answered("a target of 20 000 bytes", &[414], request(&long, "", "")),
        refused(
            "CONNECT",
            &[405],
            request("CONNECT localhost:443", "", INNER),
        ),
        refused(
            "CONNECT with a length",
            &[405],
            request(
                "CONNECT localhost:443",
                &format!("Content-Length: {}\r\n", INNER.len()),
                INNER,
            ),
        ),
        answered("TRACE", &[405], request("TRACE /v2/", "", "")),
        answered("OPTIONS *", &[400], request("OPTIONS *", "", "")),
        answered("method in lower case", &[405], request("get /v2/", "", "")),
        answered(
            "absolute target of a foreign host",
            &[421],
            request("GET http://evil.test/v2/", "", ""),
        ),
        answered(
            "absolute target with userinfo",
            &[400],
            request("GET https://user@localhost/v2/", "", ""),
        ),
        answered(
            "absolute target of another scheme",
            &[400],
            request("GET ftp://localhost/v2/", "", ""),
        ),
        passed(
            "absolute target",
            PING,
            request("GET https://localhost/v2/", "", ""),
        ),
        answered(
            "only a host as target",
            &[400],
            request("GET localhost:443", "", ""),
        ),
    ]);
}

#[test]
fn hosts() {
    let with = |host: &str| format!("GET /v2/ HTTP/1.1\r\n{host}{LOGIN}\r\n").into_bytes();
    check(vec![
        answered("none", &[400], with("")),
        answered(
            "two",
            &[400],
            with("Host: localhost\r\nHost: evil.test\r\n"),
        ),
        answered(
            "two equal ones",
            &[400],
            with("Host: localhost\r\nHost: localhost\r\n"),
        ),
        answered("a list", &[400], with("Host: localhost, localhost\r\n")),
        answered("empty", &[400], with("Host:\r\n")),
        answered("userinfo", &[400], with("Host: evil@localhost\r\n")),
        answered("a path", &[400], with("Host: localhost/x\r\n")),
        answered("space", &[400], with("Host: local host\r\n")),
        answered("port with a sign", &[400], with("Host: localhost:+443\r\n")),
        answered("two ports", &[400], with("Host: localhost:443:443\r\n")),
        answered("foreign", &[421], with("Host: evil.test\r\n")),
        passed("case and port", PING, with("hOsT: LocalHost:8443\r\n")),
        passed("an empty port", PING, with("Host: localhost:\r\n")),
        answered("an empty port twice", &[400], with("Host: localhost::\r\n")),
        answered("a port alone", &[400], with("Host: :443\r\n")),
        answered(
            "none in HTTP/1.1 with an absolute target",
            &[400],
            format!("GET https://localhost/v2/ HTTP/1.1\r\n{LOGIN}\r\n").into_bytes(),
        ),
    ]);
}

#[test]
fn credentials_and_fields_of_the_hop() {
    let login = |line: &str| format!("GET /v2/ HTTP/1.1\r\n{HOST}{line}\r\n").into_bytes();
    let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";
    let h2c = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n";
    let upgraded = |fields: &str| request("GET /v2/", fields, INNER);
    let forged = "X-Forwarded-Host: evil\r\nForwarded: for=evil;host=evil\r\nX-Forwarded-Proto: gopher\r\nX_Forwarded_Host: evil\r\n";
    let named = "Connection: close, X-Forwarded-For, Host, Authorization, Content-Length, foo\r\nX-Forwarded-For: 6.6.6.6\r\nfoo: 1\r\n";
    let trick = format!("{named}Content-Length: 1\r\n");
    check(vec![
        Case {
            answers: &[200, 401],
            ..passed("upgrade to a web socket", PING, upgraded(upgrade))
        },
        Case {
            answers: &[200, 401],
            ..passed(
                "upgrade to anything",
                PING,
                upgraded("Connection: upgrade\r\nUpgrade: foo\r\n"),
            )
        },
        Case {
            answers: &[200, 401],
            ..passed("upgrade to h2c", PING, upgraded(h2c))
        },
        passed("forged fields", PING, get(forged)),
        Case {
            closes: true,
            ..passed("fields named away", PING, get(named))
        },
        Case {
            closes: true,
            ..passed(
                "fields named away from a body",
                &["POST /v2/a/blobs/uploads/ + Z"],
                post(&trick, "Z"),
            )
        },
        answered(
            "two logins",
            &[400],
            login(&format!("Authorization: Basic Zm9vOmJhcg==\r\n{LOGIN}")),
        ),
        answered(
            "two logins, the right one first",
            &[400],
            login(&format!("{LOGIN}Authorization: Basic Zm9vOmJhcg==\r\n")),
        ),
        passed(
            "scheme in mixed case",
            PING,
            login(&LOGIN.replace("Basic", "bAsIc")),
        ),
        passed(
            "three spaces",
            PING,
            login(&LOGIN.replace("Basic ", "Basic   ")),
        ),
        answered("tab", &[401], login(&LOGIN.replace("Basic ", "Basic\t"))),
        answered(
            "NUL in the password",
            &[401],
            login("Authorization: Basic YWxpY2U6cHcAeno=\r\n"),
        ),
        answered(
            "words behind",
            &[401],
            login(&LOGIN.replace("\r\n", " x\r\n")),
        ),
        answered(
            "underscored",
            &[401],
            login(&LOGIN.replace("Authorization", "Author_ization")),
        ),
        passed(
            "Expect",
            &["POST /v2/a/blobs/uploads/ + Z"],
            post("Content-Length: 1\r\nExpect: 100-continue\r\n", "Z"),
        ),
        refused(
            "another Expect",
            &[417],
            post("Content-Length: 1\r\nExpect: foo\r\n", "Z"),
        ),
        refused(
            "Expect without a login",
            &[401],
            format!("{UPLOAD} HTTP/1.1\r\n{HOST}Content-Length: 1\r\nExpect: 100-continue\r\n\r\n")
                .into_bytes(),
        ),
    ]);
}

#[test]
fn requests_behind_each_other() {
    let two = |first: Vec<u8>, second: &[u8]| [first.as_slice(), second].concat();
    let body = || post("Content-Length: 1\r\n", "Z");
    let both = &["POST /v2/a/blobs/uploads/ + Z", "GET /v2/"];
    let first = &["POST /v2/a/blobs/uploads/ + Z"];
    check(vec![
        Case {
            answers: &[200, 200],
            ..passed("two in order", both, two(body(), &get("")))
        },
        Case {
            answers: &[200, 401],
            ..passed(
                "the second without a login",
                first,
                two(body(), INNER.as_bytes()),
            )
        },
        Case {
            arrives: first,
            ..refused(
                "the second malformed",
                &[200, 400],
                two(body(), &get("X : 1\r\n")),
            )
        },
        Case {
            arrives: first,
            ..refused(
                "the second with bare LF",
                &[200, 400],
                two(body(), b"GET /v2/ HTTP/1.1\n\n"),
            )
        },
        Case {
            arrives: first,
            ..refused(
                "the second in doubtful framing",
                &[200, 400],
                two(
                    body(),
                    &post(&format!("Content-Length: 1\r\n{CHUNKED}"), "0\r\n\r\n"),
                ),
            )
        },
        Case {
            arrives: first,
            ..refused(
                "the second with a fragment",
                &[200, 400],
                two(body(), &request("GET /v2/#", "", "")),
            )
        },
        Case {
            arrives: first,
            ..refused(
                "the second a tunnel",
                &[200, 405],
                two(body(), &request("CONNECT localhost:1", "", INNER)),
            )
        },
        refused(
            "a right one behind a wrong one",
            &[400],
            two(get("X : 1\r\n"), &get("")),
        ),
        refused(
            "a right one behind an unread body",
            &[401],
            two(
                format!("{UPLOAD} HTTP/1.1\r\n{HOST}Content-Length: 1\r\n\r\nZ").into_bytes(),
                &get(""),
            ),
        ),
    ]);
}

/// Sends each payload over a connection of its own; all that differs is told at once.
#[track_caller]
fn check(cases: Vec<Case>) {
    for kind in ListenerKind::ALL {
        check_on(kind, &cases);
    }
}

/// Whether a case is of use on an address of this kind. A trusted proxy may name the client, and the preface of HTTP/2 begins
/// HTTP/2 where there is no TLS to choose the protocol.
fn is_of_use(case: &Case, kind: ListenerKind) -> bool {
    let text = String::from_utf8_lossy(&case.bytes);
    kind == ListenerKind::Https
        || !text.contains("X-Forwarded-For")
            && !text.contains("X-Forwarded-Host")
            && !text.starts_with("PRI * HTTP/2.0\r\n\r\n")
}

/// Whether the statuses are those of the case. Behind a proxy, a request without `X-Forwarded-Proto`, as the inner one, gets 400
/// before its credentials are looked at.
fn are_right(statuses: &[u16], case: &Case, kind: ListenerKind) -> bool {
    let is_right = |(status, expected): (&u16, &u16)| {
        status == expected || kind != ListenerKind::Https && (*status, *expected) == (400, 401)
    };
    statuses.len() == case.answers.len() && statuses.iter().zip(case.answers).all(is_right)
}

#[track_caller]
fn check_on(kind: ListenerKind, cases: &[Case]) {
    let canary = StrictUpstream::start();
    let proxy = Proxy::start_in(directory(), &canary.url(), kind.config());
    let mut wrong = Vec::new();
    for case in cases.iter().filter(|case| is_of_use(case, kind)) {
        canary.take_requests();
        let mut client = kind.connect(&proxy);
        client.socket.set_read_timeout(Some(SOON)).unwrap();
        client.socket.set_read_timeout(Some(SOON)).unwrap();
        // The gate may refuse before it has read all.
        let _ = client.try_send(&case.bytes);
        let (answers, closes) = answers(&mut client, case);
        drop(client);
        let arrived = canary.take_requests();
        let mut lines: Vec<_> = arrived
            .iter()
            .map(|request| shown(&request.request_line(), &request.body))
            .collect();
        lines.retain(|line| line != PROBE);
        for request in &arrived {
            // What the gate vouches for is there once, and true.
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
            let stays = [
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
                !stays.iter().any(|word| text.contains(word)),
                "{}: {text}",
                case.name
            );
        }
        if !are_right(&answers, case, kind)
            || lines != as_strings(case.arrives)
            || closes != case.closes
        {
            wrong.push(format!(
                "{} over {kind:?}: answers {answers:?}, arrives {lines:?}, closes {closes}",
                case.name
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // What was begun and refused amid its body is no request; of what the inner one says nothing went out.
    for request in canary.violations() {
        assert!(!request.contains("smuggled"), "{request}");
    }
}

/// The statuses that came, and whether the connection was closed behind the last one that was expected.
fn answers(client: &mut Client, case: &Case) -> (Vec<u16>, bool) {
    let method = if case.bytes.starts_with(b"HEAD") {
        "HEAD"
    } else {
        "GET"
    };
    let mut statuses = Vec::new();
    for _ in case.answers {
        match client.try_read_response(method) {
            Ok(answer) => statuses.push(answer.status),
            Err(_) => return (statuses, true),
        }
    }
    if !case.closes {
        let asked = client.try_send(format!("{PROBE} HTTP/1.1\r\n{HOST}{LOGIN}\r\n"));
        return (
            statuses,
            asked.is_err() || client.try_read_response("GET").is_err(),
        );
    }
    let end = client.try_read_response("GET");
    (statuses, end.is_err_and(|error| !is_timeout(&error)))
}

/// An answer that does not come at all is a wrong one.
const SOON: Duration = Duration::from_secs(5);

const PROBE: &str = "GET /v2/probe/tags/list";

fn shown(line: &str, body: &[u8]) -> String {
    if body.is_empty() {
        return line.to_owned();
    }
    format!("{line} + {}", String::from_utf8_lossy(body))
}

fn as_strings(lines: &[&str]) -> Vec<String> {
    lines.iter().map(ToString::to_string).collect()
}
