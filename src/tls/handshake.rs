//! The TLS handshake of one connection, from the first byte to the encrypted stream.
//!
//! `connection` calls [`accept`] for each connection to a TLS listener, and puts a deadline over the whole call; there is none
//! in this file.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;

use rustls::server::{Acceptor, ClientHello, ServerConfig};
use rustls::{AlertDescription, CommonState, ProtocolVersion, server};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::client_auth::{ClientCa, ClientCertificate};
use super::client_hello::rejected_server_name;
use super::config::{ACME_TLS_ALPN, TlsConfigs};
use super::failure::{HandshakeFailure, alert_for};
use super::record_stream::{CiphertextIn, TlsStream};
use crate::net::host::normalize_host;
use crate::net::listener::ListenAddr;

/// A connection whose handshake is complete.
#[derive(Debug)]
pub struct Accepted<IO> {
    /// The decrypted stream.
    pub stream: TlsStream<IO>,
    /// The negotiated parameters.
    pub info: TlsInfo,
}

/// The parameters that client and proxy have negotiated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsInfo {
    /// The server name (SNI) in lower case; `None` if the client connected to an IP address or sent no name.
    pub sni: Option<String>,
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The client negotiated HTTP/2. Without ALPN (docker), the protocol is HTTP/1.1.
    pub is_http2: bool,
    /// The certificate of the client, if the site requests one.
    pub certificate: Option<Arc<ClientCertificate>>,
}

/// The reason why there is no encrypted stream.
#[derive(thiserror::Error)]
pub enum HandshakeError<IO> {
    /// The client sent plain HTTP. Nothing was written, so the caller can still send a plain HTTP response.
    #[error("plain HTTP on a TLS port")]
    PlainHttp(IO),
    /// The client closed the connection, as port scanners and health checks do.
    #[error("the client closed the connection during the handshake")]
    Closed,
    /// Reading from or writing to the socket failed.
    #[error("the connection failed during the handshake")]
    Io(#[source] io::Error),
    /// The handshake was the response to a challenge of a certificate authority (RFC 8737), so there is nothing more to serve.
    #[error("the handshake was the response to a tls-alpn-01 challenge")]
    Challenge,
    /// The site's certificate has not been issued yet. The client has received the alert unrecognized_name.
    #[error("there is no certificate for this name yet")]
    NoCertificate {
        /// The server name (SNI) of the client.
        server_name: Option<String>,
    },
    /// Client and proxy have no parameters in common, or the client violated the protocol. An alert was sent or received.
    #[error("the TLS handshake failed")]
    Tls(#[source] Box<HandshakeFailure>),
}

/// Reads the ClientHello, selects the configuration by its server name among the sites that are served on `listener`, and
/// completes the handshake.
///
/// # Errors
/// If the client does not use TLS, or no parameters that the settings allow, or the connection ends.
pub async fn accept<IO>(
    mut io: IO,
    configs: &TlsConfigs,
    listener: &ListenAddr,
) -> Result<Accepted<IO>, HandshakeError<IO>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut incoming = CiphertextIn::default();
    let Some(accepted) = read_client_hello(&mut io, &mut incoming).await? else {
        return Err(HandshakeError::PlainHttp(io));
    };
    let sni = accepted.client_hello().server_name().map(str::to_owned);
    let host = sni.as_deref().map(normalize_host);
    let is_challenge = offers_only_acme(&accepted.client_hello());
    // `TlsStream` parses the ClientHello again; this copy is not kept while the proxy waits for the client.
    drop(accepted);
    if let Some(challenges) = &configs.alpn_challenges
        && let Some(host) = host.as_deref().filter(|_| is_challenge)
        && let Some(config) = challenges.config_for(host).await
    {
        return Err(complete_challenge(io, incoming, config).await);
    }
    let selected = configs.select(listener, host.as_deref());
    let Some(selected) = selected.filter(|selected| !selected.slot.is_empty()) else {
        // The client may have closed the connection already.
        let _ = io.write_all(&UNRECOGNIZED_NAME).await;
        return Err(HandshakeError::NoCertificate { server_name: sni });
    };
    let handshaken = handshake(io, incoming, Arc::clone(&selected.config)).await;
    let stream = handshaken.map_err(|error| error.with_server_name(sni.as_deref()))?;
    let info = TlsInfo::new(stream.negotiated(), sni, selected.client_ca.as_ref());
    Ok(Accepted { stream, info })
}

/// Whether the client is a certificate authority that validates a host: it offers acme-tls/1 and no other protocol.
fn offers_only_acme(client_hello: &ClientHello<'_>) -> bool {
    let offered = client_hello.alpn();
    offered.is_some_and(|offered| offered.eq([ACME_TLS_ALPN]))
}

/// Performs the whole handshake from its first byte, which the acceptor has read only for the server name.
async fn handshake<IO>(
    io: IO,
    incoming: CiphertextIn,
    config: Arc<ServerConfig>,
) -> Result<TlsStream<IO>, HandshakeError<IO>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = TlsStream::new(io, incoming, config).map_err(HandshakeError::from_rustls)?;
    let done = poll_fn(|cx| stream.poll_handshake(cx)).await;
    done.map(|()| stream).map_err(classify_error)
}

/// Performs the handshake with a certificate authority. The certificate in it is the whole response; no application data
/// follows (RFC 8737 section 3).
async fn complete_challenge<IO>(
    io: IO,
    incoming: CiphertextIn,
    config: Arc<ServerConfig>,
) -> HandshakeError<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    match handshake(io, incoming, config).await {
        Ok(mut stream) => {
            // The certificate authority has the certificate and may have closed the connection already.
            let _ = stream.shutdown().await;
            HandshakeError::Challenge
        }
        Err(error) => error,
    }
}

impl<IO> HandshakeError<IO> {
    fn from_rustls(error: rustls::Error) -> Self {
        Self::Tls(Box::new(HandshakeFailure::new(error, None)))
    }

    fn with_server_name(mut self, name: Option<&str>) -> Self {
        if let Self::Tls(failure) = &mut self {
            failure.server_name = name.map(str::to_owned);
        }
        self
    }
}

/// A manual implementation, so that `IO` need not implement `Debug`.
impl<IO> fmt::Debug for HandshakeError<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PlainHttp(_) => f.write_str("PlainHttp(..)"),
            Self::Closed => f.write_str("Closed"),
            Self::Challenge => f.write_str("Challenge"),
            Self::NoCertificate { .. } => f.write_str("NoCertificate"),
            Self::Io(cause) => f.debug_tuple("Io").field(cause).finish(),
            Self::Tls(cause) => f.debug_tuple("Tls").field(cause).finish(),
        }
    }
}

impl TlsInfo {
    fn new(connection: &CommonState, sni: Option<String>, client_ca: Option<&ClientCa>) -> Self {
        let presented = client_ca.zip(connection.peer_certificates());
        let certificate = presented.and_then(|(ca, chain)| ClientCertificate::parse(ca, chain));
        Self {
            sni,
            version: match connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                _ => "TLSv1.2",
            },
            is_http2: connection.alpn_protocol() == Some(b"h2"),
            certificate: certificate.map(Arc::new),
        }
    }
}

/// Reads the whole ClientHello, in however many records and packets it arrives; rustls bounds its size. Returns `None` if the
/// client sent plain HTTP.
///
/// The acceptor of tokio-rustls is not used, because it does not return the bytes that it has read and sends an alert after
/// every error. A plain HTTP client would receive the alert in front of the HTTP response.
async fn read_client_hello<IO>(
    io: &mut IO,
    incoming: &mut CiphertextIn,
) -> Result<Option<server::Accepted>, HandshakeError<IO>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut acceptor = Acceptor::default();
    let mut parsed = 0;
    loop {
        let read = poll_fn(|cx| incoming.poll_fill(io, cx));
        if read.await.map_err(classify_error)? == 0 {
            return Err(HandshakeError::Closed);
        }
        let bytes = incoming.bytes();
        // A TLS record begins with a byte from 20 to 23, an HTTP method with an upper-case letter.
        if bytes.first().is_some_and(u8::is_ascii_uppercase) {
            return Ok(None);
        }
        let mut fresh = bytes.get(parsed..).unwrap_or_default();
        parsed = bytes.len();
        while !fresh.is_empty() {
            acceptor.read_tls(&mut fresh).map_err(classify_error)?;
            match acceptor.accept() {
                Ok(Some(accepted)) => return Ok(Some(accepted)),
                Ok(None) => {}
                Err((error, alert)) => {
                    let received = incoming.bytes();
                    // After a fatal alert of the client, nothing more is sent (RFC 8446 section 6.2).
                    let error = match received_alert(received) {
                        Some(description) => rustls::Error::AlertReceived(description),
                        None => {
                            send_alert(io, &error, alert).await;
                            error
                        }
                    };
                    let server_name = rejected_server_name(received);
                    let failure = HandshakeFailure::new(error, server_name);
                    return Err(HandshakeError::Tls(Box::new(failure)));
                }
            }
        }
    }
}

/// Returns the alert that the client sent in place of a ClientHello. A client that found no certificate of its own may do so.
fn received_alert(bytes: &[u8]) -> Option<AlertDescription> {
    match bytes {
        &[ALERT, _, _, 0, 2, _level, description, ..] => Some(description.into()),
        _ => None,
    }
}

/// Sends a fatal alert. rustls' acceptor encodes none if the first message is not a ClientHello (application data, a
/// ChangeCipherSpec, another handshake message); the alert is then built here. A failure to send it does not matter, because
/// the connection ends in any case.
async fn send_alert<IO: AsyncWrite + Unpin>(
    io: &mut IO,
    error: &rustls::Error,
    mut alert: server::AcceptedAlert,
) {
    let mut bytes = Vec::new();
    // Writing to a vector does not fail.
    let _ = alert.write_all(&mut bytes);
    if bytes.is_empty() {
        bytes.extend([ALERT, 3, 3, 0, 2, FATAL, u8::from(alert_for(error))]);
    }
    if io.write_all(&bytes).await.is_ok() {
        let _ = io.flush().await;
    }
}

/// Separates errors of rustls, which [`TlsStream`] wraps in an `io::Error`, from errors of the socket. A client that closed or
/// reset the connection is not worth a log line above level debug.
fn classify_error<IO>(error: io::Error) -> HandshakeError<IO> {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let closed = [
        BrokenPipe,
        ConnectionAborted,
        ConnectionReset,
        UnexpectedEof,
    ];
    if closed.contains(&error.kind()) {
        return HandshakeError::Closed;
    }
    match error.downcast::<rustls::Error>() {
        Ok(error) => HandshakeError::from_rustls(error),
        Err(other) => HandshakeError::Io(other),
    }
}

/// A record with the fatal alert unrecognized_name (RFC 6066 section 3). Without a certificate, rustls would send
/// access_denied, which a docker user would take for a missing permission.
const UNRECOGNIZED_NAME: [u8; 7] = [ALERT, 3, 3, 0, 2, FATAL, 112];
/// The content type of a record with an alert (RFC 8446 section 5.1).
const ALERT: u8 = 21;
/// The level of a fatal alert (RFC 8446 section 6).
const FATAL: u8 = 2;
