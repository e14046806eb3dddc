//! Harbor as its inner nginx shows it, reduced to what it says about itself, about logins and about pages.
//!
//! It listens on plain HTTP, knows its own name as `http://HOST:5080` or not at all, and every release has its own idea of
//! the scheme that clients use. No edit has been made to it.

use base64ct::{Base64, Encoding};

use super::{Exchange, Registry};

/// What differs between releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    /// 1.5: the realm is made of harbor.cfg's own name and port, the scheme is the inner nginx's.
    Old,
    /// 1.8 to 2.2: the realm has the Host, the scheme is still the inner nginx's, whatever the gate says.
    Deaf,
    /// From 2.3 on `X-Forwarded-Proto` is believed, but for the realm, which has the scheme of `external_url`.
    Listening,
}

impl Release {
    pub(crate) const ALL: [Self; 3] = [Self::Old, Self::Deaf, Self::Listening];
}

/// A robot's login; its name has a `$`, as Harbor gives them.
pub(crate) const ROBOT: &[u8] = b"robot$ci:s:ecret";
/// What is to be had for it.
pub(crate) const TOKEN: &str = "Bearer eyJ.ro-bot_.x";
/// What a page of the portal comes to, packed; the gate has no business in it.
pub(crate) const PACKED: &[u8] = b"\x1f\x8b\x08\x00packed\x00\xff";

/// Starts one.
pub(crate) fn start(release: Release) -> Registry {
    Registry::start(move |exchange| {
        let path = exchange.head.target.clone();
        let path = path.split('?').next().unwrap();
        exchange.body();
        let answer = match path {
            _ if path.starts_with("/v2/") => registry(release, exchange),
            "/service/token" => token(exchange),
            "/c/login" => login(exchange),
            "/api/v2.0/users/current" => {
                "401 Unauthorized\r\nContent-Type: application/json\r\n\r\n{}".to_owned()
            }
            _ => {
                let head = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nVary: Accept-Encoding\r\n";
                let length = PACKED.len();
                exchange.send(format!("{head}Content-Length: {length}\r\n\r\n"));
                exchange.send(PACKED);
                return;
            }
        };
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let length = body.len();
        exchange.send(format!(
            "HTTP/1.1 {head}\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
    })
}

/// `/v2/`: the one place where the inner nginx keeps the port of `Host`.
fn registry(release: Release, exchange: &Exchange<'_>) -> String {
    let head = &exchange.head;
    let host = head.header("host");
    let scheme = match release {
        Release::Old | Release::Deaf => "http",
        Release::Listening => head.header("x-forwarded-proto"),
    };
    let name = match release {
        Release::Old => format!("{}:5080", host.split(':').next().unwrap()),
        Release::Deaf | Release::Listening => host.to_owned(),
    };
    match (head.all("authorization").as_slice(), head.method.as_str()) {
        ([], _) if head.target.starts_with("/v2/_catalog") => basic(),
        ([], _) => format!(
            "401 Unauthorized\r\nDocker-Distribution-Api-Version: registry/2.0\r\nSet-Cookie: sid=1; Path=/; HttpOnly\r\n\
             Www-Authenticate: Bearer realm=\"http://{name}/service/token\",service=\"harbor-registry\"\r\n\r\n\
             {{\"errors\":[{{\"code\":\"UNAUTHORIZED\"}}]}}"
        ),
        ([TOKEN], "POST" | "PATCH") => format!(
            "202 Accepted\r\nLocation: {scheme}://{host}/v2/a/b/blobs/uploads/u?_state=x%2By%3D\r\n\r\n"
        ),
        ([TOKEN], "PUT") => {
            format!("201 Created\r\nLocation: {scheme}://{host}/v2/a/b/blobs/sha256:0\r\n\r\n")
        }
        ([TOKEN], _) if head.target.contains("/blobs/") => {
            format!("307 Temporary Redirect\r\nLocation: {STORE}\r\n\r\n")
        }
        ([TOKEN], _) => "200 OK\r\n\r\n{}".to_owned(),
        _ => basic(),
    }
}

/// Any credentials that are no good.
fn basic() -> String {
    "401 Unauthorized\r\nWww-Authenticate: Basic realm=\"harbor\"\r\n\r\n{}".to_owned()
}

fn token(exchange: &Exchange<'_>) -> String {
    let expected = format!("Basic {}", Base64::encode_string(ROBOT));
    if exchange.head.all("authorization") == [expected.as_str()] {
        let token = TOKEN.strip_prefix("Bearer ").unwrap();
        return format!(
            "200 OK\r\nContent-Type: application/json\r\n\r\n{{\"token\":\"{token}\"}}"
        );
    }
    "401 Unauthorized\r\n\r\n{}".to_owned()
}

/// As gorilla/csrf judges: a page's own origin, a token and its cookie.
fn login(exchange: &Exchange<'_>) -> String {
    let head = &exchange.head;
    if head.method == "GET" {
        return "200 OK\r\nSet-Cookie: sid=abc; Path=/; HttpOnly\r\n\
                Set-Cookie: _gorilla_csrf=MTIz; Path=/; HttpOnly; SameSite=Strict\r\nX-Harbor-CSRF-Token: tok==\r\n\r\n"
            .to_owned();
    }
    let host = head.header("host");
    let is_own = head.header("origin").ends_with(host) && head.header("referer").contains(host);
    let has_cookie = head.header("cookie").contains("_gorilla_csrf=MTIz");
    if is_own
        && has_cookie
        && head.header("x-harbor-csrf-token") == "tok=="
        && head.header("sec-fetch-site") == "same-origin"
    {
        return "200 OK\r\n\r\n".to_owned();
    }
    "403 Forbidden\r\n\r\nCSRF token invalid".to_owned()
}

/// A presigned URL of the storage.
pub(crate) const STORE: &str =
    "https://s3.example/bucket/docker/x?X-Amz-Signature=ab%2Bc%2F&X-Amz-Date=1";
