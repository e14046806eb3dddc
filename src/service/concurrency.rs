//! Limits the number of concurrent requests of an expensive kind: in total, for each client network, and for each
//! client network group.
//!
//! `service` acquires a permit before it does something that an unauthenticated client can ask for and that costs
//! more than forwarding a request. No request waits here: a request over the limit gets 503 with `Retry-After`.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::auth::Identity;
use crate::net::addr::{ClientAddr, ClientNetwork};
use crate::net::fair_share::FairShare;
use crate::rejection::Rejection;

/// The concurrency limits of the process. They outlive a reload, as the requests that they count do.
#[derive(Debug)]
pub struct ConcurrencyLimits {
    /// Token requests by POST whose form is being read, with up to 20 KiB each.
    token_forms: ConcurrencyLimit,
    /// Challenge files that are being read. A disk that does not respond occupies no more threads.
    challenge_files: ConcurrencyLimit,
    /// Catalog walks for users, and for clients that are identified by their network.
    catalog_walks: ConcurrencyLimit,
    /// Catalog walks for anonymous clients, which therefore cannot use up the limit of the users.
    anonymous_catalog_walks: ConcurrencyLimit,
}

impl Default for ConcurrencyLimits {
    fn default() -> Self {
        Self {
            token_forms: ConcurrencyLimit::new(256, 32),
            challenge_files: ConcurrencyLimit::new(32, 8),
            catalog_walks: ConcurrencyLimit::new(32, 8),
            anonymous_catalog_walks: ConcurrencyLimit::new(16, 4),
        }
    }
}

impl ConcurrencyLimits {
    /// Acquires a permit for one catalog walk.
    pub(super) fn acquire_catalog(
        &self,
        identity: &Identity,
        client: ClientAddr,
    ) -> Result<ConcurrencyPermit, Rejection> {
        let limit = if identity.is_anonymous() {
            &self.anonymous_catalog_walks
        } else {
            &self.catalog_walks
        };
        limit.acquire(client.network())
    }

    /// Acquires a permit for reading one challenge file.
    pub(super) fn acquire_challenge_file(
        &self,
        client: ClientAddr,
    ) -> Result<ConcurrencyPermit, Rejection> {
        self.challenge_files.acquire(client.network())
    }

    /// Acquires a permit for reading one form of a token request.
    pub(super) fn acquire_token_form(
        &self,
        client: ClientAddr,
    ) -> Result<ConcurrencyPermit, Rejection> {
        self.token_forms.acquire(client.network())
    }
}

/// The limit of one kind of request.
#[derive(Debug)]
struct ConcurrencyLimit {
    share: Arc<Mutex<FairShare>>,
}

/// Counts one request; dropping the permit ends the count.
#[derive(Debug)]
pub(super) struct ConcurrencyPermit {
    network: ClientNetwork,
    share: Arc<Mutex<FairShare>>,
}

impl ConcurrencyLimit {
    /// Allows `limit` concurrent requests in total, and `network_limit` of one client network.
    fn new(limit: usize, network_limit: usize) -> Self {
        Self {
            share: Arc::new(Mutex::new(FairShare::new(limit, network_limit))),
        }
    }

    /// Counts one more request of this network.
    ///
    /// # Errors
    /// The limit is reached, in total or for this network or its group.
    fn acquire(&self, network: ClientNetwork) -> Result<ConcurrencyPermit, Rejection> {
        if !self.share.lock().take(network) {
            return Err(Rejection::ConcurrencyLimit);
        }
        Ok(ConcurrencyPermit {
            network,
            share: Arc::clone(&self.share),
        })
    }
}

impl Drop for ConcurrencyPermit {
    fn drop(&mut self) {
        self.share.lock().give_back(self.network);
    }
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
    fn acquire_fails_at_the_limit_of_the_network_and_at_the_total() {
        let limit = ConcurrencyLimit::new(3, 2);
        let acquire = |last| limit.acquire(network(last)).ok();
        let (one, two) = (acquire(1), acquire(1));
        assert!(one.is_some() && two.is_some());
        assert!(acquire(1).is_none(), "two of one network");
        let three = acquire(2);
        assert!(three.is_some());
        assert!(acquire(3).is_none(), "three in all");
        drop(one);
        let again = acquire(3);
        assert!(again.is_some() && acquire(1).is_none());
        drop((two, three, again));
        assert_eq!(limit.share.lock().held(), 0);
    }
}
