//! The result of authentication: an [`Identity`], or the [`Error`] for which there is none.
//!
//! Only `auth` can create an identity. `access` decides what an identity may do, `service` writes its name to the access
//! log, and `rejection` turns an error into a response.

use std::time::Duration;

use super::token::request::MalformedRequest;
use crate::registry::Scope;

/// The party that a request comes from, as far as it is proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub(super) kind: IdentityKind,
    /// The scope of the token with which the request came.
    scope: Option<Scope>,
    /// The request comes from a network that needs no credentials (`satisfy = "any"`).
    is_network: bool,
}

/// How the client was authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum IdentityKind {
    /// The request has no credentials.
    Anonymous,
    /// The proxy verified a password or a token of this user.
    User {
        /// The name for people.
        name: String,
        /// The name as it is in the password file.
        bytes: Box<[u8]>,
    },
    /// The upstream verifies the credentials.
    LeftToUpstream,
}

impl Identity {
    /// Creates an identity without a scope, whose network does not count.
    pub(super) const fn new(kind: IdentityKind) -> Self {
        Self {
            kind,
            scope: None,
            is_network: false,
        }
    }

    /// Creates the identity of a verified user.
    pub(super) fn user_named(bytes: &[u8]) -> Self {
        Self::new(IdentityKind::User {
            name: String::from_utf8_lossy(bytes).into_owned(),
            bytes: bytes.into(),
        })
    }

    /// Adds that the request comes from a network that needs no credentials.
    pub(super) fn with_network(self) -> Self {
        Self {
            is_network: true,
            ..self
        }
    }

    /// Limits the identity to the scope of its token.
    pub(super) fn with_scope(self, scope: Scope) -> Self {
        Self {
            scope: Some(scope),
            ..self
        }
    }

    /// The name of the verified user, for people: bytes that are not UTF-8 are replaced by U+FFFD.
    pub fn user(&self) -> Option<&str> {
        match &self.kind {
            IdentityKind::User { name, .. } => Some(name),
            IdentityKind::Anonymous | IdentityKind::LeftToUpstream => None,
        }
    }

    /// The name that the access log has for the identity.
    pub fn name(&self) -> Option<&str> {
        self.user()
            .or_else(|| self.is_network.then_some("@network"))
    }

    /// Whether the request comes from a network that needs no credentials (`satisfy = "any"`).
    pub fn is_network(&self) -> bool {
        self.is_network
    }

    /// Whether neither a user nor a network is proved.
    pub fn is_anonymous(&self) -> bool {
        self.kind == IdentityKind::Anonymous && !self.is_network
    }

    /// The scope of the token with which the request came, which limits what the identity may do in addition to its
    /// grants. `None` if the request came with a password.
    pub fn scope(&self) -> Option<&Scope> {
        self.scope.as_ref()
    }

    /// Whether the upstream verifies the credentials.
    pub fn is_left_to_upstream(&self) -> bool {
        self.kind == IdentityKind::LeftToUpstream
    }
}

/// The reason why a request has no identity.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The user name and the password were checked and are wrong.
    #[error("wrong credentials")]
    Wrong,
    /// [`Error::Wrong`] at the token endpoint. The message differs because `docker login` prints it after the user has typed the
    /// password.
    #[error("incorrect user name or password")]
    Login,
    /// The `Authorization` field has no Basic credentials, or credentials longer than `limits.basic_size`.
    ///
    /// The client gets the same response as for [`Error::Wrong`]. The log distinguishes the two, because no password was
    /// checked: fail2ban counts only passwords that were checked.
    #[error("unusable credentials")]
    Unusable,
    /// [`Error::Unusable`] at the token endpoint. The client gets the same response as for [`Error::Login`].
    #[error("unusable user name or password")]
    UnusableLogin,
    /// The token was not issued by this proxy, or it has expired, or the line of its user in the password file has changed.
    #[error("invalid token")]
    Token,
    /// The route does not admit the network of the client.
    #[error("access from this network is not allowed")]
    Network,
    /// The token request is malformed.
    #[error(transparent)]
    Malformed(#[from] MalformedRequest),
    /// The request has more than one `Authorization` field, so it is unclear which one counts.
    #[error("more than one Authorization field")]
    Twice,
    /// The client network has sent too many wrong passwords within `throttle.window`.
    #[error("too many wrong passwords; try again in {} min", after.as_secs() / 60 + 1)]
    TooMany {
        /// The time until the oldest of these guesses no longer counts.
        after: Duration,
    },
    /// The hash threads are at capacity.
    #[error("too many passwords are being checked")]
    Busy,
}
