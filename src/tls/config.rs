//! The rustls configuration of every site, the selection of one by SNI, and the session ticket keys.
//!
//! `snapshot` builds one [`TlsConfigs`] per configuration from the sites, and keeps one [`TicketKeys`] for the life of the
//! process. `handshake` selects a configuration for each connection.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::{ServerConfig, SupportedProtocolVersion, version};

use super::cert_slot::CertSlot;
use super::client_auth::ClientCa;
use super::crypto_provider::server_provider;
use super::shared_tickets::SharedTicketKeys;
use crate::net::by_listener::ByListener;
use crate::net::host_map::HostMap;
use crate::net::listener::ListenAddr;

/// The settings of the `[tls]` table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The oldest TLS version that a client may use.
    pub min_version: MinVersion,
}

/// The oldest TLS version that the proxy accepts. rustls implements none before 1.2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MinVersion {
    /// TLS 1.2 and 1.3.
    #[default]
    V1_2,
    /// TLS 1.3 only.
    V1_3,
}

/// The host names of one site and its certificate.
pub struct TlsSite {
    /// Host names; `*.x` means exactly one label before `x`, `*` every other name.
    pub hosts: Vec<String>,
    /// The addresses on which the site is served; `None` for all.
    pub listen: Option<Vec<ListenAddr>>,
    /// The certificate for clients that ask for one of the names.
    pub slot: Arc<CertSlot>,
    /// The CA whose certificates the clients must present; `None` requests none.
    pub client_ca: Option<ClientCa>,
}

/// The TLS configurations of all sites, ready for handshakes.
///
/// A renewed certificate appears in the [`CertSlot`] of its site, so the configurations stay. A reload builds new ones.
pub struct TlsConfigs {
    tables: ByListener<HostMap<SelectedConfig>>,
    pub(super) alpn_challenges: Option<Arc<dyn AlpnChallenges>>,
}

/// The ALPN protocol of an ACME certificate authority that validates a host over TLS (tls-alpn-01, RFC 8737).
pub(crate) const ACME_TLS_ALPN: &[u8] = b"acme-tls/1";

/// The source of configurations for tls-alpn-01 challenges (RFC 8737), which `acme` implements.
pub trait AlpnChallenges: Send + Sync {
    /// Returns the configuration for the handshake of a certificate authority that validates `host`; `None` if no challenge
    /// for this host is open. `host` is in lower case, without a trailing dot.
    fn config_for<'a>(
        &'a self,
        host: &'a str,
    ) -> Pin<Box<dyn Future<Output = Option<Arc<ServerConfig>>> + Send + 'a>>;
}

/// The configuration of one site.
#[derive(Clone)]
pub(super) struct SelectedConfig {
    pub(super) config: Arc<ServerConfig>,
    pub(super) slot: Arc<CertSlot>,
    pub(super) client_ca: Option<ClientCa>,
}

/// The reason why no [`TlsConfigs`] or [`TicketKeys`] could be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system returned no random bytes for the ticket keys.
    #[error("no keys for session tickets could be created: {0}")]
    Tickets(#[source] rustls::Error),
    /// rustls rejected its own versions and cipher suites.
    #[error("the TLS library rejected its settings: {0}")]
    Settings(#[source] rustls::Error),
}

impl TlsConfigs {
    /// Builds one rustls configuration per site. If two sites of one address have the same host, the earlier site serves it.
    ///
    /// # Errors
    /// If rustls rejects a configuration.
    pub fn new(
        settings: &Settings,
        sites: Vec<TlsSite>,
        tickets: &TicketKeys,
    ) -> Result<Self, Error> {
        let provider = Arc::new(server_provider());
        let named = sites.iter().filter_map(|site| site.listen.as_ref());
        let mut tables = ByListener::<HostMap<_>>::new(named.flatten());
        for site in sites {
            let selected = SelectedConfig {
                config: Arc::new(server_config(settings, &site, &provider, tickets)?),
                slot: Arc::clone(&site.slot),
                client_ca: site.client_ca.clone(),
            };
            for names in tables.served_on(site.listen.as_deref()) {
                names.add(&site.hosts, &selected);
            }
        }
        Ok(Self {
            tables,
            alpn_challenges: None,
        })
    }

    /// Adds the challenges of an ACME certificate authority to the configurations.
    #[must_use]
    pub fn with_alpn_challenges(self, alpn_challenges: Option<Arc<dyn AlpnChallenges>>) -> Self {
        Self {
            alpn_challenges,
            ..self
        }
    }

    /// Returns the configuration for a client that connects to `listener` and sends this server name: that of the site that
    /// serves the host there, else that of the first site. `None` if no site is served there.
    pub(super) fn select(
        &self,
        listener: &ListenAddr,
        server_name: Option<&str>,
    ) -> Option<&SelectedConfig> {
        self.tables.get(listener).find_by_server_name(server_name)
    }

    /// The rustls configuration for a client of an address that no `site.listen` names.
    #[cfg(test)]
    pub(crate) fn choose(&self, server_name: Option<&str>) -> Arc<ServerConfig> {
        let selected = self.select(super::tests::unnamed_listener(), server_name);
        Arc::clone(&selected.expect("a site").config)
    }
}

impl fmt::Debug for TlsConfigs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.tables.values().flat_map(HostMap::names);
        f.debug_set().entries(names).finish()
    }
}

fn server_config(
    settings: &Settings,
    site: &TlsSite,
    provider: &Arc<CryptoProvider>,
    tickets: &TicketKeys,
) -> Result<ServerConfig, Error> {
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(protocol_versions(settings.min_version))
        .map_err(Error::Settings)?;
    let builder = match &site.client_ca {
        Some(client_ca) => builder.with_client_cert_verifier(client_ca.verifier()),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(site.slot.clone());
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ignore_client_order = true;
    // A session exists only in the client's ticket, so there is no session store here that could fill up, and no lock that
    // the workers would share. One ticket per handshake, because a second one costs 5 µs and registry clients do not use it.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // Without ticket keys, the sessions of a site are not resumed.
    if let Some(keys) = tickets.keys_for(site.client_ca.as_ref()) {
        config.ticketer = keys;
    }
    config.send_tls13_tickets = 1;
    // An attacker who has recorded early data can replay it (RFC 8446 section 8).
    config.max_early_data_size = 0;
    Ok(config)
}

fn protocol_versions(min: MinVersion) -> &'static [&'static SupportedProtocolVersion] {
    static FROM_1_2: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
    static FROM_1_3: [&SupportedProtocolVersion; 1] = [&version::TLS13];
    match min {
        MinVersion::V1_2 => &FROM_1_2,
        MinVersion::V1_3 => &FROM_1_3,
    }
}

/// The keys that encrypt session tickets. Without a shared directory they exist in memory only; rustls creates new ones every six
/// hours and accepts a ticket for up to twelve.
///
/// The keys are created once per process and shared by every [`TlsConfigs`], so that sessions survive a reload. A ticket
/// contains the server name it was issued for, and rustls accepts it for no other name (RFC 6066 section 3). It also contains
/// the client's certificate, which is not verified again on resumption. Therefore each client CA has its own keys, and a site
/// whose CA changes gets new keys.
#[derive(Clone)]
pub struct TicketKeys {
    /// For sites that request no client certificate.
    default: Arc<dyn ProducesTickets>,
    per_client_ca: Vec<(ClientCa, Arc<dyn ProducesTickets>)>,
    /// The source of the keys, if several instances share them.
    shared: Option<Arc<SharedTicketKeys>>,
}

impl TicketKeys {
    /// Creates keys for sites that request no client certificate.
    ///
    /// # Errors
    /// If the system returns no random bytes.
    pub fn new() -> Result<Self, Error> {
        Ok(Self {
            default: new_ticketer()?,
            per_client_ca: Vec::new(),
            shared: None,
        })
    }

    /// The keys of a directory that several instances share.
    pub fn shared(keys: SharedTicketKeys) -> Self {
        let keys = Arc::new(keys);
        Self {
            default: keys.ticketer(None),
            per_client_ca: Vec::new(),
            shared: Some(keys),
        }
    }

    /// The keys of the shared directory; `None` if the keys exist in memory only.
    pub(crate) fn shared_keys(&self) -> Option<&Arc<SharedTicketKeys>> {
        self.shared.as_ref()
    }

    /// Returns the same default keys with keys for exactly these client CAs. A CA that has keys already keeps them.
    ///
    /// # Errors
    /// If the system returns no random bytes.
    pub fn with(&self, client_cas: impl IntoIterator<Item = ClientCa>) -> Result<Self, Error> {
        let mut tickets = Self {
            default: Arc::clone(&self.default),
            per_client_ca: Vec::new(),
            shared: self.shared.clone(),
        };
        for client_ca in client_cas {
            if tickets.keys_for(Some(&client_ca)).is_none() {
                let keys = self
                    .keys_for(Some(&client_ca))
                    .map_or_else(|| self.new_ticketer_for(&client_ca), Ok)?;
                tickets.per_client_ca.push((client_ca, keys));
            }
        }
        Ok(tickets)
    }

    fn new_ticketer_for(&self, client_ca: &ClientCa) -> Result<Arc<dyn ProducesTickets>, Error> {
        match &self.shared {
            Some(shared) => Ok(shared.ticketer(Some(client_ca))),
            None => new_ticketer(),
        }
    }

    fn keys_for(&self, client_ca: Option<&ClientCa>) -> Option<Arc<dyn ProducesTickets>> {
        let Some(client_ca) = client_ca else {
            return Some(Arc::clone(&self.default));
        };
        let mut per_client_ca = self.per_client_ca.iter();
        let (_, keys) = per_client_ca.find(|(known, _)| known == client_ca)?;
        Some(Arc::clone(keys))
    }
}

fn new_ticketer() -> Result<Arc<dyn ProducesTickets>, Error> {
    aws_lc_rs::Ticketer::new().map_err(Error::Tickets)
}

/// A manual implementation, so that no key appears in debug output.
impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKeys(..)")
    }
}
