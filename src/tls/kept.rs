//! Certificates that may change while the gate serves, or not be there yet: those of `tls = "acme"`.
//!
//! Made by `snapshot`, one for each host; filled by `acme` as they are issued; looked at by each handshake. How they are
//! got is not known here.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::certs::Pair;
use super::names::normal;

/// A host, and its certificate once there is one.
pub struct Kept {
    host: String,
    pair: ArcSwapOption<Pair>,
}

impl Kept {
    /// A host without a certificate.
    pub fn new(host: &str) -> Self {
        Self {
            host: normal(host),
            pair: ArcSwapOption::empty(),
        }
    }

    /// Lower case, without a trailing dot.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// What handshakes show now.
    pub fn pair(&self) -> Option<Arc<Pair>> {
        self.pair.load_full()
    }

    /// From the next handshake on.
    pub fn set(&self, pair: Pair) {
        self.pair.store(Some(Arc::new(pair)));
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kept({}, {:?})", self.host, self.pair.load())
    }
}

/// Where a site's certificate comes from.
pub enum Shown {
    /// It stays as it is.
    Fixed(Pair),
    /// One for each host, which may change, or not be there yet; at least one.
    Kept(Vec<Arc<Kept>>),
}

/// Picks a certificate in a handshake.
pub(super) type Resolver = Arc<dyn ResolvesServerCert>;

/// What picks a site's certificate, and the hosts of those that may be missing. `None` when there is nothing to show.
pub(super) fn resolver(shown: &Shown) -> Option<(Resolver, Option<Arc<ByName>>)> {
    Some(match shown {
        Shown::Fixed(pair) => {
            let pair = SingleCertAndKey::from(Arc::clone(pair.certified()));
            (Arc::new(pair), None)
        }
        Shown::Kept(kept) => {
            let kept = Arc::new(ByName::new(kept)?);
            (Arc::clone(&kept) as Resolver, Some(kept))
        }
    })
}

/// The hosts of one site.
#[derive(Debug)]
pub(super) struct ByName {
    /// For clients that ask for no name, or for another.
    first: Arc<Kept>,
    all: HashMap<String, Arc<Kept>>,
}

impl ByName {
    /// `None` when there is no host.
    pub(super) fn new(kept: &[Arc<Kept>]) -> Option<Self> {
        let named = |kept: &Arc<Kept>| (kept.host.clone(), Arc::clone(kept));
        Some(Self {
            first: Arc::clone(kept.first()?),
            all: kept.iter().map(named).collect(),
        })
    }

    /// That very host, if the site has it.
    pub(super) fn host(&self, name: Option<&str>) -> Option<&str> {
        Some(&self.all.get(name?)?.host)
    }

    /// Whether there is something to show. `name` is in normal form.
    pub(super) fn has(&self, name: Option<&str>) -> bool {
        self.find(name).pair.load().is_some()
    }

    fn find(&self, name: Option<&str>) -> &Kept {
        let named = name.and_then(|name| self.all.get(name));
        named.unwrap_or(&self.first)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(normal);
        let pair = self.find(name.as_deref()).pair()?;
        Some(Arc::clone(pair.certified()))
    }
}
