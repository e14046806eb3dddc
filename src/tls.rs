//! TLS at the gate's front door: which certificate a client sees and how the handshake goes.
//!
//! `snapshot` makes a [`Tls`] from the sites and keeps one [`TicketKeys`] for the life of the process; `connection`
//! hands each new stream to [`accept`]. Files are read in [`certs`] and looked after in [`live`], the gate's own CA lives
//! in [`self_signed`].
//! Deadlines, plain-text answers and the choice of the site that serves a request are not made here: the last
//! goes by `Host`, SNI only picks a certificate.

pub mod certs;
mod chain;
pub mod challenges;
mod failure;
mod handshake;
pub mod live;
mod names;
mod opened;
mod pem;
mod sealed;
pub mod self_signed;
mod server_name;
pub mod shown;
mod stream;
pub mod trust;
mod warning;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::{CipherSuite, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion, version};

pub use self::failure::HandshakeFailure;
pub(crate) use self::failure::alert_name;
pub use self::handshake::{Accepted, HandshakeError, TlsInfo, accept};
pub(crate) use self::names::normal;
pub use self::stream::Stream;

use self::challenges::AlpnChallengeResolver;
use self::shown::CertSlot;
use self::trust::ClientCa;
use crate::crypto;

/// What the operator decides about TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The oldest version a client may speak.
    pub min_version: MinVersion,
}

/// The oldest TLS version that is spoken; rustls knows none before 1.2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MinVersion {
    /// TLS 1.2 and 1.3.
    #[default]
    V1_2,
    /// TLS 1.3 only.
    V1_3,
}

/// The keys that seal session tickets, in memory only: fresh every six hours, good for twelve.
///
/// Made once per process and shared by every [`Tls`], so that a reload does not end resumption. A ticket carries
/// the name it was given for, and rustls takes it for no other (RFC 6066 §3). It carries the client's certificate, too,
/// which is not verified again: so each trust domain has keys of its own, and one whose CAs change gets new ones.
#[derive(Clone)]
pub struct TicketKeys {
    open: Arc<dyn ProducesTickets>,
    guarded: Vec<(ClientCa, Arc<dyn ProducesTickets>)>,
}

/// One site's names and its certificate.
pub struct TlsSite {
    /// Host names, `*.x` for exactly one label, `*` for every other name.
    pub hosts: Vec<String>,
    /// What is shown to clients that ask for one of them.
    pub shown: Arc<CertSlot>,
    /// Whose certificates its clients must show; `None` asks for none.
    pub trust: Option<ClientCa>,
}

/// What a handshake uses.
#[derive(Clone)]
struct SelectedConfig {
    config: Arc<ServerConfig>,
    shown: Arc<CertSlot>,
    trust: Option<ClientCa>,
}

/// The certificates of all sites, ready for handshakes. A renewed certificate is shown by the same; a reload makes a
/// new one.
pub struct Tls {
    exact: HashMap<String, SelectedConfig>,
    /// By what follows `*.`.
    wildcard: HashMap<String, SelectedConfig>,
    /// The site that names `*`, else the first.
    fallback: SelectedConfig,
    /// For clients that send no name.
    first: SelectedConfig,
    answering: Option<AlpnChallengeResolver>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.exact.keys().chain(self.wildcard.keys());
        f.debug_set().entries(names).finish()
    }
}

/// Why no [`Tls`] or [`TicketKeys`] could be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing to show to any client.
    #[error("no site has a certificate")]
    NoSites,
    /// The system gave no random bytes for the ticket keys.
    #[error("no keys for session tickets could be made")]
    Tickets(#[source] rustls::Error),
    /// The library refused its own versions and suites.
    #[error("the TLS library refused its settings")]
    Settings(#[source] rustls::Error),
}

impl TicketKeys {
    /// Fresh keys.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub fn new() -> Result<Self, Error> {
        Ok(Self {
            open: keys()?,
            guarded: Vec::new(),
        })
    }

    /// The same, with keys for these trust domains and for no others.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub fn with(&self, trusts: impl IntoIterator<Item = ClientCa>) -> Result<Self, Error> {
        let mut tickets = Self {
            open: Arc::clone(&self.open),
            guarded: Vec::new(),
        };
        for trust in trusts {
            if tickets.of(Some(&trust)).is_none() {
                let keys = self.of(Some(&trust)).map_or_else(keys, Ok)?;
                tickets.guarded.push((trust, keys));
            }
        }
        Ok(tickets)
    }

    fn of(&self, trust: Option<&ClientCa>) -> Option<Arc<dyn ProducesTickets>> {
        let Some(trust) = trust else {
            return Some(Arc::clone(&self.open));
        };
        let mut guarded = self.guarded.iter();
        let (_, keys) = guarded.find(|(known, _)| known == trust)?;
        Some(Arc::clone(keys))
    }
}

fn keys() -> Result<Arc<dyn ProducesTickets>, Error> {
    aws_lc_rs::Ticketer::new().map_err(Error::Tickets)
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets(..)")
    }
}

impl Tls {
    /// One rustls configuration a site. When two sites name the same host, the earlier one has it.
    ///
    /// # Errors
    /// When there is no site.
    pub fn new(
        settings: &Settings,
        sites: Vec<TlsSite>,
        tickets: &TicketKeys,
    ) -> Result<Self, Error> {
        let provider = Arc::new(provider());
        let (mut exact, mut wildcard) = (HashMap::new(), HashMap::new());
        let (mut any, mut first) = (None, None);
        for site in sites {
            let chosen = SelectedConfig {
                config: Arc::new(configure(settings, &site, &provider, tickets)?),
                shown: Arc::clone(&site.shown),
                trust: site.trust.clone(),
            };
            first.get_or_insert_with(|| chosen.clone());
            for host in site.hosts.iter().map(|host| normal(host)) {
                match host.strip_prefix("*.") {
                    _ if host == "*" => any.get_or_insert_with(|| chosen.clone()),
                    Some(parent) => wildcard
                        .entry(parent.into())
                        .or_insert_with(|| chosen.clone()),
                    None => exact.entry(host).or_insert_with(|| chosen.clone()),
                };
            }
        }
        let first = first.ok_or(Error::NoSites)?;
        Ok(Self {
            exact,
            wildcard,
            fallback: any.unwrap_or_else(|| first.clone()),
            first,
            answering: None,
        })
    }

    /// The same, which answers what a certificate authority asks over TLS.
    #[must_use]
    pub fn answering(self, answering: Option<AlpnChallengeResolver>) -> Self {
        Self { answering, ..self }
    }

    /// The configuration for the name a client asks for: that name, then `*.x`, then `*`, else the first site's;
    /// without a name the first site's. Case and a trailing dot do not count.
    pub fn choose(&self, sni: Option<&str>) -> Arc<ServerConfig> {
        Arc::clone(&self.chosen(sni).config)
    }

    fn chosen(&self, sni: Option<&str>) -> &SelectedConfig {
        let Some(name) = sni.map(normal) else {
            return &self.first;
        };
        let by_parent = || self.wildcard.get(name.split_once('.')?.1);
        self.exact
            .get(&name)
            .or_else(by_parent)
            .unwrap_or(&self.fallback)
    }
}

/// AES-128-GCM first: the strength of its keys suffices, and it moves the most bytes a second.
///
/// rustls takes the first key exchange group of the *client's* list that we know, whatever our order, so the
/// provider's groups stay as they are: X25519MLKEM768, X25519, P-256, P-384.
fn provider() -> CryptoProvider {
    let mut provider = crypto::provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| !is_aes_128(suite));
    provider
}

fn is_aes_128(suite: &SupportedCipherSuite) -> bool {
    matches!(
        suite.suite(),
        CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
    )
}

fn configure(
    settings: &Settings,
    site: &TlsSite,
    provider: &Arc<CryptoProvider>,
    tickets: &TicketKeys,
) -> Result<ServerConfig, Error> {
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions(settings.min_version))
        .map_err(Error::Settings)?;
    let builder = match &site.trust {
        Some(trust) => builder.with_client_cert_verifier(trust.verifier()),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(site.shown.clone());
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ignore_client_order = true;
    // Sessions live in the client's ticket alone: nothing to fill up here, no lock shared by the workers. One
    // ticket a handshake, because a second costs 5 µs and registry clients do not use it.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // A trust domain without keys of its own resumes nothing.
    if let Some(keys) = tickets.of(site.trust.as_ref()) {
        config.ticketer = keys;
    }
    config.send_tls13_tickets = 1;
    // Early data can be replayed by anyone who saw it (RFC 8446 §8).
    config.max_early_data_size = 0;
    Ok(config)
}

fn versions(oldest: MinVersion) -> &'static [&'static SupportedProtocolVersion] {
    match oldest {
        MinVersion::V1_2 => &FROM_1_2,
        MinVersion::V1_3 => &FROM_1_3,
    }
}

static FROM_1_2: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
static FROM_1_3: [&SupportedProtocolVersion; 1] = [&version::TLS13];

#[cfg(test)]
mod tests;
