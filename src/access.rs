//! Who may do what: from an identity and what it asks to a [`Permit`].
//!
//! `service` calls it for every request that is not refused before. This is the only module that can
//! make a [`Permit`], and `forward` demands one: what was not permitted here cannot be forwarded.

use crate::auth::Identity;
use crate::registry::Operation;

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
    pub fn permit(self, identity: &Identity, asked: Asked) -> Result<Permit, Denied> {
        self.admit(identity)?;
        Ok(Permit { asked })
    }

    /// Whether `identity` may learn anything at all here, such as what is wrong with its request.
    pub fn admit(self, identity: &Identity) -> Result<(), Denied> {
        match self {
            Self::Everyone => Ok(()),
            Self::Verified if identity.user().is_some() => Ok(()),
            Self::Verified => Err(Denied::Anonymous),
        }
    }
}
