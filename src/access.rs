//! Who may do what: from an identity and what it asks to a [`Permit`].
//!
//! `service` calls it for every request that is not refused before. This is the only module that can
//! make a [`Permit`], and `forward` demands one: what was not permitted here cannot be forwarded.

use crate::auth::Identity;
use crate::registry::{Action, Operation, Scope};

/// What a request asks for.
#[derive(Debug)]
pub enum Asked {
    /// An operation of the registry API; it is forwarded as rebuilt from its parsed form.
    Operation(Operation),
    /// A path and query outside the registry API, forwarded as sent.
    Path(String),
}

/// Proof that an identity may have what it asked for. Made here only.
#[derive(Debug)]
pub struct Permit {
    asked: Asked,
}

impl Permit {
    /// The target to send upstream: path and query.
    pub fn target(&self) -> String {
        match &self.asked {
            Asked::Operation(operation) => operation.target(),
            Asked::Path(target) => target.clone(),
        }
    }

    /// The permitted operation, under the registry API.
    pub fn operation(&self) -> Option<&Operation> {
        match &self.asked {
            Asked::Operation(operation) => Some(operation),
            Asked::Path(_) => None,
        }
    }
}

/// Not allowed.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// Nobody has logged in, and somebody must.
    #[error("authentication required")]
    Anonymous,
    /// The token that was shown is for something else. Another one may do.
    #[error("the token is not for this")]
    Scope,
}

/// The rule of one route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone may do everything; or the upstream decides.
    Everyone,
    /// Every verified user may do everything.
    Verified,
}

impl Access {
    /// Grants `asked`, or says who may not have it.
    ///
    /// Rights come before scopes: where a user has no right, no token would help, and none is asked for.
    pub fn permit(self, identity: &Identity, asked: Asked) -> Result<Permit, Denied> {
        self.admit(identity)?;
        let asked = match identity.scope() {
            Some(scope) => within(scope, asked)?,
            None => asked,
        };
        Ok(Permit { asked })
    }

    /// Whether `identity` may learn anything at all here, such as what is wrong with its request.
    pub fn admit(self, identity: &Identity) -> Result<(), Denied> {
        match self {
            Self::Everyone => Ok(()),
            Self::Verified if identity.user().is_some() => Ok(()),
            Self::Verified if identity.scope().is_some() => Err(Denied::Scope),
            Self::Verified => Err(Denied::Anonymous),
        }
    }

    /// What of `asked` a token for this identity is good for, perhaps nothing.
    pub fn grant(self, identity: &Identity, asked: Scope) -> Scope {
        asked.retain(|repository, action| self.may(identity, repository, action))
    }

    /// The rights alone; the catalogue has no repository.
    fn may(self, identity: &Identity, _repository: Option<&str>, _action: Action) -> bool {
        match self {
            Self::Everyone => true,
            Self::Verified => identity.user().is_some(),
        }
    }
}

/// What a token's scope leaves of `asked`. A mount reads its source: without that in the scope a plain upload starts,
/// and so it does where the registry would choose the source.
fn within(scope: &Scope, asked: Asked) -> Result<Asked, Denied> {
    let operation = match asked {
        Asked::Operation(operation) => operation,
        // No scope speaks of paths.
        Asked::Path(_) => return Err(Denied::Scope),
    };
    if !scope.allows(operation.repository(), operation.action()) {
        return Err(Denied::Scope);
    }
    let may_mount = operation.mount().is_none_or(|mount| {
        mount
            .from
            .is_some_and(|source| scope.allows(Some(source), Action::Pull))
    });
    Ok(Asked::Operation(if may_mount {
        operation
    } else {
        operation.without_mount()
    }))
}
