//! Properties of the proxy's own parsers: one function per parser, which takes the bytes of a header field, a line or a file.

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, StatusCode, Version};

use crate::auth::{Credentials, is_basic};
use crate::forward::headers::secure_cookies;
use crate::forward::{Origin, UrlRewriter};
use crate::htpasswd;
use crate::registry::{Action, Operation, Parsed, is_name, is_registry_path};
use crate::target::Target;

/// Parses `header` as the value of an `Authorization` field.
///
/// # Panics
/// If the parser breaks a property.
pub fn check_authorization(header: &[u8]) {
    const MAX_CREDENTIALS: usize = 100;
    let Ok(Some(credentials)) = Credentials::parse(header, MAX_CREDENTIALS) else {
        return;
    };
    assert!(is_basic(header), "credentials of another scheme");
    assert!(
        credentials.len() <= MAX_CREDENTIALS,
        "credentials over the limit"
    );
    let user = &credentials.user;
    assert!(
        !user.is_empty() && !user.contains(&b':'),
        "the user name ends at the first colon"
    );
}

/// Rewrites `value` as the `Location`, the `Link` and the `Set-Cookie` field of an upstream's response.
///
/// # Panics
/// If the rewriting breaks a property.
pub fn check_response_headers(value: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(value) else {
        return;
    };
    let mut headers = HeaderMap::new();
    let names = [header::LOCATION, header::LINK, header::SET_COOKIE];
    for name in &names {
        headers.append(name, value.clone());
    }
    let rewritten = rewrite(headers);
    assert_eq!(rewritten.len(), names.len(), "the number of fields changed");
    assert_eq!(
        rewritten,
        rewrite(rewritten.clone()),
        "a second rewrite changes the fields again"
    );
    let cookie = rewritten.get(header::SET_COOKIE).map(HeaderValue::as_bytes);
    assert!(
        cookie.is_some_and(|cookie| cookie.starts_with(value.as_bytes())),
        "the cookie itself changed"
    );
}

fn rewrite(mut headers: HeaderMap) -> HeaderMap {
    let external = Origin {
        scheme: "https".to_owned(),
        authority: "outer.example:8443".to_owned(),
    };
    let rewriter = UrlRewriter {
        external: external.to_external(),
        host: "reg.example",
        endpoints: &["127.0.0.1:5000".to_owned()],
        internal_origins: &[],
        is_site: |_: &str| false,
        path_map: None,
    };
    rewriter.rewrite_headers(&mut headers);
    secure_cookies(&mut headers);
    headers
}

/// Parses `bytes` as a password file.
///
/// # Panics
/// If the parser breaks a property.
pub fn check_htpasswd(bytes: &[u8]) {
    let loaded = htpasswd::parse(bytes);
    let lines = bytes.split(|byte| matches!(byte, b'\r' | b'\n')).count();
    for problem in &loaded.problems {
        assert!((1..=lines).contains(&problem.line), "{problem}");
        assert!(!problem.to_string().contains(char::is_control), "{problem}");
    }
    assert!(loaded.users.len() + loaded.problems.len() <= 6 * (bytes.len() + 1));
}

/// Parses a registry request: the first line of `bytes` is the method, the second the path, the third the query.
///
/// # Panics
/// If the parser breaks a property.
pub fn check_registry_request(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.split('\n');
    let method = lines
        .next()
        .and_then(|method| Method::from_bytes(method.as_bytes()).ok());
    let (Some(method), Some(path)) = (method, lines.next()) else {
        return;
    };
    let operation = match Operation::parse(&method, path, lines.next()) {
        Ok(Parsed::Operation(operation)) => operation,
        Ok(Parsed::Redirect {
            operation,
            location,
        }) => {
            assert!(
                location.starts_with("/v2/") && !location.starts_with("//"),
                "{location}"
            );
            assert!(
                location.bytes().all(|byte| byte.is_ascii_graphic()),
                "{location}"
            );
            operation
        }
        // The proxy responds to this request itself, but only to a client that may read the repository.
        Ok(Parsed::Missing { operation, invalid }) => {
            assert_eq!(invalid.status(), StatusCode::NOT_FOUND);
            assert_eq!(operation.action(), Action::Pull);
            assert!(operation.repository().is_some_and(is_name));
            return;
        }
        Err(invalid) => {
            assert!(invalid.status().is_client_error() && !invalid.to_string().is_empty());
            return;
        }
    };
    let target = operation.target();
    let is_clean = |byte: u8| byte.is_ascii_graphic() && byte != b'#' && byte != b'\\';
    assert!(target.bytes().all(is_clean), "{target}");
    assert!(
        !target.contains("//") && target.matches('?').count() <= 1,
        "{target}"
    );
    let (path, query) = target
        .split_once('?')
        .map_or((&*target, None), |(path, query)| (path, Some(query)));
    assert!(is_registry_path(path) && !path.contains('%'), "{target}");
    assert!(
        path.split('/')
            .all(|segment| segment != "." && segment != ".."),
        "{target}"
    );
    // The operation of a redirect may have a method that the parser rejects on the plain form: a HEAD of a tag list.
    let reparsed = Operation::parse(&method, path, query)
        .or_else(|_| Operation::parse(&Method::GET, path, query));
    assert_eq!(
        reparsed,
        Ok(Parsed::Operation(operation)),
        "the target of an operation is parsed as another operation"
    );
}

/// Parses a request's target and host: the first line of `bytes` is the target, each further line a `Host` field.
///
/// # Panics
/// If the parser breaks a property.
pub fn check_target(bytes: &[u8]) {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let mut lines = bytes.split(|byte| *byte == b'\n');
        let mut head = Request::builder()
            .version(version)
            .uri(lines.next().unwrap_or_default());
        for host in lines {
            head = head.header(header::HOST, host);
        }
        let Ok(request) = head.body(()) else { return };
        let Ok(target) = Target::parse(&request.into_parts().0) else {
            continue;
        };
        let path = target.path();
        assert!(path.starts_with('/') && !path.contains("//"), "{target:?}");
        assert!(!path.contains(char::is_control), "{target:?}");
        assert!(
            path.split('/')
                .all(|segment| segment != "." && segment != ".."),
            "{target:?}"
        );
        let raw = [target.raw_path(), target.query().unwrap_or_default()].concat();
        assert!(
            raw.bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b'#'),
            "{target:?}"
        );
        let authority = target.authority();
        assert!(!authority.contains(['@', '/', ' ', ',', '%']), "{target:?}");
        assert_eq!(target.host(), target.host().to_ascii_lowercase());
    }
}
