//! How many may be at something at once, in all and of one client network, counted by guard.
//!
//! `service` enters before it does what a stranger can ask for and what costs more than a request that is sent on.
//! Nobody waits here: whoever comes too many is told to come again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::addr::{ClientAddr, Network};
use crate::auth::Identity;
use crate::refusal::Refusal;

/// All that is limited. It outlives a reload, as what it counts does.
#[derive(Debug)]
pub struct Limiters {
    /// Forms at the token endpoint on their way in: of 20 KiB each.
    forms: Limiter,
    /// Lists of repositories that are walked for users, and for networks that are enough alone.
    walks: Limiter,
    /// The same for strangers: they leave the users' room alone.
    strangers_walks: Limiter,
}

impl Default for Limiters {
    fn default() -> Self {
        Self {
            forms: Limiter::new(256, 32),
            walks: Limiter::new(32, 8),
            strangers_walks: Limiter::new(16, 4),
        }
    }
}

impl Limiters {
    /// For one walk through the list.
    pub(super) fn walk(&self, identity: &Identity, client: ClientAddr) -> Result<Entered, Refusal> {
        let limiter = if identity.is_anonymous() {
            &self.strangers_walks
        } else {
            &self.walks
        };
        limiter.enter(client.network())
    }

    /// For one form.
    pub(super) fn form(&self, client: ClientAddr) -> Result<Entered, Refusal> {
        self.forms.enter(client.network())
    }
}

/// One bound of them.
#[derive(Debug)]
struct Limiter {
    most: usize,
    of_one: usize,
    inside: Arc<Mutex<Inside>>,
}

#[derive(Debug, Default)]
struct Inside {
    /// None of them zero.
    networks: HashMap<Network, usize>,
    count: usize,
}

/// Who is inside; dropping it makes room again.
#[derive(Debug)]
pub(super) struct Entered {
    network: Network,
    inside: Arc<Mutex<Inside>>,
}

impl Limiter {
    /// At most `most` at once, `of_one` from one network.
    fn new(most: usize, of_one: usize) -> Self {
        Self {
            most,
            of_one,
            inside: Arc::default(),
        }
    }

    /// Counts one more of this network, or says no.
    fn enter(&self, network: Network) -> Result<Entered, Refusal> {
        let mut inside = lock(&self.inside);
        let own = inside.networks.get(&network).copied().unwrap_or_default();
        if inside.count >= self.most || own >= self.of_one {
            return Err(Refusal::Crowded);
        }
        inside.count += 1;
        inside.networks.insert(network, own + 1);
        drop(inside);
        Ok(Entered {
            network,
            inside: Arc::clone(&self.inside),
        })
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut inside = lock(&self.inside);
        inside.count = inside.count.saturating_sub(1);
        if let Some(own) = inside.networks.get_mut(&self.network) {
            *own = own.saturating_sub(1);
            // So that the map is never larger than what is inside.
            if *own == 0 {
                inside.networks.remove(&self.network);
            }
        }
    }
}

fn lock(inside: &Mutex<Inside>) -> MutexGuard<'_, Inside> {
    inside.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;
    use crate::addr::PeerAddr;

    fn network(last: u8) -> Network {
        let address = SocketAddr::from((Ipv4Addr::new(192, 0, 2, last), 1));
        PeerAddr::new(address).client().network()
    }

    #[test]
    fn a_network_has_its_share_and_all_have_theirs() {
        let limiter = Limiter::new(3, 2);
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
        let inside = lock(&limiter.inside);
        assert!(inside.count == 0 && inside.networks.is_empty());
    }
}
