//! Whose certificates an https upstream may show, and the handshake that checks them.
//!
//! Made by `snapshot` from a file or from the system's store, used by `connect`. There is no way to verify less: without a
//! certificate for the very host, issued by a CA that is trusted here and valid now, there is no connection.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::bounded_file;
use crate::tls::{self, alert_name};

/// CAs, and the TLS sessions with the servers that they vouch for, so that a handshake is short when it can be.
#[derive(Clone)]
pub struct ServerRoots {
    roots: Arc<[CertificateDer<'static>]>,
    config: Arc<ClientConfig>,
}

/// Why nobody can be trusted.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file is not there, or not for us.
    #[error("cannot read {path}: {cause}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The file is no list of CA certificates.
    #[error("{path} holds no CA certificate that can be used: {what}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The system's store is empty.
    #[error("the system has no CA certificates{0}")]
    NoSystemRoots(String),
    /// The TLS library cannot be set up.
    #[error("cannot set up TLS to upstreams: {0}")]
    Setup(#[from] rustls::Error),
}

/// What went wrong in a handshake, said to the operator.
#[derive(Debug, thiserror::Error)]
#[error("{host}: {what}")]
pub struct HandshakeError {
    host: String,
    what: String,
    fault: HandshakeFault,
}

/// The kinds of failed handshakes that have a remedy of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeFault {
    /// The first bytes of the server were no TLS record.
    NotTls,
    /// The server closed the connection during the handshake.
    Closed,
    /// No trusted CA has issued the certificate.
    UnknownIssuer,
    /// The certificate is for other names.
    WrongName,
    /// The certificate is no longer valid.
    Expired,
    /// The certificate is not valid yet.
    NotValidYet,
    /// The server ended the handshake with an alert.
    Alert,
    /// Any other failure.
    Other,
}

impl HandshakeError {
    /// The kind of the failure.
    pub fn fault(&self) -> HandshakeFault {
        self.fault
    }
}

/// The largest accepted bundle of CA certificates, in bytes. A larger file is an error: of a bundle that is cut, some CAs
/// would silently not be trusted.
const MAX_FILE: u64 = 16 << 20;

impl ServerRoots {
    /// The CAs of a PEM file, and no others.
    pub fn of_file(path: &Path) -> Result<Self, TrustError> {
        let text = bounded_file::read(path, MAX_FILE).map_err(|cause| TrustError::Unreadable {
            path: path.into(),
            cause: cause.into(),
        })?;
        let unusable = |what: String| TrustError::Unusable {
            path: path.into(),
            what,
        };
        let mut roots = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(&text) {
            roots.push(certificate.map_err(|cause| unusable(cause.to_string()))?);
        }
        if roots.is_empty() {
            return Err(unusable("there is no CERTIFICATE section in it".to_owned()));
        }
        let mut store = RootCertStore::empty();
        for root in &roots {
            let added = store.add(root.clone());
            added.map_err(|cause| unusable(cause.to_string()))?;
        }
        Self::new(roots, store)
    }

    /// The CAs that the system trusts. Odd ones among them are left out, as everywhere.
    pub fn of_system() -> Result<Self, TrustError> {
        let loaded = rustls_native_certs::load_native_certs();
        let mut store = RootCertStore::empty();
        let (added, _) = store.add_parsable_certificates(loaded.certs.iter().cloned());
        if added == 0 {
            let cause = loaded.errors.first();
            let cause = cause.map(|error| format!(": {error}")).unwrap_or_default();
            return Err(TrustError::NoSystemRoots(cause));
        }
        Self::new(loaded.certs, store)
    }

    /// What a client of another kind is to verify with.
    pub fn client_config(&self) -> &ClientConfig {
        &self.config
    }

    fn new(roots: Vec<CertificateDer<'static>>, store: RootCertStore) -> Result<Self, TrustError> {
        let provider = Arc::new(tls::provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(store)
            .with_no_client_auth();
        // The codec speaks nothing else.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            roots: roots.into(),
            config: Arc::new(config),
        })
    }

    /// Makes TLS of a connection to `host`; without anyone to trust there is none.
    pub(super) async fn connect_tls(
        trust: Option<&Self>,
        host: &str,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, HandshakeError> {
        let failed = |what: String| HandshakeError {
            host: host.to_owned(),
            what,
            fault: HandshakeFault::Other,
        };
        let trust = trust.ok_or_else(|| failed("no CA is trusted here".to_owned()))?;
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|_| failed("no certificate can be for such a name".to_owned()))?;
        let connector = TlsConnector::from(Arc::clone(&trust.config));
        let secured = connector.connect(name, stream).await;
        secured.map_err(|error| HandshakeError {
            fault: fault(&error),
            ..failed(explain(&error))
        })
    }
}

/// Those who trust the same are the same: connections and sessions of one serve the other.
impl PartialEq for ServerRoots {
    fn eq(&self, other: &Self) -> bool {
        self.roots == other.roots
    }
}

impl Eq for ServerRoots {}

impl fmt::Debug for ServerRoots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trust({} CAs)", self.roots.len())
    }
}

/// The error of rustls within an error of a handshake; `None` when the socket failed.
fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|cause| cause.downcast_ref())
}

fn fault(error: &io::Error) -> HandshakeFault {
    use CertificateError as E;
    match tls_error(error) {
        Some(rustls::Error::InvalidMessage(_)) => HandshakeFault::NotTls,
        Some(rustls::Error::AlertReceived(_)) => HandshakeFault::Alert,
        Some(rustls::Error::InvalidCertificate(wrong)) => match wrong {
            E::UnknownIssuer | E::BadSignature => HandshakeFault::UnknownIssuer,
            E::NotValidForName | E::NotValidForNameContext { .. } => HandshakeFault::WrongName,
            E::Expired | E::ExpiredContext { .. } => HandshakeFault::Expired,
            E::NotValidYet | E::NotValidYetContext { .. } => HandshakeFault::NotValidYet,
            _ => HandshakeFault::Other,
        },
        None if is_closed(error) => HandshakeFault::Closed,
        _ => HandshakeFault::Other,
    }
}

fn is_closed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

fn explain(error: &io::Error) -> String {
    match tls_error(error) {
        Some(rustls::Error::InvalidCertificate(wrong)) => explain_certificate(wrong),
        Some(rustls::Error::InvalidMessage(_)) => format!("what answers there is no TLS ({error})"),
        Some(rustls::Error::AlertReceived(alert)) => {
            format!("it refused the TLS handshake ({})", alert_name(*alert))
        }
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "it closed the connection during the TLS handshake".to_owned()
        }
        _ => format!("the TLS handshake failed: {error}"),
    }
}

fn explain_certificate(wrong: &CertificateError) -> String {
    use CertificateError as E;
    match wrong {
        // The second is what a CA looks like that was made anew under its old name.
        E::UnknownIssuer | E::BadSignature => {
            "its certificate was not issued by a CA that is trusted here; name the CA's file in upstream.ca".to_owned()
        }
        E::Expired | E::ExpiredContext { .. } => format!("its certificate has expired ({wrong})"),
        E::NotValidYet | E::NotValidYetContext { .. } => {
            format!("its certificate is not valid yet; look at the clocks ({wrong})")
        }
        E::NotValidForName | E::NotValidForNameContext { .. } => {
            format!("its certificate is for another name ({wrong})")
        }
        _ => format!("its certificate cannot be accepted ({wrong})"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn error_of(path: &Path) -> String {
        ServerRoots::of_file(path).unwrap_err().to_string()
    }

    #[test]
    fn a_bundle_is_read_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let key = rcgen::generate_simple_self_signed(["ca.example".to_owned()]).unwrap();
        let pem = key.cert.pem();
        // Explanatory text outside of sections is legal (RFC 7468 section 5.2).
        let filled = |size: usize| {
            let mut text = vec![b'\n'; size];
            text.splice(size - pem.len().., pem.bytes());
            text
        };
        let most = usize::try_from(MAX_FILE).unwrap();
        fs::write(&path, filled(most)).unwrap();
        assert_eq!(
            format!("{:?}", ServerRoots::of_file(&path).unwrap()),
            "Trust(1 CAs)"
        );
        // A cut would lie behind the certificate, and go unnoticed.
        let mut text = pem.clone().into_bytes();
        text.resize(most + 1, b'\n');
        fs::write(&path, text).unwrap();
        let error = error_of(&path);
        assert!(error.contains("ca.pem: larger than 16 MiB"), "{error}");
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        for path in [pipe.as_path(), dir.path()] {
            let error = error_of(path);
            assert!(error.ends_with("not a regular file"), "{error}");
        }
    }
}
