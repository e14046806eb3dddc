//! How a client asks for a token: the query of a GET, or the form of a POST, which have one grammar.
//!
//! `service` hands over the text. What `service=`, `account=`, `client_id=` and `offline_token=` say changes nothing:
//! a token is for the route that it was asked of, for who gave the password, and short-lived.

use zeroize::Zeroizing;

use crate::auth::basic::Credentials;
use crate::percent::decode;
use crate::registry::Scope;
use crate::secret::Password;

/// What is asked for; in a form, also by whom.
#[derive(Debug, Default)]
pub struct TokenRequest {
    scopes: Vec<String>,
    grant_type: Option<Vec<u8>>,
    username: Option<Vec<u8>>,
    password: Option<Password>,
}

/// Why there is no telling what is asked for, or by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedRequest {
    /// Not even text.
    #[error("the request for a token is not UTF-8")]
    Text,
    /// A `%` without two hex digits.
    #[error("the request for a token has a malformed escape")]
    Escape,
    /// Which of the two counts would be a guess.
    #[error("the request for a token has a parameter twice")]
    Twice,
    /// Refresh tokens are not given out, so nobody has one.
    #[error("a token is given for a password only: grant_type=password, username, password")]
    GrantType,
}

impl TokenRequest {
    /// Reads `key=value&…`, a `+` being a space. `scope` may repeat; keys that are not known are left out.
    pub fn parse(text: &[u8]) -> Result<Self, MalformedRequest> {
        let text = std::str::from_utf8(text).map_err(|_| MalformedRequest::Text)?;
        let mut form = Self::default();
        for pair in text.split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match single_value(key)?.as_slice() {
                b"scope" => form
                    .scopes
                    .push(String::from_utf8_lossy(&single_value(value)?).into_owned()),
                b"grant_type" => put(&mut form.grant_type, single_value(value)?)?,
                b"username" => put(&mut form.username, single_value(value)?)?,
                b"password" => put(&mut form.password, Password::new(single_value(value)?))?,
                _ => {}
            }
        }
        Ok(form)
    }

    /// The user name that the form holds, unchecked.
    pub(in crate::auth) fn user(&self) -> Option<&[u8]> {
        self.username.as_deref()
    }

    /// The scope; empty when a client only logs in.
    pub fn scope(&self) -> Scope {
        Scope::parse(self.scopes.iter().map(String::as_str))
    }

    /// The credentials in it; `None` for an empty user name, which clients send to mean "nobody".
    pub(in crate::auth) fn credentials(self) -> Result<Option<Credentials>, MalformedRequest> {
        if self.grant_type.as_deref() != Some(b"password") {
            return Err(MalformedRequest::GrantType);
        }
        let password = self.password.unwrap_or_else(|| Password::new(Vec::new()));
        let user = self.username.filter(|user| !user.is_empty());
        Ok(user.map(|user| Credentials { user, password }))
    }
}

fn put<T>(place: &mut Option<T>, value: T) -> Result<(), MalformedRequest> {
    if place.replace(value).is_some() {
        return Err(MalformedRequest::Twice);
    }
    Ok(())
}

/// A copy may hold a password on the way: it is wiped.
fn single_value(text: &str) -> Result<Vec<u8>, MalformedRequest> {
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
    fn scopes_repeat_and_hold_several() {
        let text = "service=h&scope=repository%3Aa%3Apull+repository:b:push&scope=registry:catalog:*&account=x&offline_token=true";
        assert_eq!(
            form(text).scope().to_string(),
            "registry:catalog:* repository:a:pull repository:b:push"
        );
        assert!(form("").scope().is_empty());
    }

    #[test]
    fn a_password_is_read_byte_for_byte() {
        let text = "grant_type=password&username=j%C3%BCrgen&password=a%26b+c%2B%00%FF&scope=x";
        let credentials = form(text).credentials().unwrap().unwrap();
        assert_eq!(credentials.user, "jürgen".as_bytes());
        assert_eq!(credentials.password.as_bytes(), b"a&b c+\0\xff");
        let nobody = form("grant_type=password&username=&password=x").credentials();
        assert!(nobody.unwrap().is_none());
    }

    #[test]
    fn what_is_not_clear_is_refused() {
        let refused = |text: &str| TokenRequest::parse(text.as_bytes()).err();
        assert_eq!(refused("scope=%zz"), Some(MalformedRequest::Escape));
        assert_eq!(
            refused("username=a&username=a"),
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
