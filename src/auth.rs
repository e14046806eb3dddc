//! Authentication: from the `Authorization` field and the address of a client to an [`Identity`].
//!
//! `service` calls [`Authenticator::authenticate`] once for each request, before anything else depends on the request, and
//! lets [`TokenService`] issue tokens at the token endpoint. This is the only module that creates an [`Identity`]; what an
//! identity may do is decided by `access`.

use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, HeaderValue};

use crate::htpasswd::LiveUsers;
use crate::net::addr::ClientAddr;
use crate::net::network_policy::{Decision, NetworkPolicy};
use crate::registry::{Operation, Scope};
use crate::www_authenticate::Challenge;

mod basic;
mod guess_limiter;
mod hash_pool;
mod identity;
mod login_cache;
mod password_auth;
mod password_verifier;
mod sharded;
pub mod token;

#[cfg(any(test, fuzzing))]
pub(crate) use basic::Credentials;
pub(crate) use basic::is_basic;
pub use guess_limiter::{ClearedGuesses, Settings as ThrottleSettings};
pub use hash_pool::Settings as HashingSettings;
use identity::IdentityKind;
pub use identity::{Error, Identity};
use password_auth::{PasswordAuth, single_authorization};
pub use password_verifier::PasswordVerifier;
use token::TokenIssuer;
pub use token::service::TokenService;

/// Authenticates the requests of one route.
#[derive(Debug)]
pub struct Authenticator {
    mode: Mode,
    network_policy: NetworkPolicy,
}

/// The `auth.mode` of the route.
#[derive(Debug)]
enum Mode {
    /// Modes `basic` and `token`; the latter has an issuer.
    Password {
        password_auth: PasswordAuth,
        tokens: Option<Box<TokenIssuer>>,
    },
    /// Mode `upstream`.
    LeftToUpstream,
    /// Mode `none`.
    Anonymous,
}

impl Authenticator {
    /// Mode `basic`: HTTP Basic against a password file. Decoded credentials longer than `max_credentials` bytes are
    /// unusable; `challenge` is the value of `WWW-Authenticate`.
    pub fn basic(
        users: Arc<LiveUsers>,
        verifier: Arc<PasswordVerifier>,
        max_credentials: usize,
        challenge: HeaderValue,
    ) -> Self {
        Self::new(Mode::Password {
            password_auth: PasswordAuth::new(users, verifier, max_credentials, challenge),
            tokens: None,
        })
    }

    /// Mode `upstream`: the upstream checks the `Authorization` field itself, and receives the field unchanged.
    pub fn passthrough() -> Self {
        Self::new(Mode::LeftToUpstream)
    }

    /// Mode `none`: every client is anonymous.
    pub fn anonymous() -> Self {
        Self::new(Mode::Anonymous)
    }

    fn new(mode: Mode) -> Self {
        Self {
            mode,
            network_policy: NetworkPolicy::default(),
        }
    }

    /// Adds the client networks of the route.
    #[must_use]
    pub fn with_network_policy(self, network_policy: NetworkPolicy) -> Self {
        Self {
            network_policy,
            ..self
        }
    }

    /// Turns mode `basic` into mode `token`: challenges are Bearer challenges, and the token endpoint issues tokens to users
    /// with a password and to anonymous clients.
    #[must_use]
    pub fn with_tokens(mut self, issuer: TokenIssuer) -> Self {
        if let Mode::Password { tokens, .. } = &mut self.mode {
            *tokens = Some(Box::new(issuer));
        }
        self
    }

    /// Checks whether the route admits the network of the client. This needs no more than the client's address.
    ///
    /// # Errors
    /// [`Error::Network`] if it does not.
    pub fn check_network(&self, client: ClientAddr) -> Result<(), Error> {
        match self.network_policy.evaluate(client) {
            Decision::Denied => Err(Error::Network),
            Decision::NeedsCredentials | Decision::Sufficient => Ok(()),
        }
    }

    /// Authenticates a request. A client without credentials or with an empty user name is anonymous.
    ///
    /// With `satisfy = "any"`, a client of an admitted network is not rejected for wrong credentials, as in nginx, nor for
    /// wrong passwords that its network sent before.
    pub async fn authenticate(
        &self,
        headers: &HeaderMap,
        client: ClientAddr,
    ) -> Result<Identity, Error> {
        self.check_network(client)?;
        let verified = self.verify(headers, client).await;
        if self.network_policy.evaluate(client) != Decision::Sufficient {
            return verified;
        }
        let identity = match verified {
            Err(Error::Wrong | Error::Unusable | Error::Token | Error::TooMany { .. }) => {
                Identity::new(IdentityKind::Anonymous)
            }
            other => other?,
        };
        Ok(identity.with_network())
    }

    async fn verify(&self, headers: &HeaderMap, client: ClientAddr) -> Result<Identity, Error> {
        match &self.mode {
            Mode::Anonymous => Ok(Identity::new(IdentityKind::Anonymous)),
            Mode::LeftToUpstream => {
                single_authorization(headers)?;
                Ok(Identity::new(IdentityKind::LeftToUpstream))
            }
            Mode::Password {
                password_auth,
                tokens,
            } => {
                let users = password_auth.users();
                match (tokens, single_authorization(headers)?) {
                    (Some(tokens), Some(authorization)) if !is_basic(authorization.as_bytes()) => {
                        tokens.authenticate(authorization.as_bytes(), &users, SystemTime::now())
                    }
                    (_, authorization) => {
                        password_auth
                            .authenticate(&users, authorization, client)
                            .await
                    }
                }
            }
        }
    }

    /// The challenge for a client that must log in for `operation`, sent to the proxy at `scheme://authority`. `None` if the
    /// proxy does not authenticate clients of this route.
    pub fn challenge(
        &self,
        scheme: &str,
        authority: &str,
        operation: Option<&Operation>,
    ) -> Option<Challenge> {
        let Mode::Password {
            password_auth,
            tokens,
        } = &self.mode
        else {
            return None;
        };
        let Some(tokens) = tokens else {
            return Some(password_auth.challenge());
        };
        let realm = format!("{scheme}://{authority}{}", tokens.path());
        let scope = operation.map(Scope::of).unwrap_or_default();
        Some(Challenge::bearer(&realm, authority, &scope))
    }

    /// The user that the `Authorization` field names, if the password file has this user: for the log, when the password was
    /// wrong or was not checked.
    ///
    /// An unknown name is never returned, because it may be a password that was typed into the wrong field. The result
    /// depends on the name alone, not on the password.
    pub fn known_user(&self, headers: &HeaderMap) -> Option<String> {
        match &self.mode {
            Mode::Password { password_auth, .. } => password_auth.known_user(headers),
            Mode::LeftToUpstream | Mode::Anonymous => None,
        }
    }

    /// The token service of the route, if `path` is its token endpoint.
    pub fn token_service(&self, path: &str) -> Option<TokenService<'_>> {
        let Mode::Password {
            password_auth,
            tokens: Some(tokens),
        } = &self.mode
        else {
            return None;
        };
        (tokens.path() == path)
            .then(|| TokenService::new(password_auth, tokens, &self.network_policy))
    }

    /// Whether no client of this route has to log in to the proxy.
    pub fn is_open(&self) -> bool {
        !matches!(self.mode, Mode::Password { .. })
    }
}
