//! Rewrites the URLs in a response that name the registry's own address, so that they lead clients to the proxy.
//!
//! A registry builds URLs from the scheme and the host of the request that it gets from the proxy. A client follows them
//! literally, and it drops its credentials if the authority differs, even in the port. `forward` rewrites `Location`, `Content-Location`, `Link` and the realm of Bearer
//! challenges. A URL of another origin (object storage, single sign-on) is kept byte for byte.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::PathMap;
use crate::net::host::strip_brackets;
use crate::www_authenticate::rewrite_bearer_realms;

/// A scheme and an authority, from the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// `https` or `http`.
    pub scheme: String,
    /// The host, and the port if it is not the default of the scheme.
    pub authority: String,
}

impl Origin {
    /// The origin in the form that a [`ForwardContext`](super::ForwardContext) has.
    pub fn to_external(&self) -> ExternalOrigin<'_> {
        ExternalOrigin {
            scheme: &self.scheme,
            authority: &self.authority,
        }
    }
}

/// The origin that URLs in responses get: the one that the client addressed, or `external_url`.
#[derive(Clone, Copy, Debug)]
pub struct ExternalOrigin<'a> {
    /// `https` or `http`.
    pub scheme: &'a str,
    /// The host and port, as the client or the configuration writes them.
    pub authority: &'a str,
}

impl ExternalOrigin<'_> {
    /// The port, which is the default of the scheme if none is written. `None` if the authority is malformed.
    pub(crate) fn port(&self) -> Option<u16> {
        let (_, port) = host_and_port(self.authority, default_port(self.scheme)?)?;
        Some(port)
    }
}

/// Replaces the origins that name the registry itself by the external origin.
#[derive(Debug)]
pub(crate) struct UrlRewriter<'a, F> {
    /// The origin that URLs get.
    pub(crate) external: ExternalOrigin<'a>,
    /// The `Host` that was sent to the upstream. If that is the authority of an endpoint, which `endpoints` has already, the
    /// host that the client addressed.
    pub(crate) host: &'a str,
    /// The authorities of the upstream's endpoints. A URL of one endpoint may name another endpoint.
    pub(crate) endpoints: &'a [String],
    /// Further origins that the upstream uses for itself.
    pub(crate) internal_origins: &'a [Origin],
    /// Whether a host name (without port, in lower case) is one of the site's.
    pub(crate) is_site: F,
    /// The paths of a route whose upstream URL has a path.
    pub(crate) path_map: Option<&'a PathMap>,
}

impl<F: Fn(&str) -> bool> UrlRewriter<'_, F> {
    /// Rewrites all fields of a response that can hold the registry's own address.
    pub(crate) fn rewrite_headers(&self, headers: &mut HeaderMap) {
        // Most responses have none of the fields. One pass over the names costs less than a lookup of each field.
        if !headers.keys().any(may_hold_url) {
            return;
        }
        for name in [header::LOCATION, header::CONTENT_LOCATION] {
            rewrite_field(headers, &name, |value| self.rewrite_reference(value));
        }
        if let Some(path_map) = self.path_map {
            rewrite_field(headers, &header::REFRESH, |value| {
                self.rewrite_refresh(value)
            });
            path_map.map_cookies(headers);
        }
        rewrite_field(headers, &header::LINK, |value| self.rewrite_links(value));
        self.rewrite_realms(headers);
    }

    /// Unlike the other fields, a challenge may contain bytes that are not ASCII.
    fn rewrite_realms(&self, headers: &mut HeaderMap) {
        if let header::Entry::Occupied(mut fields) = headers.entry(header::WWW_AUTHENTICATE) {
            for field in fields.iter_mut() {
                let rewritten =
                    rewrite_bearer_realms(field.as_bytes(), |url| self.rewrite_url(url));
                if let Some(value) = rewritten.and_then(|bytes| HeaderValue::try_from(bytes).ok()) {
                    *field = value;
                }
            }
        }
    }

    /// Rewrites a URL or a path. Paths are mapped only where the upstream URL has a path.
    fn rewrite_reference(&self, url: &str) -> Option<String> {
        let Some(path_map) = self.path_map else {
            return self.rewrite_url(url);
        };
        if url.starts_with('/') {
            return path_map.to_client(url);
        }
        let (scheme, authority, rest) = split_url(url)?;
        if !self.is_internal(scheme, authority) {
            return None;
        }
        let mapped = path_map.to_client(if rest.is_empty() { "/" } else { rest });
        let (external, rest) = (&self.external, mapped.as_deref().unwrap_or(rest));
        Some(format!(
            "{}://{}{rest}",
            external.scheme, external.authority
        ))
    }

    /// Rewrites the URL in `5; url=/path`, with or without quotes.
    fn rewrite_refresh(&self, value: &str) -> Option<String> {
        let at = value.to_ascii_lowercase().find("url=")? + "url=".len();
        let (before, url) = value.split_at_checked(at)?;
        let bare = url.trim_start_matches(['"', '\'']);
        let end = bare.find(['"', '\'']).unwrap_or(bare.len());
        let (bare, after) = bare.split_at_checked(end)?;
        let rewritten = self.rewrite_reference(bare)?;
        let quote = url.get(..url.len() - bare.len() - after.len())?;
        Some(format!("{before}{quote}{rewritten}{after}"))
    }

    /// The URL with the external origin. `None` if it is relative or names another origin.
    pub(crate) fn rewrite_url(&self, url: &str) -> Option<String> {
        let (scheme, authority, rest) = split_url(url)?;
        let external = &self.external;
        self.is_internal(scheme, authority)
            .then(|| format!("{}://{}{rest}", external.scheme, external.authority))
    }

    /// Rewrites each `<URL>` of a `Link` field. Angle brackets inside quoted parameters are text.
    fn rewrite_links(&self, value: &str) -> Option<String> {
        let mut out = String::with_capacity(value.len());
        let mut is_changed = false;
        let mut is_quoted = false;
        let mut rest = value;
        while let Some(at) = rest.find(['<', '"']) {
            let (before, from) = rest.split_at_checked(at)?;
            out.push_str(before);
            if from.starts_with('"') {
                is_quoted = !is_quoted;
            }
            let Some(inner) = from.strip_prefix('<').filter(|_| !is_quoted) else {
                let (delimiter, after) = from.split_at_checked(1)?;
                out.push_str(delimiter);
                rest = after;
                continue;
            };
            let Some((url, after)) = inner.split_once('>') else {
                // No URL follows. A search from each further `<` would read the value again and again.
                rest = from;
                break;
            };
            let rewritten = self.rewrite_url(url);
            is_changed |= rewritten.is_some();
            out.extend(["<", rewritten.as_deref().unwrap_or(url), ">"]);
            rest = after;
        }
        out.push_str(rest);
        is_changed.then_some(out)
    }

    /// Whether an origin names the registry itself:
    ///
    /// - the authority of an endpoint of the upstream;
    /// - the `Host` that was sent to the upstream, or the external origin;
    /// - one of the configured internal origins;
    /// - a host name of the site with scheme http, on any port. An upstream behind a proxy knows neither that clients use https
    ///   nor which port they use.
    fn is_internal(&self, scheme: &str, authority: &str) -> bool {
        let Some(port) = default_port(scheme) else {
            return false;
        };
        let Some(named) = host_and_port(authority, port) else {
            return false;
        };
        let is_same =
            |other: &str, port| host_and_port(other, port).is_some_and(|other| other == named);
        let external = &self.external;
        self.endpoints.iter().any(|endpoint| is_same(endpoint, 80))
            || is_same(self.host, port)
            || default_port(external.scheme).is_some_and(|port| is_same(external.authority, port))
            || self.internal_origins.iter().any(|origin| {
                default_port(&origin.scheme) == Some(port) && is_same(&origin.authority, port)
            })
            || (port == 80 && self.is_host_of_site(&named.0))
    }

    /// Whether `name` is a host name of the site. The name that the client addressed counts also where the hosts of the site
    /// are `*`.
    fn is_host_of_site(&self, name: &str) -> bool {
        let is_host_of =
            |authority: &str| host_and_port(authority, 80).is_some_and(|(host, _)| host == name);
        (self.is_site)(name) || is_host_of(self.host) || is_host_of(self.external.authority)
    }
}

/// Whether [`UrlRewriter::rewrite_headers`] may change a field of this name.
fn may_hold_url(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::LOCATION
            | header::CONTENT_LOCATION
            | header::LINK
            | header::WWW_AUTHENTICATE
            | header::REFRESH
            | header::SET_COOKIE
    )
}

/// Replaces each value of a field for which `rewrite` returns another one.
fn rewrite_field(
    headers: &mut HeaderMap,
    name: &HeaderName,
    rewrite: impl Fn(&str) -> Option<String>,
) {
    if let header::Entry::Occupied(mut entry) = headers.entry(name) {
        for value in entry.iter_mut() {
            let rewritten = value.to_str().ok().and_then(&rewrite);
            if let Some(rewritten) = rewritten.and_then(|text| HeaderValue::try_from(text).ok()) {
                *value = rewritten;
            }
        }
    }
}

/// The scheme, the authority and the rest of an absolute URL.
fn split_url(url: &str) -> Option<(&str, &str, &str)> {
    let (scheme, after) = url.split_once("://")?;
    let end = after.find(['/', '?', '#']).unwrap_or(after.len());
    let (authority, rest) = after.split_at_checked(end)?;
    Some((scheme, authority, rest))
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        _ if scheme.eq_ignore_ascii_case("http") => Some(80),
        _ if scheme.eq_ignore_ascii_case("https") => Some(443),
        _ => None,
    }
}

/// The host in lower case without brackets, and the port. An empty port is the default of the scheme (RFC 3986 section 6.2.3).
/// `None` if the authority has user information or a port that is no number.
fn host_and_port(authority: &str, default_port: u16) -> Option<(String, u16)> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, "")) => (host, default_port),
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (authority, default_port),
    };
    let host = strip_brackets(host);
    (!host.is_empty() && !host.contains('@')).then(|| (host.to_ascii_lowercase(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewrite(value: &str) -> String {
        with_rewriter("reg.example:8443", "reg.example:8443", |rewriter| {
            rewriter
                .rewrite_url(value)
                .unwrap_or_else(|| value.to_owned())
        })
    }

    fn with_rewriter<T>(
        external: &str,
        host: &str,
        test: impl Fn(&UrlRewriter<'_, fn(&str) -> bool>) -> T,
    ) -> T {
        let external = ExternalOrigin {
            scheme: "https",
            authority: external,
        };
        let internal_origins = [
            Origin {
                scheme: "https".into(),
                authority: "Core".into(),
            },
            Origin {
                scheme: "http".into(),
                authority: "core:8080".into(),
            },
        ];
        let is_site: fn(&str) -> bool = |host| host == "reg.example" || host == "::1";
        test(&UrlRewriter {
            external,
            host,
            endpoints: &["10.0.0.9:5000".to_owned(), "127.0.0.1:5000".to_owned()],
            internal_origins: &internal_origins,
            is_site,
            path_map: None,
        })
    }

    #[test]
    fn urls_of_the_registry_get_the_external_origin() {
        for internal in [
            "http://127.0.0.1:5000/v2/a?_state=x%2By%3D",
            "http://reg.example:8443/v2/a?_state=x%2By%3D",
            "https://reg.example:8443/v2/a?_state=x%2By%3D",
            "http://REG.example/v2/a?_state=x%2By%3D",
            "HTTP://reg.example:5000/v2/a?_state=x%2By%3D",
            "http://reg.example:/v2/a?_state=x%2By%3D",
            "https://core:443/v2/a?_state=x%2By%3D",
            "http://CORE:8080/v2/a?_state=x%2By%3D",
        ] {
            assert_eq!(
                rewrite(internal),
                "https://reg.example:8443/v2/a?_state=x%2By%3D",
                "{internal}"
            );
        }
    }

    #[test]
    fn relative_urls_and_other_origins_are_unchanged() {
        for other in [
            "/v2/a",
            "https://s3.example/b?X-Amz-Signature=1",
            "https://reg.example/v2/",
            "http://reg.example@evil/v2/",
            "ftp://reg.example/",
            "//reg.example/v2/",
            "http://127.0.0.1:5001/",
            "http://core/",
            "https://core:8080/",
            "http://",
            "http://reg.example:x/",
        ] {
            assert_eq!(rewrite(other), other);
        }
    }

    #[test]
    fn the_origin_is_spelled_as_the_client_wrote_it() {
        with_rewriter("Reg.example:443", "Reg.example:443", |rewriter| {
            assert_eq!(
                rewriter.rewrite_url("https://reg.example/v2/").unwrap(),
                "https://Reg.example:443/v2/"
            );
        });
        with_rewriter("[::1]:8443", "[::1]:8443", |rewriter| {
            assert_eq!(
                rewriter.rewrite_url("http://[::1]:8443/x").unwrap(),
                "https://[::1]:8443/x"
            );
            assert_eq!(
                rewriter.rewrite_url("http://[::1]/x").unwrap(),
                "https://[::1]:8443/x"
            );
        });
    }

    #[test]
    fn with_scheme_http_the_port_does_not_matter() {
        with_rewriter("any.example:8443", "any.example:8443", |rewriter| {
            assert_eq!(
                rewriter.rewrite_url("http://Any.example:5080/t").unwrap(),
                "https://any.example:8443/t"
            );
            assert_eq!(rewriter.rewrite_url("https://any.example:5080/t"), None);
            assert_eq!(rewriter.rewrite_url("http://other.example:5080/t"), None);
        });
    }

    #[test]
    fn links_are_rewritten_inside_their_angle_brackets() {
        with_rewriter("reg.example", "reg.example", |rewriter| {
            let links = "<http://reg.example/a?x=1>; rel=\"next\", <https://other/b>; title=\"<http://reg.example/c>\"";
            assert_eq!(
                rewriter.rewrite_links(links).unwrap(),
                "<https://reg.example/a?x=1>; rel=\"next\", <https://other/b>; title=\"<http://reg.example/c>\""
            );
            assert_eq!(
                rewriter.rewrite_links("</v2/_catalog?n=1>; rel=\"next\""),
                None
            );
            assert_eq!(rewriter.rewrite_links("<http://reg.example/a"), None);
            assert_eq!(
                rewriter.rewrite_links("<http://reg.example/a>, <<http://reg.example/b"),
                Some("<https://reg.example/a>, <<http://reg.example/b".to_owned())
            );
        });
    }

    /// An upstream chooses how many brackets a field has. A search that reads the field again for each of them would occupy a
    /// worker.
    #[test]
    fn links_without_an_end_are_read_in_linear_time() {
        with_rewriter("reg.example", "reg.example", |rewriter| {
            let began = std::time::Instant::now();
            assert_eq!(rewriter.rewrite_links(&"<".repeat(1 << 21)), None);
            let took = began.elapsed();
            assert!(took < std::time::Duration::from_secs(5), "{took:?}");
        });
    }

    proptest::proptest! {
        #[test]
        fn no_value_panics(value in "[ -~]{0,60}|(<|http://|reg.example|:|\"|>|/){0,12}") {
            with_rewriter("reg.example", "reg.example", |rewriter| {
                let _ = (rewriter.rewrite_url(&value), rewriter.rewrite_links(&value));
            });
            crate::fuzzing::parsers::check_response_headers(value.as_bytes());
        }
    }
}
