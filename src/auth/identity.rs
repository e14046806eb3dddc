//! Who a request comes from, once that is proved.
//!
//! Made by `auth` and its parts; `access` decides what an identity may do, and `service` tells the log its name.

use crate::registry::Scope;

/// Who a request comes from. Made in `auth` only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub(super) kind: IdentityKind,
    /// What the token that was shown is for.
    scope: Option<Scope>,
    /// It comes from a network that is enough alone.
    from_network: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum IdentityKind {
    Anonymous,
    User {
        name: String,
        /// As in the password file.
        bytes: Box<[u8]>,
    },
    LeftToUpstream,
}

impl Identity {
    pub(super) const fn of(kind: IdentityKind) -> Self {
        Self {
            kind,
            scope: None,
            from_network: false,
        }
    }

    pub(super) fn with_network(self) -> Self {
        Self {
            from_network: true,
            ..self
        }
    }

    pub(super) fn with_scope(self, scope: Scope) -> Self {
        Self {
            scope: Some(scope),
            ..self
        }
    }

    pub(super) fn user_named(bytes: &[u8]) -> Self {
        Self::of(IdentityKind::User {
            name: String::from_utf8_lossy(bytes).into_owned(),
            bytes: bytes.into(),
        })
    }

    /// The verified user's name, for people: bytes that are no UTF-8 are shown as U+FFFD.
    pub fn user(&self) -> Option<&str> {
        match &self.kind {
            IdentityKind::User { name, .. } => Some(name),
            IdentityKind::Anonymous | IdentityKind::LeftToUpstream => None,
        }
    }

    /// What the log calls it.
    pub fn name(&self) -> Option<&str> {
        self.user()
            .or_else(|| self.from_network.then_some("@network"))
    }

    /// True when the client's network is enough alone (`satisfy = "any"`), whoever asks from there.
    pub fn is_network(&self) -> bool {
        self.from_network
    }

    /// True when nobody has proved anything.
    pub fn is_anonymous(&self) -> bool {
        self.kind == IdentityKind::Anonymous && !self.from_network
    }

    /// What limits this identity beside its rights: the scope of the token it came with. None for a password.
    pub fn scope(&self) -> Option<&Scope> {
        self.scope.as_ref()
    }

    /// True when the upstream checks the credentials itself.
    pub fn is_left_to_upstream(&self) -> bool {
        self.kind == IdentityKind::LeftToUpstream
    }
}
