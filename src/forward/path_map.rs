//! The paths of a route whose upstream URL has a path of its own: the path of the URL replaces the path of the route.
//!
//! `forward` maps the request path to the upstream's, and maps the paths in `Location`, `Content-Location`, `Refresh` and the
//! `Path` of cookies back. Bodies are not changed. No route of a registry has such a map, because the registry API is at
//! `/v2/` on both sides.

use http::header::{self, HeaderMap, HeaderValue};

use crate::target::Target;

/// The path of a route and the path that replaces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathMap {
    /// The path of the route, without the slash at its end.
    route: String,
    /// The path of the upstream URL, without the slash at its end.
    upstream: String,
    /// Whether the upstream gets `X-Forwarded-Prefix`. The paths in its responses may then begin with the path of the route
    /// already.
    is_prefix_sent: bool,
}

impl PathMap {
    /// Creates the map from two canonical paths, with or without a slash at the end.
    pub fn new(route: &str, upstream: &str, is_prefix_sent: bool) -> Self {
        let trimmed = |path: &str| path.trim_end_matches('/').to_owned();
        Self {
            route: trimmed(route),
            upstream: trimmed(upstream),
            is_prefix_sent,
        }
    }

    /// The request target for the upstream. What follows the path of the route stays byte for byte as the client sent it.
    ///
    /// `None` if the slash after the path of the route is percent-encoded in the request: the rest of the path would then not
    /// begin with a slash.
    pub(super) fn to_upstream(&self, target: &Target) -> Option<String> {
        let rest = target.strip_prefix(&self.route)?;
        let mut mapped = format!("{}{rest}", self.upstream);
        if mapped.is_empty() {
            mapped.push('/');
        }
        if let Some(query) = target.query() {
            mapped.extend(["?", query]);
        }
        Some(mapped)
    }

    /// The path of a URL, with everything after it, for the client. `None` if it is not below the path of the upstream.
    pub(super) fn to_client(&self, path: &str) -> Option<String> {
        // After two slashes, a client reads a host (RFC 3986 section 4.2).
        if path.starts_with("//") || self.is_prefix_sent && below(path, &self.route).is_some() {
            return None;
        }
        let rest = below(path, &self.upstream)?;
        // The route "/" with the upstream path "/a" would otherwise turn "/a//host" into a host. Browsers read a backslash as a
        // slash, and ignore a tab (URL Standard section 4.4).
        let begins_host = |rest: &str| rest.starts_with(['/', '\\', '\t']);
        if self.route.is_empty() && rest.strip_prefix('/').is_some_and(begins_host) {
            return None;
        }
        let mapped = format!("{}{rest}", self.route);
        Some(if mapped.starts_with('/') {
            mapped
        } else {
            format!("/{mapped}")
        })
    }

    /// Maps the `Path` of each cookie.
    pub(super) fn map_cookies(&self, headers: &mut HeaderMap) {
        if let header::Entry::Occupied(mut cookies) = headers.entry(header::SET_COOKIE) {
            for cookie in cookies.iter_mut() {
                let mapped = self.map_cookie(cookie.as_bytes());
                if let Some(mapped) = mapped.and_then(|bytes| HeaderValue::from_bytes(&bytes).ok())
                {
                    *cookie = mapped;
                }
            }
        }
    }

    fn map_cookie(&self, cookie: &[u8]) -> Option<Vec<u8>> {
        let mut is_changed = false;
        let attributes = cookie.split(|byte| *byte == b';').enumerate();
        let mapped = attributes.map(|(index, attribute)| {
            let path = (index > 0)
                .then(|| self.map_cookie_path(attribute))
                .flatten();
            is_changed |= path.is_some();
            path.unwrap_or_else(|| attribute.to_vec())
        });
        let mapped: Vec<Vec<u8>> = mapped.collect();
        is_changed.then(|| mapped.join(b";".as_slice()))
    }

    /// The attribute ` Path=/…` with the mapped path; `None` for another attribute or a path that is not mapped.
    fn map_cookie_path(&self, attribute: &[u8]) -> Option<Vec<u8>> {
        let text = std::str::from_utf8(attribute).ok()?;
        let (name, path) = text.split_once('=')?;
        if !name.trim().eq_ignore_ascii_case("path") {
            return None;
        }
        // A cookie for "/ui" is sent for "/ui" and everything below it; one for "/ui/" is not sent for "/ui" (RFC 6265
        // section 5.1.4).
        let mapped = self.to_client(path.trim())?;
        let mapped = match mapped.trim_end_matches('/') {
            "" => "/",
            path => path,
        };
        Some(format!("{name}={mapped}").into_bytes())
    }
}

/// What follows `prefix` in a path with or without a query. `None` if the prefix does not end on a segment boundary of the path.
fn below<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(prefix)?;
    let is_below = rest.is_empty() && !path.is_empty() || rest.starts_with(['/', '?', '#']);
    (is_below && path.starts_with('/')).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_below_the_upstream_path_are_mapped_back() {
        for (route, upstream, path, expected) in [
            ("/ui/", "/app/", "/app/x?y=1", Some("/ui/x?y=1")),
            ("/ui/", "/app/", "/app", Some("/ui")),
            ("/ui/", "/app/", "/app?x", Some("/ui?x")),
            ("/ui/", "/app/", "/apps/x", None),
            ("/ui/", "/app/", "/other", None),
            ("/ui/", "/app/", "x/y", None),
            ("/ui/", "/app/", "//app/x", None),
            ("/ui/", "/", "/x", Some("/ui/x")),
            ("/ui/", "/", "/", Some("/ui/")),
            ("/ui/", "/", "//evil.example/x", None),
            ("/", "/app/", "/app/x", Some("/x")),
            ("/", "/app/", "/app", Some("/")),
            ("/", "/app/", "/app?x", Some("/?x")),
            ("/", "/app/", "/app//evil.example", None),
            ("/", "/app/", "/app/\\evil.example", None),
            ("/", "/app/", "/app/\t/evil.example", None),
        ] {
            let map = PathMap::new(route, upstream, false);
            assert_eq!(map.to_client(path).as_deref(), expected, "{path}");
        }
        let map = PathMap::new("/ui/", "/", true);
        assert_eq!(map.to_client("/ui/x"), None);
        assert_eq!(map.to_client("/x").unwrap(), "/ui/x");
    }

    #[test]
    fn only_the_path_attribute_of_a_cookie_is_mapped() {
        let map = PathMap::new("/ui/", "/app/", false);
        let mapped = |cookie: &str| {
            let bytes = map.map_cookie(cookie.as_bytes())?;
            Some(String::from_utf8(bytes).unwrap())
        };
        for (cookie, expected) in [
            ("a=b; Path=/app/; HttpOnly", Some("a=b; Path=/ui; HttpOnly")),
            ("a=b; path=/app/x", Some("a=b; path=/ui/x")),
            ("Path=/app/; Secure", None),
            ("a=b; Path=/", None),
            ("a=b; Path=", None),
            ("a=b", None),
        ] {
            assert_eq!(mapped(cookie).as_deref(), expected, "{cookie}");
        }
        let all = PathMap::new("/", "/app", false);
        assert_eq!(all.map_cookie(b"a=b; Path=/app").unwrap(), b"a=b; Path=/");
    }
}
