//! A request for a token: the query of a GET, or the form in the body of a POST. Both have the same grammar.
//!
//! `service` passes the text to [`TokenRequest::parse`]. The parameters `service`, `account`, `client_id` and
//! `offline_token` are ignored: a token is for the route of its endpoint and for the user whose password was sent, and its
//! lifetime is that of the configuration.

use zeroize::Zeroizing;

use crate::auth::basic::Credentials;
use crate::percent::decode;
use crate::registry::Scope;
use crate::secret::Password;

/// The requested scopes, and the credentials if the request is a form.
#[derive(Debug, Default)]
pub struct TokenRequest {
    scopes: Vec<String>,
    grant_type: Option<Vec<u8>>,
    username: Option<Vec<u8>>,
    password: Option<Password>,
}

/// The reason why a request is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedRequest {
    /// The text is not UTF-8.
    #[error("the request for a token is not UTF-8")]
    Text,
    /// A `%` is not followed by two hexadecimal digits.
    #[error("the request for a token has a malformed escape")]
    Escape,
    /// A parameter occurs twice, so it is unclear which one counts.
    #[error("the request for a token has a parameter twice")]
    Twice,
    /// The form has another grant type than `password`. The proxy issues no refresh tokens.
    #[error("a token is issued for a password only: grant_type=password, username, password")]
    GrantType,
}

impl TokenRequest {
    /// Parses `key=value&…`, where `+` is a space. `scope` may occur several times; unknown keys are ignored.
    pub fn parse(text: &[u8]) -> Result<Self, MalformedRequest> {
        let text = std::str::from_utf8(text).map_err(|_| MalformedRequest::Text)?;
        let mut request = Self::default();
        for pair in text.split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match decode_value(key)?.as_slice() {
                b"scope" => request
                    .scopes
                    .push(String::from_utf8_lossy(&decode_value(value)?).into_owned()),
                b"grant_type" => set_once(&mut request.grant_type, decode_value(value)?)?,
                b"username" => set_once(&mut request.username, decode_value(value)?)?,
                b"password" => {
                    set_once(&mut request.password, Password::new(decode_value(value)?))?
                }
                _ => {}
            }
        }
        Ok(request)
    }

    /// The user name in the form, which has not been verified.
    pub(in crate::auth) fn user(&self) -> Option<&[u8]> {
        self.username.as_deref()
    }

    /// The requested scope. It is empty if the client only checks its password, as `docker login` does.
    pub fn scope(&self) -> Scope {
        Scope::parse(self.scopes.iter().map(String::as_str))
    }

    /// The credentials in the form. `None` for an empty user name, which clients send if they have no credentials.
    pub(in crate::auth) fn credentials(self) -> Result<Option<Credentials>, MalformedRequest> {
        if self.grant_type.as_deref() != Some(b"password") {
            return Err(MalformedRequest::GrantType);
        }
        let password = self.password.unwrap_or_else(|| Password::new(Vec::new()));
        let user = self.username.filter(|user| !user.is_empty());
        Ok(user.map(|user| Credentials { user, password }))
    }
}

fn set_once<T>(field: &mut Option<T>, value: T) -> Result<(), MalformedRequest> {
    if field.replace(value).is_some() {
        return Err(MalformedRequest::Twice);
    }
    Ok(())
}

/// Decodes a key or a value. The intermediate copy may have a password in it, so it is overwritten after use.
fn decode_value(text: &str) -> Result<Vec<u8>, MalformedRequest> {
    let spaced = Zeroizing::new(text.replace('+', " "));
    decode(&spaced, |_| true).map_err(|_| MalformedRequest::Escape)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(text: &str) -> TokenRequest {
        TokenRequest::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn scopes_may_repeat_and_have_several_entries() {
        let text = "service=h&scope=repository%3Aa%3Apull+repository:b:push&scope=registry:catalog:*&account=x&offline_token=true";
        assert_eq!(
            form(text).scope().to_string(),
            "registry:catalog:* repository:a:pull repository:b:push"
        );
        assert!(form("").scope().is_empty());
    }

    #[test]
    fn a_password_is_decoded_byte_for_byte() {
        let text = "grant_type=password&username=j%C3%BCrgen&password=a%26b+c%2B%00%FF&scope=x";
        let credentials = form(text).credentials().unwrap().unwrap();
        assert_eq!(credentials.user, "jürgen".as_bytes());
        assert_eq!(credentials.password.as_bytes(), b"a&b c+\0\xff");
        let anonymous = form("grant_type=password&username=&password=x").credentials();
        assert!(anonymous.unwrap().is_none());
    }

    #[test]
    fn malformed_requests_are_errors() {
        let error = |text: &str| TokenRequest::parse(text.as_bytes()).err();
        assert_eq!(error("scope=%zz"), Some(MalformedRequest::Escape));
        assert_eq!(
            error("username=a&username=a"),
            Some(MalformedRequest::Twice)
        );
        assert_eq!(
            TokenRequest::parse(b"\xff").err(),
            Some(MalformedRequest::Text)
        );
        for text in [
            "",
            "grant_type=refresh_token&refresh_token=x",
            "username=a&password=b",
        ] {
            let error = form(text).credentials().unwrap_err();
            assert_eq!(error, MalformedRequest::GrantType, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text: Vec<u8>) {
            let _ = TokenRequest::parse(&text).map(|form| (form.scope(), form.credentials()));
        }
    }
}
