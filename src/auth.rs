//! Who is asking: from an `Authorization` header to an [`Identity`].
//!
//! `service` asks, once a request, before anything else is done with it. This is the only module that
//! can make an [`Identity`]; what the identity may do is decided by `access`.

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

use crate::htpasswd::LiveUsers;

mod basic;
mod hashing;
mod logins;
mod verified;

use basic::Credentials;
pub use hashing::Settings as HashingSettings;
pub use logins::Logins;

/// Who a request comes from. Made here only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Anonymous,
    User(String),
    LeftToUpstream,
}

impl Identity {
    /// The verified user's name, for people: bytes that are no UTF-8 are shown as U+FFFD.
    pub fn user(&self) -> Option<&str> {
        match &self.kind {
            Kind::User(name) => Some(name),
            Kind::Anonymous | Kind::LeftToUpstream => None,
        }
    }

    /// True when nobody has proved anything.
    pub fn is_anonymous(&self) -> bool {
        self.kind == Kind::Anonymous
    }

    /// True when the upstream checks the credentials itself.
    pub fn is_left_to_upstream(&self) -> bool {
        self.kind == Kind::LeftToUpstream
    }
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Credentials that are wrong, for whatever reason: the answer is the same for all of them.
    #[error("wrong credentials")]
    Wrong,
    /// More than one `Authorization` field: which one counts would be a guess.
    #[error("more than one Authorization field")]
    Twice,
    /// The hash threads are at capacity.
    #[error("too many passwords are being checked")]
    Busy,
}

/// Checks the credentials of one route.
#[derive(Debug)]
pub struct Authenticator {
    mode: Mode,
}

#[derive(Debug)]
enum Mode {
    Basic(Basic),
    LeftToUpstream,
    Open,
}

#[derive(Debug)]
struct Basic {
    users: Arc<LiveUsers>,
    logins: Arc<Logins>,
    /// Decoded credentials longer than this, in bytes, are wrong.
    size: usize,
    challenge: HeaderValue,
}

impl Authenticator {
    /// HTTP Basic against a password file; `challenge` is made by [`challenge`].
    pub fn basic(
        users: Arc<LiveUsers>,
        logins: Arc<Logins>,
        size: usize,
        challenge: HeaderValue,
    ) -> Self {
        Self {
            mode: Mode::Basic(Basic {
                users,
                logins,
                size,
                challenge,
            }),
        }
    }

    /// The upstream checks the `Authorization` header itself, and gets it untouched.
    pub fn left_to_upstream() -> Self {
        Self {
            mode: Mode::LeftToUpstream,
        }
    }

    /// Nobody is asked for anything.
    pub fn open() -> Self {
        Self { mode: Mode::Open }
    }

    /// The identity behind a request's headers; no credentials, or an empty user, is anonymous.
    pub async fn authenticate(&self, headers: &HeaderMap) -> Result<Identity, Error> {
        match &self.mode {
            Mode::Open => Ok(Identity {
                kind: Kind::Anonymous,
            }),
            Mode::LeftToUpstream => {
                single(headers)?;
                Ok(Identity {
                    kind: Kind::LeftToUpstream,
                })
            }
            Mode::Basic(basic) => basic.authenticate(headers).await,
        }
    }

    /// The `WWW-Authenticate` value for someone who must log in; none where the gate asks nobody.
    pub fn challenge(&self) -> Option<&HeaderValue> {
        match &self.mode {
            Mode::Basic(basic) => Some(&basic.challenge),
            Mode::LeftToUpstream | Mode::Open => None,
        }
    }

    /// True where nobody has to log in to the gate.
    pub fn is_open(&self) -> bool {
        !matches!(self.mode, Mode::Basic(_))
    }
}

impl Basic {
    async fn authenticate(&self, headers: &HeaderMap) -> Result<Identity, Error> {
        let Some(header) = single(headers)? else {
            return Ok(Identity {
                kind: Kind::Anonymous,
            });
        };
        let Some(credentials) =
            Credentials::parse(header.as_bytes(), self.size).map_err(|_| Error::Wrong)?
        else {
            return Ok(Identity {
                kind: Kind::Anonymous,
            });
        };
        let name = String::from_utf8_lossy(&credentials.user).into_owned();
        let users = self.users.current();
        match self.logins.check(users, credentials).await {
            Ok(true) => Ok(Identity {
                kind: Kind::User(name),
            }),
            Ok(false) => Err(Error::Wrong),
            Err(hashing::Busy) => Err(Error::Busy),
        }
    }
}

/// The `Authorization` field, when there is exactly one.
fn single(headers: &HeaderMap) -> Result<Option<&HeaderValue>, Error> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    match (fields.next(), fields.next()) {
        (field, None) => Ok(field),
        _ => Err(Error::Twice),
    }
}

/// The Basic challenge of a realm, quoted as RFC 9110 section 5.6.4 wants it.
///
/// `None` when the realm holds bytes that cannot stand in a header.
pub fn challenge(realm: &str) -> Option<HeaderValue> {
    let quoted = realm.replace('\\', "\\\\").replace('"', "\\\"");
    HeaderValue::from_str(&format!("Basic realm=\"{quoted}\"")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_realm_is_quoted() {
        assert_eq!(challenge("a\"b\\c").unwrap(), "Basic realm=\"a\\\"b\\\\c\"");
        assert!(challenge("a\nb").is_none());
    }
}
