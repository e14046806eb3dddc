//! A fake Harbor as a client of its inner nginx sees it, reduced to its registry, its token service, its login and one
//! page.
//!
//! It listens on plain HTTP. It takes its own name to be `http://HOST:5080` or has no name, and each release has its own
//! way to choose the scheme of the URLs in its responses. The configuration of the inner nginx is the one that Harbor
//! ships.

use base64ct::{Base64, Encoding};

use super::{Exchange, Registry};

/// The groups of releases that the tests distinguish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    /// Harbor 1.5: the realm has the name and port of harbor.cfg; the scheme is that of the inner nginx.
    FixedRealm,
    /// Harbor 1.8 to 2.2: the realm has the value of `Host`; the scheme is that of the inner nginx, whatever
    /// `X-Forwarded-Proto` says.
    IgnoresForwardedProto,
    /// Harbor 2.3 and later: the scheme is that of `X-Forwarded-Proto`, except in the realm, which has the scheme of
    /// `external_url`.
    ReadsForwardedProto,
}

impl Release {
    pub(crate) const ALL: [Self; 3] = [
        Self::FixedRealm,
        Self::IgnoresForwardedProto,
        Self::ReadsForwardedProto,
    ];
}

/// The login of a robot account; Harbor puts a `$` in the names of robot accounts.
pub(crate) const ROBOT: &[u8] = b"robot$ci:s:ecret";
/// The `Authorization` value with the token that [`ROBOT`] gets.
pub(crate) const TOKEN: &str = "Bearer eyJ.ro-bot_.x";
/// The body of a compressed page of the portal. The proxy must not change it.
pub(crate) const PACKED: &[u8] = b"\x1f\x8b\x08\x00packed\x00\xff";

/// Starts a fake Harbor.
pub(crate) fn start(release: Release) -> Registry {
    Registry::start(move |exchange| {
        let path = exchange.head.target.clone();
        let path = path.split('?').next().unwrap();
        exchange.body();
        let response = match path {
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
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        let length = body.len();
        exchange.send(format!(
            "HTTP/1.1 {head}\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
    })
}

/// Responds under `/v2/`, the only location where the inner nginx keeps the port of `Host`.
fn registry(release: Release, exchange: &Exchange<'_>) -> String {
    let head = &exchange.head;
    let host = head.header("host");
    let scheme = match release {
        Release::FixedRealm | Release::IgnoresForwardedProto => "http",
        Release::ReadsForwardedProto => head.header("x-forwarded-proto"),
    };
    let name = match release {
        Release::FixedRealm => format!("{}:5080", host.split(':').next().unwrap()),
        Release::IgnoresForwardedProto | Release::ReadsForwardedProto => host.to_owned(),
    };
    match (head.all("authorization").as_slice(), head.method.as_str()) {
        ([], _) if head.target.starts_with("/v2/_catalog") => wrong_credentials(),
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
        _ => wrong_credentials(),
    }
}

/// The response to wrong credentials.
fn wrong_credentials() -> String {
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

/// Checks a login as gorilla/csrf does: the request needs the page's own origin, a token and the matching cookie.
fn login(exchange: &Exchange<'_>) -> String {
    let head = &exchange.head;
    if head.method == "GET" {
        return "200 OK\r\nSet-Cookie: sid=abc; Path=/; HttpOnly\r\n\
                Set-Cookie: _gorilla_csrf=MTIz; Path=/; HttpOnly; SameSite=Strict\r\nX-Harbor-CSRF-Token: tok==\r\n\r\n"
            .to_owned();
    }
    let host = head.header("host");
    let is_same_origin =
        head.header("origin").ends_with(host) && head.header("referer").contains(host);
    let has_cookie = head.header("cookie").contains("_gorilla_csrf=MTIz");
    if is_same_origin
        && has_cookie
        && head.header("x-harbor-csrf-token") == "tok=="
        && head.header("sec-fetch-site") == "same-origin"
    {
        return "200 OK\r\n\r\n".to_owned();
    }
    "403 Forbidden\r\n\r\nCSRF token invalid".to_owned()
}

/// A presigned URL of the object storage.
pub(crate) const STORE: &str =
    "https://s3.example/bucket/docker/x?X-Amz-Signature=ab%2Bc%2F&X-Amz-Date=1";
