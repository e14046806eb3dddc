//! Whose rights are asked for: a user, a network, both, or nobody in particular.
//!
//! Made from an [`Identity`] for a request, and from a name where there is none.

use crate::auth::Identity;

/// Whose rights are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Principal<'a> {
    /// A verified user.
    pub user: Option<&'a str>,
    /// A client network that is enough alone: `@network`.
    pub network: bool,
}

impl Principal<'_> {
    /// True for who is not just anyone.
    pub fn is_known(self) -> bool {
        self.user.is_some() || self.network
    }
}

impl<'a> From<Option<&'a str>> for Principal<'a> {
    fn from(user: Option<&'a str>) -> Self {
        Self {
            user,
            network: false,
        }
    }
}

impl<'a> From<&'a Identity> for Principal<'a> {
    fn from(identity: &'a Identity) -> Self {
        Self {
            user: identity.user(),
            network: identity.is_network(),
        }
    }
}
