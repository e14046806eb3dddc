//! Bounds how many requests of an expensive kind are answered at once: in all, for one client network, and for one client
//! network group. Counted by guard.
//!
//! `service` enters before it does what an unauthenticated client can ask for and what costs more than a request that is
//! passed on. No request waits here: one that is too many is answered with 503 and `Retry-After`.

use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;

use crate::auth::Identity;
use crate::net::addr::{ClientAddr, ClientNetwork};
use crate::net::fair_share::FairShare;
use crate::rejection::Rejection;

/// All that is limited. It outlives a reload, as what it counts does.
#[derive(Debug)]
pub struct ConcurrencyLimits {
    /// Forms at the token endpoint on their way in: of 20 KiB each.
    forms: ConcurrencyLimit,
    /// Lists of repositories that are walked for users, and for networks that are enough alone.
    walks: ConcurrencyLimit,
    /// The same for strangers: they leave the users' room alone.
    strangers_walks: ConcurrencyLimit,
}

impl Default for ConcurrencyLimits {
    fn default() -> Self {
        Self {
            forms: ConcurrencyLimit::new(256, 32),
            walks: ConcurrencyLimit::new(32, 8),
            strangers_walks: ConcurrencyLimit::new(16, 4),
        }
    }
}

impl ConcurrencyLimits {
    /// For one walk through the list.
    pub(super) fn acquire_catalog(
        &self,
        identity: &Identity,
        client: ClientAddr,
    ) -> Result<ConcurrencyPermit, Rejection> {
        let limiter = if identity.is_anonymous() {
            &self.strangers_walks
        } else {
            &self.walks
        };
        limiter.enter(client.network())
    }

    /// For one form.
    pub(super) fn acquire_token_form(
        &self,
        client: ClientAddr,
    ) -> Result<ConcurrencyPermit, Rejection> {
        self.forms.enter(client.network())
    }
}

/// One bound.
#[derive(Debug)]
struct ConcurrencyLimit {
    inside: Arc<Mutex<FairShare>>,
}

/// A request that is counted; dropping this makes room again.
#[derive(Debug)]
pub(super) struct ConcurrencyPermit {
    network: ClientNetwork,
    inside: Arc<Mutex<FairShare>>,
}

impl ConcurrencyLimit {
    /// At most `limit` at once and `network_limit` from one client network.
    fn new(limit: usize, network_limit: usize) -> Self {
        Self {
            inside: Arc::new(Mutex::new(FairShare::new(limit, network_limit))),
        }
    }

    /// Counts one more of this network.
    ///
    /// # Errors
    /// The bound is reached, for all or for this network or its group.
    fn enter(&self, network: ClientNetwork) -> Result<ConcurrencyPermit, Rejection> {
        if !lock(&self.inside).take(network) {
            return Err(Rejection::Crowded);
        }
        Ok(ConcurrencyPermit {
            network,
            inside: Arc::clone(&self.inside),
        })
    }
}

impl Drop for ConcurrencyPermit {
    fn drop(&mut self) {
        lock(&self.inside).give_back(self.network);
    }
}

fn lock(inside: &Mutex<FairShare>) -> MutexGuard<'_, FairShare> {
    inside.lock()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;
    use crate::net::addr::PeerAddr;

    fn network(last: u8) -> ClientNetwork {
        let address = SocketAddr::from((Ipv4Addr::new(192, 0, 2, last), 1));
        PeerAddr::new(address).client().network()
    }

    #[test]
    fn a_network_has_its_share_and_all_have_theirs() {
        let limiter = ConcurrencyLimit::new(3, 2);
        let enter = |last| limiter.enter(network(last)).ok();
        let (one, two) = (enter(1), enter(1));
        assert!(one.is_some() && two.is_some());
        assert!(enter(1).is_none(), "two of one");
        let three = enter(2);
        assert!(three.is_some());
        assert!(enter(3).is_none(), "three in all");
        drop(one);
        let again = enter(3);
        assert!(again.is_some() && enter(1).is_none());
        drop((two, three, again));
        assert_eq!(lock(&limiter.inside).held(), 0);
    }
}
