//! Bearer challenges and token responses, as a registry client reads them (distribution's token specification).

use http::{HeaderMap, Uri};
use zeroize::Zeroizing;

use crate::percent::encode_into;
use crate::www_authenticate::BearerChallenge;

/// The Bearer challenge of a response.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Challenge(BearerChallenge);

impl Challenge {
    /// The first Bearer challenge with a realm.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        BearerChallenge::find(headers).map(Self)
    }

    /// The URL of the token service.
    pub(crate) fn realm(&self) -> &str {
        &self.0.realm
    }

    /// The origin of the token service. `None` if the realm has no scheme or no authority.
    pub(crate) fn origin(&self) -> Option<String> {
        let realm: Uri = self.0.realm.parse().ok()?;
        Some(format!("{}://{}", realm.scheme_str()?, realm.authority()?))
    }

    /// The request target of a token request, in origin-form. A query of the realm is kept.
    pub(crate) fn target(&self) -> Option<String> {
        let realm: Uri = self.0.realm.parse().ok()?;
        let mut target = realm.path_and_query()?.to_string();
        target.push(if realm.query().is_some() { '&' } else { '?' });
        target.push_str("service=");
        encode_into(&mut target, &self.0.service);
        target.push_str("&scope=");
        encode_into(&mut target, &self.0.scope);
        Some(target)
    }
}

/// The `Authorization` value for the token in the response of a token endpoint.
pub(crate) fn bearer_credentials(body: &[u8]) -> Option<Zeroizing<String>> {
    let response: serde_json::Value = serde_json::from_slice(body).ok()?;
    let token = response
        .get("token")
        .or_else(|| response.get("access_token"))?;
    let token = token
        .as_str()
        .filter(|token| token.bytes().all(|byte| byte.is_ascii_graphic()))?;
    Some(Zeroizing::new(format!("Bearer {token}")))
}

#[cfg(test)]
mod tests {
    use http::header;

    use super::*;

    #[test]
    fn the_bearer_challenge_is_found_and_parsed() {
        let mut headers = HeaderMap::new();
        let value = "Bearer realm=\"https://a.example/v2/_token\",service=\"a b\",scope=\"repository:x/y:pull,push\"";
        headers.append(
            header::WWW_AUTHENTICATE,
            "Basic realm=\"x\"".parse().unwrap(),
        );
        assert_eq!(Challenge::of(&headers), None);
        headers.append(header::WWW_AUTHENTICATE, value.parse().unwrap());
        let challenge = Challenge::of(&headers).unwrap();
        assert_eq!(
            challenge.target().unwrap(),
            "/v2/_token?service=a%20b&scope=repository:x%2Fy:pull%2Cpush"
        );
    }

    #[test]
    fn the_query_of_a_realm_is_kept() {
        let mut headers = HeaderMap::new();
        let value = "Bearer realm=\"https://a.example/token?account=x\",service=\"a\"";
        headers.append(header::WWW_AUTHENTICATE, value.parse().unwrap());
        let challenge = Challenge::of(&headers).unwrap();
        assert_eq!(
            challenge.target().unwrap(),
            "/token?account=x&service=a&scope="
        );
    }

    #[test]
    fn a_token_that_is_no_field_value_is_rejected() {
        assert_eq!(
            *bearer_credentials(b"{\"token\":\"abc\"}").unwrap(),
            "Bearer abc"
        );
        assert_eq!(
            *bearer_credentials(b"{\"access_token\":\"d\"}").unwrap(),
            "Bearer d"
        );
        for body in [
            &b"{}"[..],
            b"{\"token\":\"a\\r\\nb\"}",
            b"{\"token\":1}",
            b"",
        ] {
            assert!(bearer_credentials(body).is_none());
        }
    }
}
