//! TLS to an upstream: the trusted CAs, the handshake, and its errors.
//!
//! `snapshot` and `acme` create [`ServerRoots`] from a file or from the CA store of the system; `connect` performs the
//! handshake with them. Verification cannot be relaxed: there is no connection without a certificate that is valid now, is
//! issued for the host by a trusted CA, and is proven by its key.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::bounded_file;
use crate::tls::{self, ReloadingCert, alert_name};

/// The CAs that may issue the certificate of a server.
///
/// The value also holds the session cache of the connections that use it, so that later handshakes can resume a session.
#[derive(Clone)]
pub struct ServerRoots {
    roots: Arc<[CertificateDer<'static>]>,
    config: Arc<ClientConfig>,
    client_certificate: Option<Arc<ReloadingCert>>,
}

/// Why a set of trusted CAs could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file cannot be read.
    #[error("cannot read {path}: {cause}")]
    Unreadable {
        /// The path of the file.
        path: PathBuf,
        /// The error of the read.
        cause: io::Error,
    },
    /// The file has no CA certificate, or one that cannot be used.
    #[error("{path} holds no CA certificate that can be used: {what}")]
    Unusable {
        /// The path of the file.
        path: PathBuf,
        /// What is wrong with its content.
        what: String,
    },
    /// The CA store of the system is empty.
    #[error("the system has no CA certificates{0}")]
    NoSystemRoots(String),
    /// The TLS library cannot be set up.
    #[error("cannot set up TLS to upstreams: {0}")]
    Setup(#[from] rustls::Error),
}

/// A failed TLS handshake with an upstream, in words for the operator.
#[derive(Debug, thiserror::Error)]
#[error("{host}: {what}")]
pub struct HandshakeError {
    host: String,
    what: String,
    fault: HandshakeFault,
}

/// The kinds of failed handshakes that have different remedies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeFault {
    /// The first bytes from the server were not a TLS record.
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

impl ServerRoots {
    /// Loads the CAs of a PEM file. No other CA is trusted.
    pub fn of_file(path: &Path) -> Result<Self, TrustError> {
        let text =
            bounded_file::read(path, MAX_FILE_SIZE).map_err(|cause| TrustError::Unreadable {
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

    /// Loads the CAs that the system trusts. Certificates of the store that cannot be parsed are skipped, as other programs
    /// do.
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

    /// The same CAs, and a certificate that the proxy presents to servers that ask for one. A renewed certificate takes effect
    /// for new connections.
    pub fn with_client_certificate(&self, files: Arc<ReloadingCert>) -> Self {
        let mut config = ClientConfig::clone(&self.config);
        config.client_auth_cert_resolver = Arc::clone(files.slot()) as _;
        // A resumed session has the identity of its first handshake: a renewed certificate would not be presented, and a session
        // of a connection without a certificate would have none.
        config.resumption = Resumption::disabled();
        Self {
            roots: Arc::clone(&self.roots),
            config: Arc::new(config),
            client_certificate: Some(files),
        }
    }

    /// The files of the certificate that the proxy presents; `None` if it has none.
    pub fn client_certificate(&self) -> Option<&Arc<ReloadingCert>> {
        self.client_certificate.as_ref()
    }

    /// The rustls configuration that trusts these CAs, for another HTTP client (the one of ACME).
    pub fn client_config(&self) -> &ClientConfig {
        &self.config
    }

    fn new(roots: Vec<CertificateDer<'static>>, store: RootCertStore) -> Result<Self, TrustError> {
        let provider = Arc::new(tls::provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(store)
            .with_no_client_auth();
        // The codec to upstreams implements only HTTP/1.1.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            roots: roots.into(),
            config: Arc::new(config),
            client_certificate: None,
        })
    }
}

/// Two sets of the same CAs with the same client certificate are equal, so that connections and TLS sessions of one can serve
/// the other.
impl PartialEq for ServerRoots {
    fn eq(&self, other: &Self) -> bool {
        let files = |roots: &Self| roots.client_certificate.as_ref().map(Arc::as_ptr);
        self.roots == other.roots && files(self) == files(other)
    }
}

impl Eq for ServerRoots {}

impl fmt::Debug for ServerRoots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerRoots({} CAs)", self.roots.len())
    }
}

/// Performs a TLS handshake with `host` over `stream`. Fails if there are no `roots`.
pub(crate) async fn connect_tls(
    roots: Option<&ServerRoots>,
    host: &str,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, HandshakeError> {
    let failed = |what: String| HandshakeError {
        host: host.to_owned(),
        what,
        fault: HandshakeFault::Other,
    };
    let roots = roots.ok_or_else(|| failed("no CA is trusted here".to_owned()))?;
    let name = ServerName::try_from(host.to_owned());
    let name = name.map_err(|_| failed("no certificate can be for such a name".to_owned()))?;
    let connector = TlsConnector::from(Arc::clone(&roots.config));
    let connected = connector.connect(name, stream).await;
    connected.map_err(|error| HandshakeError {
        fault: classify(&error),
        ..failed(explain(&error))
    })
}

fn classify(error: &io::Error) -> HandshakeFault {
    use CertificateError as E;
    match tls_error(error) {
        Some(rustls::Error::InvalidMessage(_)) => HandshakeFault::NotTls,
        Some(rustls::Error::AlertReceived(_)) => HandshakeFault::Alert,
        Some(rustls::Error::InvalidCertificate(error)) => match error {
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

fn explain(error: &io::Error) -> String {
    match tls_error(error) {
        Some(rustls::Error::InvalidCertificate(error)) => explain_certificate(error),
        Some(rustls::Error::InvalidMessage(_)) => {
            format!("the server does not speak TLS on this port ({error})")
        }
        Some(rustls::Error::AlertReceived(alert)) => {
            format!(
                "the server ended the TLS handshake with an alert ({})",
                alert_name(*alert)
            )
        }
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the server closed the connection during the TLS handshake".to_owned()
        }
        _ => format!("the TLS handshake failed: {error}"),
    }
}

fn explain_certificate(error: &CertificateError) -> String {
    use CertificateError as E;
    match error {
        // rustls reports `BadSignature` for a CA that was created again under its old name.
        E::UnknownIssuer | E::BadSignature => {
            "its certificate was not issued by a CA that is trusted here; name the CA's file in upstream.ca".to_owned()
        }
        E::Expired | E::ExpiredContext { .. } => format!("its certificate has expired ({error})"),
        E::NotValidYet | E::NotValidYetContext { .. } => {
            format!("its certificate is not valid yet; check the clocks of both machines ({error})")
        }
        E::NotValidForName | E::NotValidForNameContext { .. } => {
            format!("its certificate is for another name ({error})")
        }
        _ => format!("its certificate cannot be accepted ({error})"),
    }
}

/// The error of rustls inside an error of the handshake. `None` if the socket failed.
fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|cause| cause.downcast_ref())
}

fn is_closed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

/// The largest accepted file of CA certificates, in bytes. A larger file is an error: if it were cut, some of its CAs would
/// silently not be trusted.
const MAX_FILE_SIZE: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn load_error(path: &Path) -> String {
        ServerRoots::of_file(path).unwrap_err().to_string()
    }

    #[test]
    fn a_file_is_read_completely_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let key = rcgen::generate_simple_self_signed(["ca.example".to_owned()]).unwrap();
        let pem = key.cert.pem();
        // Explanatory text outside of sections is legal (RFC 7468 section 5.2).
        let padded = |size: usize| {
            let mut text = vec![b'\n'; size];
            text.splice(size - pem.len().., pem.bytes());
            text
        };
        let max = usize::try_from(MAX_FILE_SIZE).unwrap();
        fs::write(&path, padded(max)).unwrap();
        assert_eq!(
            format!("{:?}", ServerRoots::of_file(&path).unwrap()),
            "ServerRoots(1 CAs)"
        );
        // A cut after the certificate would go unnoticed.
        let mut text = pem.clone().into_bytes();
        text.resize(max + 1, b'\n');
        fs::write(&path, text).unwrap();
        let error = load_error(&path);
        assert!(error.contains("ca.pem: larger than 16 MiB"), "{error}");
    }

    #[test]
    fn a_file_without_a_ca_certificate_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        assert!(load_error(&path).contains("cannot read"));
        let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for text in ["", "no PEM", damaged] {
            fs::write(&path, text).unwrap();
            let error = load_error(&path);
            assert!(
                error.contains("holds no CA certificate"),
                "{text:?}: {error}"
            );
        }
    }

    /// A read of a FIFO would block forever.
    #[test]
    fn only_a_regular_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        for path in [pipe.as_path(), dir.path()] {
            let error = load_error(path);
            assert!(error.ends_with("not a regular file"), "{error}");
        }
    }
}
