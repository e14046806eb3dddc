//! Who may do what: from an identity and what it asks to a [`Permit`].
//!
//! `service` calls it for every request that is not refused before. This is the only module that can
//! make a [`Permit`], and `forward` demands one: what was not permitted here cannot be forwarded.

use std::sync::Arc;

use crate::auth::Identity;
use crate::registry::{Action, Operation};

mod actions;
mod grants;
mod pattern;

pub use actions::Actions;
pub use grants::{Grant, Grants, Subjects};
pub use pattern::{Malformed, Pattern};

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

/// What an identity may have of what it asked for.
#[derive(Debug)]
pub enum Permitted {
    /// All of it.
    Whole(Permit),
    /// Of the list of repositories, those that it may pull.
    Part(Listing),
}

/// The right to read the list of repositories, page by page, and to show some of it. Made here only.
#[derive(Debug)]
pub struct Listing {
    grants: Arc<Grants>,
    user: Option<String>,
    operation: Operation,
}

impl Listing {
    /// What was asked for, with the client's own page.
    pub fn operation(&self) -> &Operation {
        &self.operation
    }

    /// A page of the list, to be read by the gate: of `size`, or of the upstream's own choice, after `last`.
    pub fn page(&self, size: Option<usize>, last: Option<&str>) -> Permit {
        Permit {
            asked: Asked::Operation(self.operation.clone().at_page(size, last)),
        }
    }

    /// Whether the identity may learn that there is such a repository.
    pub fn shows(&self, repository: &str) -> bool {
        self.grants
            .allows(self.user.as_deref(), Action::Pull, Some(repository))
    }
}

/// Not allowed.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// Nobody has logged in, and somebody must.
    #[error("authentication required")]
    Anonymous,
    /// A known user without the right. The words are the same whether what was asked for exists or not.
    #[error("requested access to the resource is denied")]
    Forbidden,
}

/// The rule of one route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone may do everything; or the upstream decides.
    Everyone,
    /// Every verified user may do everything.
    Verified,
    /// What the grants give, and nothing else.
    Granted(Arc<Grants>),
}

impl Access {
    /// Grants `asked`, or says who may not have it.
    ///
    /// A mount reads its source: without the right to pull there, a plain upload starts. A path outside of the
    /// registry API is in no grant, so with grants it is nobody's.
    pub fn permit(&self, identity: &Identity, asked: Asked) -> Result<Permitted, Denied> {
        let Self::Granted(grants) = self else {
            self.admit(identity)?;
            return Ok(Permitted::Whole(Permit { asked }));
        };
        let user = identity.user();
        let operation = match asked {
            Asked::Operation(operation)
                if grants.allows(user, operation.action(), operation.repository()) =>
            {
                operation
            }
            Asked::Operation(_) | Asked::Path(_) => return Err(denied(user)),
        };
        if operation.action() == Action::Catalog && !grants.pulls_everything(user) {
            return Ok(Permitted::Part(Listing {
                grants: Arc::clone(grants),
                user: user.map(str::to_owned),
                operation,
            }));
        }
        let asked = Asked::Operation(with_right_to_mount(grants, user, operation));
        Ok(Permitted::Whole(Permit { asked }))
    }

    /// Whether `identity` may learn anything at all here, such as what is wrong with its request. With grants, so may
    /// every verified user, also one who is allowed nothing: it is his own request, and he proved who he is.
    pub fn admit(&self, identity: &Identity) -> Result<(), Denied> {
        match self {
            Self::Everyone => Ok(()),
            Self::Verified | Self::Granted(_) if identity.user().is_some() => Ok(()),
            Self::Verified | Self::Granted(_) => Err(Denied::Anonymous),
        }
    }

    /// Whether `user`, or with `None` someone who has not logged in, may do this; `catalog` and `ping` have no
    /// repository. The same judgement as [`Self::permit`]'s, for what is no request: the scope of a token.
    pub fn allows(&self, user: Option<&str>, action: Action, repository: Option<&str>) -> bool {
        match self {
            Self::Everyone => true,
            Self::Verified => user.is_some(),
            Self::Granted(grants) => grants.allows(user, action, repository),
        }
    }

    /// All that `user` may do with a repository.
    pub fn effective(&self, user: Option<&str>, repository: &str) -> Actions {
        match self {
            Self::Granted(grants) => grants.effective(user, repository),
            Self::Verified if user.is_none() => Actions::default(),
            Self::Everyone | Self::Verified => Actions::all(),
        }
    }
}

/// The blob that is mounted becomes readable where it is mounted to. Without a source the registry chooses one, out of
/// all it has.
fn with_right_to_mount(grants: &Grants, user: Option<&str>, operation: Operation) -> Operation {
    let may = operation.mount().is_none_or(|mount| match mount.from {
        Some(_) => grants.allows(user, Action::Pull, mount.from),
        None => grants.pulls_everything(user),
    });
    if may {
        operation
    } else {
        operation.without_mount()
    }
}

/// Someone unknown may yet log in.
fn denied(user: Option<&str>) -> Denied {
    match user {
        Some(_) => Denied::Forbidden,
        None => Denied::Anonymous,
    }
}
