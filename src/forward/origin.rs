//! The outer origin: what the registry says about its own address, made true for the client.
//!
//! A registry behind a gate builds URLs from what it can see; a client follows them to the letter, and
//! drops its credentials when the authority differs by as much as a port. Called by `forward` for
//! `Location`, `Content-Location`, `Link` and the realm of a Bearer challenge; whatever points elsewhere (object storage) stays byte for byte.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::net::host::strip_brackets;
use crate::www_authenticate::rewrite;

/// A scheme and an authority, as handed to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// `https` or `http`.
    pub scheme: String,
    /// Host and port, as the client wrote them.
    pub authority: String,
}

impl Origin {
    /// As it is handed to clients.
    pub fn to_external(&self) -> ExternalOrigin<'_> {
        ExternalOrigin {
            scheme: &self.scheme,
            authority: &self.authority,
        }
    }
}

/// The origin that answers are to name: the client's own words, or those of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct ExternalOrigin<'a> {
    /// `https` or `http`.
    pub scheme: &'a str,
    /// Host and port.
    pub authority: &'a str,
}

/// What counts as "the registry itself" in a URL, and what to say instead.
#[derive(Debug)]
pub(super) struct UrlRewriter<'a, F> {
    /// The origin that the client addressed, or `external_url`.
    pub(super) outer: ExternalOrigin<'a>,
    /// The `Host` that was sent upstream.
    pub(super) host: &'a str,
    /// The authorities of the upstream's endpoints: one may name another.
    pub(super) upstream: &'a [String],
    /// Further origins by which the upstream calls itself.
    pub(super) internal: &'a [Origin],
    /// Whether a host name (no port, lower case) is one of the site's.
    pub(super) is_site: F,
}

impl<F: Fn(&str) -> bool> UrlRewriter<'_, F> {
    /// Repairs every field of an answer that holds the registry's own address.
    pub(super) fn headers(&self, headers: &mut HeaderMap) {
        for name in [header::LOCATION, header::CONTENT_LOCATION] {
            replace(headers, &name, |value| self.url(value));
        }
        replace(headers, &header::LINK, |value| self.links(value));
        self.realms(headers);
    }

    /// A realm is a URL in a field that may hold bytes of any kind beside it.
    fn realms(&self, headers: &mut HeaderMap) {
        if let header::Entry::Occupied(mut fields) = headers.entry(header::WWW_AUTHENTICATE) {
            for field in fields.iter_mut() {
                let repaired = rewrite::repair(field.as_bytes(), |url| self.url(url));
                if let Some(repaired) = repaired.and_then(|bytes| HeaderValue::try_from(bytes).ok())
                {
                    *field = repaired;
                }
            }
        }
    }

    /// Whether a URL of a response names an origin that is replaced by the outer one.
    pub(super) fn is_rewritten(&self, url: &str) -> bool {
        self.url(url).is_some()
    }

    /// The repaired URL; `None` when it is relative or points elsewhere.
    fn url(&self, url: &str) -> Option<String> {
        let (scheme, authority, rest) = split(url)?;
        self.is_internal(scheme, authority)
            .then(|| format!("{}://{}{rest}", self.outer.scheme, self.outer.authority))
    }

    /// Repairs each `<URL>` of a `Link` field; brackets inside quoted parameters are text.
    fn links(&self, value: &str) -> Option<String> {
        let mut out = String::with_capacity(value.len());
        let mut changed = false;
        let mut quoted = false;
        let mut rest = value;
        while let Some(at) = rest.find(['<', '"']) {
            let (before, from) = rest.split_at_checked(at)?;
            out.push_str(before);
            if from.starts_with('"') {
                quoted = !quoted;
            }
            let url = from
                .strip_prefix('<')
                .filter(|_| !quoted)
                .and_then(|inner| inner.split_once('>'));
            rest = if let Some((url, after)) = url {
                let repaired = self.url(url);
                changed |= repaired.is_some();
                out.extend(["<", repaired.as_deref().unwrap_or(url), ">"]);
                after
            } else {
                let (mark, after) = from.split_at_checked(1)?;
                out.push_str(mark);
                after
            };
        }
        out.push_str(rest);
        changed.then_some(out)
    }

    /// A name of one of the upstream's endpoints, the name we gave it, the client's name for us, a name by which it was said to call
    /// itself, or any of the site's names over plain HTTP, on whatever port: an upstream behind a gate knows neither
    /// that the outside is https nor the port it has there.
    fn is_internal(&self, scheme: &str, authority: &str) -> bool {
        let Some(port) = default_port(scheme) else {
            return false;
        };
        let Some(named) = host_port(authority, port) else {
            return false;
        };
        let same = |other: &str, port| host_port(other, port).is_some_and(|other| other == named);
        self.upstream.iter().any(|own| same(own, 80))
            || same(self.host, port)
            || default_port(self.outer.scheme).is_some_and(|port| same(self.outer.authority, port))
            || self.internal.iter().any(|origin| {
                default_port(&origin.scheme) == Some(port) && same(&origin.authority, port)
            })
            || (port == 80 && self.is_upstream(&named.0))
    }

    /// A name of the site, also where its hosts are `*`.
    fn is_upstream(&self, name: &str) -> bool {
        let addressed =
            |authority: &str| host_port(authority, 80).is_some_and(|(host, _)| host == name);
        (self.is_site)(name) || addressed(self.host) || addressed(self.outer.authority)
    }
}

fn replace(headers: &mut HeaderMap, name: &HeaderName, repair: impl Fn(&str) -> Option<String>) {
    if let header::Entry::Occupied(mut entry) = headers.entry(name) {
        for value in entry.iter_mut() {
            let repaired = value.to_str().ok().and_then(&repair);
            if let Some(repaired) = repaired.and_then(|text| HeaderValue::try_from(text).ok()) {
                *value = repaired;
            }
        }
    }
}

/// An absolute URL's scheme, authority, and all that follows.
fn split(url: &str) -> Option<(&str, &str, &str)> {
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

/// Host in lower case and port; `None` for user information or a port that is no number. An empty port is the scheme's
/// own (RFC 3986 section 6.2.3).
fn host_port(authority: &str, default: u16) -> Option<(String, u16)> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, "")) => (host, default),
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (authority, default),
    };
    let bare = strip_brackets(host);
    (!bare.is_empty() && !bare.contains('@')).then(|| (bare.to_ascii_lowercase(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repair(value: &str) -> String {
        with("reg.example:8443", "reg.example:8443", |repair| {
            repair.url(value).unwrap_or_else(|| value.to_owned())
        })
    }

    fn with<T>(
        outer: &str,
        host: &str,
        then: impl Fn(&UrlRewriter<'_, fn(&str) -> bool>) -> T,
    ) -> T {
        let outer = ExternalOrigin {
            scheme: "https",
            authority: outer,
        };
        let internal = [
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
        then(&UrlRewriter {
            outer,
            host,
            upstream: &["10.0.0.9:5000".to_owned(), "127.0.0.1:5000".to_owned()],
            internal: &internal,
            is_site,
        })
    }

    #[test]
    fn what_names_the_registry_is_repaired() {
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
                repair(internal),
                "https://reg.example:8443/v2/a?_state=x%2By%3D",
                "{internal}"
            );
        }
    }

    #[test]
    fn what_points_elsewhere_or_nowhere_stays() {
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
            assert_eq!(repair(other), other);
        }
    }

    #[test]
    fn the_clients_own_spelling_comes_back() {
        with("Reg.example:443", "Reg.example:443", |repair| {
            assert_eq!(
                repair.url("https://reg.example/v2/").unwrap(),
                "https://Reg.example:443/v2/"
            );
        });
        with("[::1]:8443", "[::1]:8443", |repair| {
            assert_eq!(
                repair.url("http://[::1]:8443/x").unwrap(),
                "https://[::1]:8443/x"
            );
            assert_eq!(
                repair.url("http://[::1]/x").unwrap(),
                "https://[::1]:8443/x"
            );
        });
    }

    #[test]
    fn over_plain_http_the_name_alone_counts() {
        with("any.example:8443", "any.example:8443", |repair| {
            assert_eq!(
                repair.url("http://Any.example:5080/t").unwrap(),
                "https://any.example:8443/t"
            );
            assert_eq!(repair.url("https://any.example:5080/t"), None);
            assert_eq!(repair.url("http://other.example:5080/t"), None);
        });
    }

    #[test]
    fn links_are_repaired_inside_their_brackets() {
        with("reg.example", "reg.example", |repair| {
            let links = "<http://reg.example/a?x=1>; rel=\"next\", <https://other/b>; title=\"<http://reg.example/c>\"";
            assert_eq!(
                repair.links(links).unwrap(),
                "<https://reg.example/a?x=1>; rel=\"next\", <https://other/b>; title=\"<http://reg.example/c>\""
            );
            assert_eq!(repair.links("</v2/_catalog?n=1>; rel=\"next\""), None);
            assert_eq!(repair.links("<http://reg.example/a"), None);
        });
    }

    proptest::proptest! {
        #[test]
        fn no_value_panics(value in "[ -~]{0,60}|(<|http://|reg.example|:|\"|>|/){0,12}") {
            with("reg.example", "reg.example", |repair| {
                let _ = (repair.url(&value), repair.links(&value));
            });
            crate::forward::fuzzing::check(value.as_bytes());
        }
    }
}
