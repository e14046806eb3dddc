//! How a client of a registry comes to a token: where to ask for one, and what is given.
//!
//! Called by `push`.

use std::fmt;

use http::{HeaderMap, Uri, header};
use zeroize::Zeroizing;

/// A Bearer challenge (distribution's token specification).
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Challenge {
    realm: String,
    service: String,
    scope: String,
}

impl Challenge {
    /// Of an answer that asks for a token.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let all = headers.get_all(header::WWW_AUTHENTICATE).iter();
        let mut texts = all.filter_map(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let mut challenge = Self::default();
        let mut rest = texts.next()?;
        while let Some((name, after)) = rest.split_once("=\"") {
            let (value, after) = after.split_once('"')?;
            match name.trim_matches([' ', ',']) {
                "realm" => value.clone_into(&mut challenge.realm),
                "service" => value.clone_into(&mut challenge.service),
                "scope" => value.clone_into(&mut challenge.scope),
                _ => {}
            }
            rest = after;
        }
        (!challenge.realm.is_empty()).then_some(challenge)
    }

    /// Of the endpoint, which is behind the gate as well.
    pub(super) fn target(&self) -> Option<String> {
        let realm: Uri = self.realm.parse().ok()?;
        let (service, scope) = (Escaped(&self.service), Escaped(&self.scope));
        Some(format!(
            "{}?service={service}&scope={scope}",
            realm.path_and_query()?
        ))
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
