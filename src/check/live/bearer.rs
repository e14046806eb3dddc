//! Bearer challenges as a client of a registry reads them: where it fetches a token, and whether it can get there.
//!
//! Called by `endpoint` and `push`.

use std::fmt;

use http::{HeaderMap, Uri, header};
use zeroize::Zeroizing;

use crate::check::live::endpoint::Subject;
use crate::forward::Origin;
use crate::registry::is_registry_path;
use crate::site::RouteMatch;

/// A Bearer challenge (distribution's token specification).
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Challenge {
    realm: String,
    service: String,
    scope: String,
}

/// Why no client gets a token at a realm that leads to this proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RealmFault {
    /// The site has no route for the path.
    NoRoute,
    /// The path belongs to a route with `respond`.
    Closed,
    /// The path lies in the registry API, where the proxy passes only the operations of the API.
    Registry,
    /// The proxy itself answers at the path, with tokens that the registry does not accept.
    OwnTokens,
    /// The route of the path checks the proxy's passwords and passes no `Authorization` on.
    Password,
}

impl Challenge {
    /// The first Bearer challenge with a realm.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let all = headers.get_all(header::WWW_AUTHENTICATE).iter();
        let mut texts = all.filter_map(|value| {
            let (scheme, rest) = value.to_str().ok()?.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(rest)
        });
        let mut challenge = Self::default();
        let mut rest = texts.next()?;
        while let Some((name, after)) = rest.split_once("=\"") {
            let (value, after) = after.split_once('"')?;
            match name.trim_matches([' ', ',']).to_ascii_lowercase().as_str() {
                "realm" => value.clone_into(&mut challenge.realm),
                "service" => value.clone_into(&mut challenge.service),
                "scope" => value.clone_into(&mut challenge.scope),
                _ => {}
            }
            rest = after;
        }
        (!challenge.realm.is_empty()).then_some(challenge)
    }

    /// The URL of the token service.
    pub(super) fn realm(&self) -> &str {
        &self.realm
    }

    /// The origin of the token service; `None` for a realm without scheme and authority.
    pub(super) fn origin(&self) -> Option<String> {
        let realm: Uri = self.realm.parse().ok()?;
        Some(format!("{}://{}", realm.scheme_str()?, realm.authority()?))
    }

    /// The target of a token request in origin-form.
    pub(super) fn target(&self) -> Option<String> {
        let realm: Uri = self.realm.parse().ok()?;
        let (service, scope) = (Escaped(&self.service), Escaped(&self.scope));
        Some(format!(
            "{}?service={service}&scope={scope}",
            realm.path_and_query()?
        ))
    }

    /// Why a client cannot get a token at the realm of this endpoint; `None` where it can, and where the realm leads to
    /// another server.
    pub(super) fn fault(&self, subject: &Subject<'_>) -> Option<RealmFault> {
        if !self.leads_to_proxy(subject) {
            return None;
        }
        let realm: Uri = self.realm.parse().ok()?;
        let path = realm.path();
        let route = match subject.built.match_route(path) {
            None => return Some(RealmFault::NoRoute),
            Some(RouteMatch::Response(_)) => return Some(RealmFault::Closed),
            Some(RouteMatch::Route(route)) => route,
        };
        if route.authenticator.token_service(path).is_some() {
            return Some(RealmFault::OwnTokens);
        }
        if route.registry && is_registry_path(path) {
            return Some(RealmFault::Registry);
        }
        (!route.authenticator.is_open()).then_some(RealmFault::Password)
    }

    /// Whether clients of this site fetch their tokens through the proxy: the realm names the site, or an origin that the
    /// proxy replaces by the site's.
    fn leads_to_proxy(&self, subject: &Subject<'_>) -> bool {
        let is_site = |host: &str| subject.built.is_named(host);
        let leads = |outer: &Origin| subject.forward.rewrites(&self.realm, outer, &is_site);
        if let Some(external) = &subject.site.external {
            return leads(external);
        }
        let port = subject.config.service.https_port;
        let named = subject.site.hosts.iter().filter(|host| !host.contains('*'));
        let mut outer = named.map(|host| Origin {
            scheme: "https".to_owned(),
            authority: match port {
                443 => host.clone(),
                _ => format!("{host}:{port}"),
            },
        });
        outer.any(|outer| leads(&outer))
    }
}

/// A value of a query.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.bytes().try_for_each(|byte| match byte {
            b'0'..=b'9'
            | b'A'..=b'Z'
            | b'a'..=b'z'
            | b'-'
            | b'.'
            | b'_'
            | b'~'
            | b':'
            | b'/'
            | b',' => {
                write!(f, "{}", char::from(byte))
            }
            _ => write!(f, "%{byte:02X}"),
        })
    }
}

/// What the endpoint gave, as it is shown.
pub(super) fn token(body: &[u8]) -> Option<Zeroizing<String>> {
    let answer: serde_json::Value = serde_json::from_slice(body).ok()?;
    let token = answer.get("token").or_else(|| answer.get("access_token"))?;
    let token = token
        .as_str()
        .filter(|token| token.bytes().all(|byte| byte.is_ascii_graphic()))?;
    Some(Zeroizing::new(format!("Bearer {token}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_taken_apart() {
        let mut headers = HeaderMap::new();
        let value = "Bearer realm=\"https://a.example/v2/_token\",service=\"a b\",scope=\"repository:x/y:pull,push\"";
        headers.append(
            header::WWW_AUTHENTICATE,
            "Basic realm=\"x\"".parse().unwrap(),
        );
        assert_eq!(Challenge::of(&headers), None);
        headers.append(header::WWW_AUTHENTICATE, value.parse().unwrap());
        let asked = Challenge::of(&headers).unwrap();
        assert_eq!(
            asked.target().unwrap(),
            "/v2/_token?service=a%20b&scope=repository:x/y:pull,push"
        );
    }

    #[test]
    fn a_token_that_would_break_a_head_is_none() {
        assert_eq!(*token(b"{\"token\":\"abc\"}").unwrap(), "Bearer abc");
        assert_eq!(*token(b"{\"access_token\":\"d\"}").unwrap(), "Bearer d");
        for body in [
            &b"{}"[..],
            b"{\"token\":\"a\\r\\nb\"}",
            b"{\"token\":1}",
            b"",
        ] {
            assert!(token(body).is_none());
        }
    }
}
