//! What a 401 asks for: `WWW-Authenticate`, exactly one value.
//!
//! Made by `auth` for each request, written by `refusal`. Two challenges in one answer are read differently by every
//! client, so there is no way to say both.

use http::HeaderValue;

use crate::registry::Scope;

pub(crate) mod rewrite;

/// How to log in here.
#[derive(Clone, Debug)]
pub enum Challenge {
    /// By user and password; the whole value.
    Basic(HeaderValue),
    /// By a token; the value, to which an error may be added.
    Bearer(String),
}

impl Challenge {
    pub(crate) fn bearer(realm: &str, service: &str, scope: &Scope) -> Self {
        let mut text = format!("Bearer realm={},service={}", quoted(realm), quoted(service));
        if !scope.is_empty() {
            text.push_str(&format!(",scope={}", quoted(&scope.to_string())));
        }
        Self::Bearer(text)
    }

    /// The value; `error` is one of RFC 6750 section 3.1, and says what is wrong with a token.
    ///
    /// `None` when it holds bytes that cannot stand in a header.
    pub fn value(&self, error: Option<&str>) -> Option<HeaderValue> {
        match (self, error) {
            (Self::Basic(value), _) => Some(value.clone()),
            (Self::Bearer(text), None) => HeaderValue::from_str(text).ok(),
            (Self::Bearer(text), Some(error)) => {
                HeaderValue::from_str(&format!("{text},error={}", quoted(error))).ok()
            }
        }
    }
}

/// The Basic challenge of a realm.
///
/// `None` when the realm holds bytes that cannot stand in a header.
pub fn challenge(realm: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("Basic realm={}", quoted(realm))).ok()
}

/// A quoted string (RFC 9110 section 5.6.4).
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_realm_is_quoted() {
        assert_eq!(challenge("a\"b\\c").unwrap(), "Basic realm=\"a\\\"b\\\\c\"");
        assert!(challenge("a\nb").is_none());
    }

    #[test]
    fn a_bearer_challenge_says_where_and_for_what() {
        let realm = "https://docker.example.com/v2/_token";
        let scope = Scope::parse(["repository:a/b:pull,push"]);
        let asked = Challenge::bearer(realm, "docker.example.com", &scope);
        let words = "Bearer realm=\"https://docker.example.com/v2/_token\",service=\"docker.example.com\",scope=\"repository:a/b:pull,push\"";
        assert_eq!(asked.value(None).unwrap(), words);
        let expected = format!("{words},error=\"invalid_token\"");
        assert_eq!(
            asked.value(Some("invalid_token")).unwrap(),
            expected.as_str()
        );
        let ping = Challenge::bearer("r", "s", &Scope::default());
        assert_eq!(
            ping.value(None).unwrap(),
            "Bearer realm=\"r\",service=\"s\""
        );
    }

    #[test]
    fn a_basic_challenge_has_no_error() {
        let asked = Challenge::Basic(challenge("r").unwrap());
        assert_eq!(
            asked.value(Some("invalid_token")).unwrap(),
            "Basic realm=\"r\""
        );
    }
}
