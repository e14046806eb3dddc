//! Limits the number of concurrent requests of an expensive kind: in total, for each client network, and for each
//! client network group.
//!
//! `service` acquires a permit before it does something that an unauthenticated client can ask for and that costs
//! more than forwarding a request. No request waits here: a request over the limit gets 503 with `Retry-After`.

use crate::auth::Identity;
use crate::net::addr::ClientAddr;
use crate::net::fair_share::{FairLimit, FairPermit, ShareRule};
use crate::rejection::Rejection;

/// The concurrency limits of the process. They outlive a reload, as the requests that they count do.
#[derive(Debug)]
pub struct ConcurrencyLimits {
    /// Token requests by POST whose form is being read, with up to 20 KiB each.
    token_forms: FairLimit,
    /// Challenge files that are being read. A disk that does not respond occupies no more threads.
    challenge_files: FairLimit,
    /// Catalog walks for users, and for clients that are identified by their network.
    catalog_walks: FairLimit,
    /// Catalog walks for anonymous clients, which therefore cannot use up the limit of the users.
    anonymous_catalog_walks: FairLimit,
}

impl Default for ConcurrencyLimits {
    fn default() -> Self {
        Self {
            token_forms: FairLimit::new(256, ShareRule::AtMost(32)),
            challenge_files: FairLimit::new(32, ShareRule::AtMost(8)),
            catalog_walks: FairLimit::new(32, ShareRule::AtMost(8)),
            anonymous_catalog_walks: FairLimit::new(16, ShareRule::AtMost(4)),
        }
    }
}

impl ConcurrencyLimits {
    /// Acquires a permit for one catalog walk.
    pub(super) fn acquire_catalog(
        &self,
        identity: &Identity,
        client: ClientAddr,
    ) -> Result<FairPermit, Rejection> {
        let limit = if identity.is_anonymous() {
            &self.anonymous_catalog_walks
        } else {
            &self.catalog_walks
        };
        acquire(limit, client)
    }

    /// Acquires a permit for reading one challenge file.
    pub(super) fn acquire_challenge_file(
        &self,
        client: ClientAddr,
    ) -> Result<FairPermit, Rejection> {
        acquire(&self.challenge_files, client)
    }

    /// Acquires a permit for reading one form of a token request.
    pub(super) fn acquire_token_form(&self, client: ClientAddr) -> Result<FairPermit, Rejection> {
        acquire(&self.token_forms, client)
    }
}

/// Acquires a permit for one request of this client.
///
/// # Errors
/// The limit is reached, in total or for the network of the client or its group.
fn acquire(limit: &FairLimit, client: ClientAddr) -> Result<FairPermit, Rejection> {
    let permit = limit.try_acquire(client.network());
    permit.ok_or(Rejection::ConcurrencyLimit)
}
