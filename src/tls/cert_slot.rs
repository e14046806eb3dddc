//! [`CertSlot`], the place from which handshakes take the certificate of a site.
//!
//! `snapshot` creates the slots and passes them to [`TlsConfigs`](super::TlsConfigs). `cert_reload` and `acme` put a renewed
//! certificate into the slot: new handshakes get it, and handshakes that have begun and existing connections are not
//! disturbed. `server` asks the slot at intervals for new warnings about expiry. Nothing is logged here.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use time::{Duration, OffsetDateTime};

use super::cert_warning::{CertWarning, ExpiryState};
use super::certified_pair::CertifiedPair;

/// A certificate and its key, which are replaced together, so that no handshake uses a certificate with the key of another.
///
/// A slot is empty until its first certificate is issued. Once it has a certificate, it always has one.
pub struct CertSlot {
    pair: ArcSwapOption<CertifiedPair>,
    /// The expiry states that were reported already, one for each validity of the pair.
    reported: Mutex<Vec<ExpiryState>>,
}

impl CertSlot {
    /// Creates a slot with a pair. The caller has already reported the pair's expiry state at `now`.
    pub fn new(pair: CertifiedPair, now: OffsetDateTime) -> Arc<Self> {
        let reported = Mutex::new(expiry_states(&pair, now));
        Arc::new(Self {
            pair: ArcSwapOption::from_pointee(pair),
            reported,
        })
    }

    /// Creates an empty slot.
    pub fn empty() -> Arc<Self> {
        Arc::new(Self {
            pair: ArcSwapOption::empty(),
            reported: Mutex::default(),
        })
    }

    /// Returns the pair that new handshakes use.
    pub fn current(&self) -> Option<Arc<CertifiedPair>> {
        self.pair.load_full()
    }

    /// Whether the slot has no certificate yet.
    pub fn is_empty(&self) -> bool {
        self.pair.load().is_none()
    }

    /// Whether the slot has the same certificate chain as `pair`.
    pub(crate) fn holds(&self, pair: &CertifiedPair) -> bool {
        let current = self.pair.load();
        current
            .as_ref()
            .is_some_and(|current| current.chain() == pair.chain())
    }

    /// Replaces the pair; the next handshake uses the new one. The caller reports the pair's expiry state at `now`.
    pub fn replace(&self, pair: CertifiedPair, now: OffsetDateTime) {
        let states = expiry_states(&pair, now);
        self.pair.store(Some(Arc::new(pair)));
        *self.reported.lock() = states;
    }

    /// The time at which the first certificate of the chain expires; `None` if the slot is empty.
    pub fn earliest_expiry(&self) -> Option<OffsetDateTime> {
        let pair = self.current()?;
        pair.validities().iter().map(|it| it.not_after).min()
    }

    /// The whole validity period of the certificate of the chain that expires first; `None` if the slot is empty.
    pub fn lifetime(&self) -> Option<Duration> {
        let pair = self.current()?;
        let first = pair.validities().iter().min_by_key(|it| it.not_after)?;
        Some(first.not_after - first.not_before)
    }

    /// Returns all warnings about the expiry at `now`, reported before or not. `path` is the certificate's file.
    pub fn expiry_warnings(&self, path: &Path, now: OffsetDateTime) -> Vec<CertWarning> {
        let Some(pair) = self.current() else {
            return Vec::new();
        };
        let validities = pair.validities().iter();
        validities.filter_map(|it| it.warning(path, now)).collect()
    }

    /// Returns the warnings about the expiry that this method has not returned yet: one when a certificate should have been
    /// renewed, one shortly before it expires, and one when it has expired. `path` is the certificate's file.
    pub fn take_new_expiry_warnings(&self, path: &Path, now: OffsetDateTime) -> Vec<CertWarning> {
        let Some(pair) = self.current() else {
            return Vec::new();
        };
        let mut reported = self.reported.lock();
        let mut warnings = Vec::new();
        for (validity, reported) in pair.validities().iter().zip(reported.iter_mut()) {
            let state = validity.expiry_state(now);
            if state > *reported {
                *reported = state;
                warnings.extend(validity.warning(path, now));
            }
        }
        warnings
    }
}

fn expiry_states(pair: &CertifiedPair, now: OffsetDateTime) -> Vec<ExpiryState> {
    let validities = pair.validities().iter();
    validities.map(|it| it.expiry_state(now)).collect()
}

impl ResolvesServerCert for CertSlot {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.pair.load().as_ref()?.certified_key()))
    }
}

/// The certificate that the proxy presents to an upstream.
impl ResolvesClientCert for CertSlot {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let pair = self.pair.load();
        let certified_key = pair.as_ref()?.certified_key();
        // Without a scheme that both sides know, the handshake goes on without a certificate, and the upstream decides.
        certified_key.key.choose_scheme(schemes)?;
        Some(Arc::clone(certified_key))
    }

    fn has_certs(&self) -> bool {
        !self.is_empty()
    }
}

impl fmt::Debug for CertSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pair.load().fmt(f)
    }
}
