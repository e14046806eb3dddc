//! What must hold whatever an upstream says in `Location`, `Link` and `Set-Cookie`.
//!
//! Compiled for tests and for `cargo fuzz` only.

use http::header::{self, HeaderMap, HeaderValue};

use super::headers::secure_cookies;
use super::url_rewrite::{Origin, UrlRewriter};

/// Repairs `value` in all three.
///
/// # Panics
/// When something does not hold.
pub fn check(value: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(value) else {
        return;
    };
    let mut headers = HeaderMap::new();
    let names = [header::LOCATION, header::LINK, header::SET_COOKIE];
    for name in &names {
        headers.append(name, value.clone());
    }
    let once = repaired(headers);
    assert_eq!(once.len(), names.len(), "a field more or less");
    assert_eq!(
        once,
        repaired(once.clone()),
        "repaired twice is something else"
    );
    let cookie = once.get(header::SET_COOKIE).map(HeaderValue::as_bytes);
    assert!(
        cookie.is_some_and(|it| it.starts_with(value.as_bytes())),
        "another cookie"
    );
}

fn repaired(mut headers: HeaderMap) -> HeaderMap {
    let outer = Origin {
        scheme: "https".to_owned(),
        authority: "outer.example:8443".to_owned(),
    };
    let repair = UrlRewriter {
        external: outer.to_external(),
        host: "reg.example",
        endpoints: &["127.0.0.1:5000".to_owned()],
        internal_origins: &[],
        is_site: |_: &str| false,
    };
    repair.rewrite_headers(&mut headers);
    secure_cookies(&mut headers);
    headers
}
