//! The HTTPS client that `check --live` uses to connect to the running proxy: TLS to an address of the configuration, then
//! one request per connection.
//!
//! The server must present the certificate of the configuration, or a certificate of the proxy's own CA. Another program on
//! the port therefore never gets a password.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject as _;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::bounded_file;
use crate::check::live::remedy::errno_remedy;
use crate::config::problem::Problem;
use crate::net::host::{https_authority, strip_brackets};

/// A client of one site at one address of `listen.https`.
#[derive(Debug)]
pub(crate) struct ListenerClient {
    pub(crate) address: SocketAddr,
    /// The name or address for SNI and for `Host`, as in `site.hosts`: an IPv6 address has no brackets.
    pub(crate) host: String,
    pub(crate) tls: Arc<ClientConfig>,
    /// The listener expects a PROXY header from this machine.
    pub(crate) sends_proxy_header: bool,
}

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    #[error("{0} is neither a DNS name nor an IP address")]
    Name(String),
    #[error("the TLS handshake failed: {0}")]
    Handshake(#[source] io::Error),
    #[error("the connection failed: {0}")]
    Http(#[source] hyper::Error),
    #[error("the response cannot be read: {0}")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("no response within {0:?}")]
    Timeout(Duration),
}

impl ListenerClient {
    /// The value of `Host`.
    pub(crate) fn authority(&self) -> String {
        https_authority(&self.host, self.address.port())
    }

    /// Performs a TLS handshake and closes the connection.
    pub(crate) async fn handshake(&self) -> Result<(), ClientError> {
        with_timeout(HANDSHAKE_TIMEOUT, async { self.connect().await.map(drop) }).await
    }

    /// Sends a request over a new connection and reads the whole response.
    pub(crate) async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, ClientError> {
        with_timeout(EXCHANGE_TIMEOUT, async {
            exchange(self.connect().await?, request).await
        })
        .await
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>, ClientError> {
        let name = ServerName::try_from(self.host.clone())
            .map_err(|_| ClientError::Name(self.host.clone()))?;
        let connected = TcpStream::connect(self.address).await;
        let mut stream = connected.map_err(ClientError::Connect)?;
        if self.sends_proxy_header {
            let sent = stream.write_all(b"PROXY UNKNOWN\r\n").await;
            sent.map_err(ClientError::Connect)?;
        }
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let secured = connector.connect(name, stream).await;
        secured.map_err(ClientError::Handshake)
    }

    /// The problem to report for an error: its meaning for the listener, and the remedy.
    pub(crate) fn problem(&self, error: &ClientError, file: &Path) -> Problem {
        let (address, file) = (self.address, file.display());
        let port = address.port();
        let find_program = format!("ss -ltnp 'sport = :{port}' shows the program");
        match error {
            ClientError::Connect(cause) if cause.kind() == io::ErrorKind::ConnectionRefused => {
                Problem::error(None, format!("nothing listens on {address}; is the proxy running?"))
                    .fix(format!("start it (systemctl start tidegate, or tidegate serve -c {file}), then check again"))
            }
            ClientError::Connect(cause) => {
                let (what, fix) = errno_remedy(cause, "the proxy");
                Problem::error(None, format!("cannot connect to {address}: {what}")).fix(fix)
            }
            ClientError::Name(_) => Problem::error(None, error.to_string())
                .fix("write a DNS name or an IP address in site.hosts"),
            ClientError::Handshake(cause) => self.handshake_problem(cause, &find_program, &file.to_string()),
            ClientError::Timeout(_) => {
                Problem::error(None, format!("{address} accepts connections and does not respond ({error})"))
                    .because("the proxy waits for the registry, or another program has the port")
                    .fix(format!("look at the log of the proxy; {find_program}"))
            }
            ClientError::Http(_) | ClientError::Body(_) => {
                Problem::error(None, format!("{address}: {error}"))
                    .fix("look at the log of the proxy at this moment")
            }
        }
    }

    fn handshake_problem(&self, cause: &io::Error, find_program: &str, file: &str) -> Problem {
        let (address, host) = (self.address, &self.host);
        let tls = cause
            .get_ref()
            .and_then(|cause| cause.downcast_ref::<Error>());
        match tls {
            Some(Error::InvalidCertificate(fault)) => {
                let what = match fault {
                    CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                        format!("{address} serves a certificate that has expired")
                    }
                    _ => format!("{address} serves another certificate for {host} than the one in the configuration"),
                };
                Problem::error(None, what)
                    .because("the running proxy still has an older configuration, or another program has the port; \
                              nothing was sent")
                    .fix(format!("tidegate reload -c {file}; {find_program}"))
            }
            Some(Error::InvalidMessage(_)) => {
                Problem::error(None, format!("the program that listens on {address} does not speak TLS"))
                    .because("listen.https names the address, so another program has the port; nothing was sent")
                    .fix(format!("stop the other program or write another port in listen.https; {find_program}"))
            }
            Some(Error::AlertReceived(alert)) => {
                Problem::error(None, format!("{address} rejected the TLS handshake for {host} (alert {alert:?})"))
                    .because("the running proxy has no certificate for this host: it has an older configuration, or waits \
                              for its first certificate")
                    .fix(format!("tidegate reload -c {file}; the log of the proxy has the cause"))
            }
            _ => Problem::error(None, format!("{address} ended the TLS handshake for {host}: {cause}"))
                .because("another program has the port, or listen.proxy_protocol of the running proxy differs from the file")
                .fix(format!("tidegate reload -c {file}; {find_program}")),
        }
    }
}

async fn with_timeout<T>(
    duration: Duration,
    work: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    let finished = timeout(duration, work).await;
    finished.unwrap_or(Err(ClientError::Timeout(duration)))
}

/// One request and its whole response over an open connection.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Response<Bytes>, ClientError> {
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(ClientError::Http)?;
    // Dropping the set aborts the task.
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let response = sender.send_request(request).await;
    let (head, body) = response.map_err(ClientError::Http)?.into_parts();
    let collected = Limited::new(body, MAX_BODY).collect().await;
    let body = collected.map_err(ClientError::Body)?.to_bytes();
    Ok(Response::from_parts(head, body))
}

/// A TLS configuration that accepts this certificate and no other.
pub(crate) fn trust_certificate(
    pinned: CertificateDer<'static>,
) -> Result<Arc<ClientConfig>, Error> {
    let provider = provider();
    let verifier = PinnedCertificate {
        pinned,
        provider: Arc::clone(&provider),
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// A TLS configuration that accepts the certificates of the CA in this file.
pub(crate) fn trust_ca(path: &Path) -> Result<Arc<ClientConfig>, String> {
    let pem = bounded_file::read(path, MAX_CA_FILE)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let mut roots = RootCertStore::empty();
    let (added, _) =
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
    if added == 0 {
        return Err(format!("{} contains no CA certificate", path.display()));
    }
    with_roots(roots).map_err(|error| error.to_string())
}

/// Whether a server at this address speaks TLS. The handshake trusts no CA, so it ends with the server's certificate, before
/// any data is sent.
pub(crate) async fn speaks_tls(host: &str, port: u16) -> bool {
    let host = strip_brackets(host);
    let (Ok(name), Ok(tls)) = (
        ServerName::try_from(host.to_owned()),
        with_roots(RootCertStore::empty()),
    ) else {
        return false;
    };
    let handshake = async {
        let stream = TcpStream::connect((host, port)).await?;
        TlsConnector::from(tls).connect(name, stream).await
    };
    match timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => {
            let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
            matches!(
                cause,
                Some(Error::InvalidCertificate(_) | Error::AlertReceived(_))
            )
        }
        Err(_elapsed) => false,
    }
}

fn with_roots(roots: RootCertStore) -> Result<Arc<ClientConfig>, Error> {
    let builder = ClientConfig::builder_with_provider(provider());
    let config = builder
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Accepts one certificate, whatever its issuer, names and dates are.
#[derive(Debug)]
struct PinnedCertificate {
    pinned: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedCertificate {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *end_entity == self.pinned {
            return Ok(ServerCertVerified::assertion());
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

/// For a connection and its response: longer than the proxy waits for a free upstream connection.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// For a TCP connection and its TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// More than the body of any response to these requests.
const MAX_BODY: usize = 1 << 20;
/// In bytes.
const MAX_CA_FILE: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    async fn response_to(bytes: &'static [u8]) -> Result<Response<Bytes>, ClientError> {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        tokio::spawn(async move {
            let _ = far.read(&mut [0; 4096]).await;
            let _ = far.write_all(bytes).await;
        });
        let request = Request::new(Full::default());
        exchange(near, request).await
    }

    #[test]
    fn an_ipv6_address_has_brackets_in_host_and_none_in_the_server_name() {
        let client = ListenerClient {
            address: ([127, 0, 0, 1], 8443).into(),
            host: "2001:db8::1".to_owned(),
            tls: with_roots(RootCertStore::empty()).unwrap(),
            sends_proxy_header: false,
        };
        assert_eq!(client.authority(), "[2001:db8::1]:8443");
        assert!(ServerName::try_from(client.host).is_ok());
    }

    #[tokio::test]
    async fn a_truncated_response_is_an_error() {
        let sized = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
        let response = response_to(sized).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.into_body(), "hi");
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n1\r\n!\r\n0\r\n\r\n";
        let response = response_to(chunked).await.unwrap();
        assert_eq!(response.into_body(), "hi!");
        for cut in 0..sized.len() {
            assert!(response_to(&sized[..cut]).await.is_err(), "{cut}");
        }
        for cut in 0..chunked.len() - 4 {
            assert!(response_to(&chunked[..cut]).await.is_err(), "{cut}");
        }
        assert!(response_to(b"not a status line\r\n\r\n").await.is_err());
    }
}
