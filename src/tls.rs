//! TLS on the listening side: certificates, handshakes and the encrypted stream.
//!
//! `snapshot` builds one [`TlsConfigs`] from the sites of a configuration, and `connection` passes each new TCP connection to
//! [`accept`]. The server name of the client (SNI) selects the certificate and nothing else: the site that serves a request is
//! selected by its `Host`. Deadlines and the response to plain HTTP on a TLS port belong to `connection`.
//!
//! | file | content |
//! |---|---|
//! | `config` | the rustls configuration of every site, and the selection by SNI |
//! | `handshake`, `client_hello`, `failure` | one handshake, and the reason when it fails |
//! | `record_stream` | the encrypted stream after the handshake |
//! | `pem`, `certificate`, `certified_pair`, `cert_warning` | PEM files, X.509 certificates, and what is wrong with them |
//! | `cert_slot`, `cert_reload` | replacing a certificate while the proxy serves |
//! | `self_signed` | the proxy's own CA |
//! | `client_auth` | client certificates |
//!
//! `acme` depends on this module, not the other way round: it fills a [`CertSlot`], and implements [`AlpnChallenges`].

mod cert_reload;
mod cert_slot;
mod cert_warning;
mod certificate;
mod certified_pair;
mod client_auth;
mod client_hello;
mod config;
mod crypto_provider;
mod failure;
mod handshake;
mod pem;
mod record_stream;
pub mod self_signed;
mod shared_tickets;
mod subject_alt_name;

pub(crate) use self::cert_reload::Reuse;
pub use self::cert_reload::{CertEvent, ReloadingCert};
pub use self::cert_slot::CertSlot;
pub use self::cert_warning::CertWarning;
pub use self::certified_pair::{CertifiedPair, Error as CertificateError, load_pair};
pub use self::client_auth::{ClientAuthMode, ClientCa, ClientCertificate, Error as ClientCaError};
pub(crate) use self::config::ACME_TLS_ALPN;
pub use self::config::{
    AlpnChallenges, Error, MinVersion, Settings, TicketKeys, TlsConfigs, TlsSite,
};
pub(crate) use self::crypto_provider::{provider, server_provider};
pub use self::failure::HandshakeFailure;
pub(crate) use self::failure::alert_name;
pub use self::handshake::{Accepted, HandshakeError, TlsInfo, accept};
pub use self::pem::Error as PemError;
pub use self::record_stream::{SendHold, TlsStream};
pub(crate) use self::shared_tickets::TicketKeyEvent;
pub use self::shared_tickets::{Error as SharedTicketError, SharedTicketKeys};
pub use self::subject_alt_name::SubjectAltName;

#[cfg(test)]
mod tests;
