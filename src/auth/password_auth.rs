//! HTTP Basic authentication against a password file, for a route in mode `basic` or `token`.
//!
//! `auth` and `auth::token::service` call it. It parses credentials and looks up names; `password_verifier` decides whether
//! a password is right.

use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

use super::basic::Credentials;
use super::identity::{Error, Identity, IdentityKind};
use super::password_verifier::{PasswordVerifier, VerifyError};
use crate::htpasswd::{LiveUsers, Users};
use crate::net::addr::ClientAddr;
use crate::www_authenticate::Challenge;

/// Authenticates the users of one password file.
#[derive(Debug)]
pub(super) struct PasswordAuth {
    users: Arc<LiveUsers>,
    verifier: Arc<PasswordVerifier>,
    max_credentials: usize,
    challenge: HeaderValue,
}

impl PasswordAuth {
    /// Authenticates `users`. Decoded credentials longer than `max_credentials` bytes are unusable. `challenge` is the value
    /// of `WWW-Authenticate`.
    pub(super) fn new(
        users: Arc<LiveUsers>,
        verifier: Arc<PasswordVerifier>,
        max_credentials: usize,
        challenge: HeaderValue,
    ) -> Self {
        Self {
            users,
            verifier,
            max_credentials,
            challenge,
        }
    }

    /// The current users of the password file.
    pub(super) fn users(&self) -> Arc<Users> {
        self.users.current()
    }

    /// The Basic challenge.
    pub(super) fn challenge(&self) -> Challenge {
        Challenge::Basic(self.challenge.clone())
    }

    /// Authenticates by an `Authorization` field. Without a field, or with an empty user name, the client is anonymous.
    pub(super) async fn authenticate(
        &self,
        users: &Arc<Users>,
        authorization: Option<&HeaderValue>,
        client: ClientAddr,
    ) -> Result<Identity, Error> {
        let Some(authorization) = authorization else {
            return Ok(Identity::new(IdentityKind::Anonymous));
        };
        let credentials = Credentials::parse(authorization.as_bytes(), self.max_credentials)
            .map_err(|_| Error::Unusable)?;
        match credentials {
            None => Ok(Identity::new(IdentityKind::Anonymous)),
            Some(credentials) => self.check(users, credentials, client).await,
        }
    }

    /// Authenticates by credentials that did not come in an `Authorization` field, but in a form.
    ///
    /// # Errors
    /// [`Error::Unusable`] if the credentials are longer than those of an `Authorization` field may be.
    pub(super) async fn authenticate_form(
        &self,
        users: &Arc<Users>,
        credentials: Credentials,
        client: ClientAddr,
    ) -> Result<Identity, Error> {
        if credentials.len() > self.max_credentials {
            return Err(Error::Unusable);
        }
        self.check(users, credentials, client).await
    }

    async fn check(
        &self,
        users: &Arc<Users>,
        credentials: Credentials,
        client: ClientAddr,
    ) -> Result<Identity, Error> {
        let identity = Identity::user_named(&credentials.user);
        let users = Arc::clone(users);
        let verified = self
            .verifier
            .verify(users, credentials, client.network())
            .await;
        match verified {
            Ok(true) => Ok(identity),
            Ok(false) => Err(Error::Wrong),
            Err(VerifyError::Busy) => Err(Error::Busy),
            Err(VerifyError::TooMany(after)) => {
                // A client that goes on guessing waits for its responses, so that they cost the proxy little.
                tokio::time::sleep(after.min(GUESS_DELAY)).await;
                Err(Error::TooMany { after })
            }
        }
    }

    /// The user that the `Authorization` field names, if the password file has this user.
    pub(super) fn known_user(&self, headers: &HeaderMap) -> Option<String> {
        let authorization = single_authorization(headers).ok()??;
        let credentials =
            Credentials::parse(authorization.as_bytes(), self.max_credentials).ok()??;
        self.known_name(&credentials.user)
    }

    /// The name of the user for people, if the password file has this user.
    pub(super) fn known_name(&self, user: &[u8]) -> Option<String> {
        let users = self.users.current();
        users.find(user)?;
        Some(String::from_utf8_lossy(user).into_owned())
    }
}

/// The `Authorization` field, if there is one.
///
/// # Errors
/// [`Error::Twice`] if there are several.
pub(super) fn single_authorization(headers: &HeaderMap) -> Result<Option<&HeaderValue>, Error> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    match (fields.next(), fields.next()) {
        (field, None) => Ok(field),
        _ => Err(Error::Twice),
    }
}

/// The time after which a client that has used up its guesses gets its response.
const GUESS_DELAY: Duration = Duration::from_secs(1);
