//! One handshake, from the first byte to an encrypted stream.
//!
//! Called by `connection` for each stream on a TLS port. There is no deadline in here: the caller puts one over
//! the whole of [`accept`].

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;

use rustls::server::{Acceptor, ServerConfig};
use rustls::{AlertDescription, CommonState, ProtocolVersion, server};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::Tls;
use super::failure::{HandshakeFailure, alert_for};
use super::names::normal;
use super::sealed::CiphertextIn;
use super::server_name::requested_name;
use super::stream::Stream;
use super::trust::{ClientCa, ClientCertificate};

/// A connection whose handshake is done.
#[derive(Debug)]
pub struct Accepted<IO> {
    /// What the client sends and reads, decrypted.
    pub stream: Stream<IO>,
    /// What was agreed.
    pub info: TlsInfo,
}

/// What client and gate agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsInfo {
    /// The name the client asked for, lower case; `None` when it named an address or nothing.
    pub sni: Option<String>,
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The client will speak HTTP/2; without ALPN (docker) it is HTTP/1.1.
    pub http2: bool,
    /// What the client has shown, where its site asks for it.
    pub certificate: Option<Arc<ClientCertificate>>,
}

/// Why there is no encrypted stream.
#[derive(thiserror::Error)]
pub enum HandshakeError<IO> {
    /// The client speaks plain HTTP. Nothing has been written: the stream can still carry an answer that says so.
    #[error("plain HTTP on a TLS port")]
    PlainHttp(IO),
    /// The client left, as port scanners and health checks do.
    #[error("the client left during the handshake")]
    Closed,
    /// The network failed.
    #[error("the connection failed during the handshake")]
    Io(#[source] io::Error),
    /// A certificate authority has been answered (RFC 8737), which is all that was asked.
    #[error("a challenge of tls-alpn-01 was answered")]
    Challenge,
    /// The site's certificate has not been issued yet; the client has been told that its name is not known.
    #[error("there is no certificate for this name yet")]
    NoCertificate {
        /// The name that the client asked for.
        server_name: Option<String>,
    },
    /// The two found no agreement, or the client broke the protocol; it has been told by an alert.
    #[error("the TLS handshake failed")]
    Tls(#[source] Box<HandshakeFailure>),
}

/// Reads the client's hello, picks the certificate by its name and finishes the handshake.
///
/// # Errors
/// When the client speaks no TLS, or none that the settings allow, or the connection ends.
pub async fn accept<IO>(mut io: IO, tls: &Tls) -> Result<Accepted<IO>, HandshakeError<IO>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut incoming = CiphertextIn::default();
    let Some(hello) = read_hello(&mut io, &mut incoming).await? else {
        return Err(HandshakeError::PlainHttp(io));
    };
    let name = hello.client_hello().server_name().map(normal);
    let chosen = tls.chosen(name.as_deref());
    if let Some(answering) = &tls.answering
        && let Some(config) = answering.to(&hello, name.as_deref()).await
    {
        return Err(answer(io, incoming, config).await);
    }
    if chosen.shown.is_empty() {
        // The client may be gone already.
        let _ = io.write_all(&UNRECOGNIZED_NAME).await;
        let server_name = hello.client_hello().server_name().map(str::to_owned);
        return Err(HandshakeError::NoCertificate { server_name });
    }
    let config = Arc::clone(&chosen.config);
    let sni = hello.client_hello().server_name().map(str::to_owned);
    // The stream reads it again; it is not kept while the client is waited for.
    drop(hello);
    let shaken = handshake(io, incoming, config).await;
    let stream = shaken.map_err(|error| error.for_name(sni.as_deref()))?;
    let info = TlsInfo::new(stream.negotiated(), sni, chosen.trust.as_ref());
    Ok(Accepted { stream, info })
}

/// The whole handshake again from its first byte, which the acceptor read only to know the name.
async fn handshake<IO>(
    io: IO,
    incoming: CiphertextIn,
    config: Arc<ServerConfig>,
) -> Result<Stream<IO>, HandshakeError<IO>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = Stream::new(io, incoming, config).map_err(HandshakeError::failed)?;
    let done = poll_fn(|cx| stream.poll_handshake(cx)).await;
    done.map(|()| stream).map_err(classify_error)
}

/// The handshake is the answer: nothing is said over the stream (RFC 8737, section 3).
async fn answer<IO>(io: IO, incoming: CiphertextIn, config: Arc<ServerConfig>) -> HandshakeError<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    match handshake(io, incoming, config).await {
        Ok(mut stream) => {
            // Who has what it wanted may be gone.
            let _ = stream.shutdown().await;
            HandshakeError::Challenge
        }
        Err(error) => error,
    }
}

impl<IO> HandshakeError<IO> {
    fn failed(error: rustls::Error) -> Self {
        Self::Tls(Box::new(HandshakeFailure::new(error, None)))
    }

    /// The same for a client that asked for this name.
    fn for_name(mut self, name: Option<&str>) -> Self {
        if let Self::Tls(failure) = &mut self {
            failure.server_name = name.map(str::to_owned);
        }
        self
    }
}

/// By hand, so that it asks nothing of the stream.
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
    fn new(connection: &CommonState, sni: Option<String>, trust: Option<&ClientCa>) -> Self {
        let shown = trust.zip(connection.peer_certificates());
        let certificate = shown.and_then(|(trust, chain)| ClientCertificate::read(trust, chain));
        Self {
            sni,
            version: match connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                _ => "TLSv1.2",
            },
            http2: connection.alpn_protocol() == Some(b"h2"),
            certificate: certificate.map(Arc::new),
        }
    }
}

/// The whole hello, in however many pieces it comes; rustls bounds its size. `None` when it is plain HTTP.
///
/// tokio-rustls' own acceptor does not say what it has read and answers everything with an alert, which a plain
/// HTTP client would get to see in front of the answer meant for it.
async fn read_hello<IO>(
    io: &mut IO,
    incoming: &mut CiphertextIn,
) -> Result<Option<server::Accepted>, HandshakeError<IO>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut acceptor = Acceptor::default();
    let mut seen = 0;
    loop {
        let read = poll_fn(|cx| incoming.poll_fill(io, cx));
        if read.await.map_err(classify_error)? == 0 {
            return Err(HandshakeError::Closed);
        }
        let bytes = incoming.bytes();
        // TLS records begin with 20 to 23, methods with a letter.
        if bytes.first().is_some_and(u8::is_ascii_uppercase) {
            return Ok(None);
        }
        let mut fresh = bytes.get(seen..).unwrap_or_default();
        seen = bytes.len();
        while !fresh.is_empty() {
            acceptor.read_tls(&mut fresh).map_err(classify_error)?;
            match acceptor.accept() {
                Ok(Some(accepted)) => return Ok(Some(accepted)),
                Ok(None) => {}
                Err((error, alert)) => {
                    let received = incoming.bytes();
                    // After a fatal alert nothing more is sent (RFC 8446 section 6.2).
                    let error = match received_alert(received) {
                        Some(description) => rustls::Error::AlertReceived(description),
                        None => {
                            reject(io, &error, alert).await;
                            error
                        }
                    };
                    let name = requested_name(received);
                    let failure = HandshakeFailure::new(error, name);
                    return Err(HandshakeError::Tls(Box::new(failure)));
                }
            }
        }
    }
}

/// The alert that the client sent in place of a hello, as one that found no certificate of its own may do.
fn received_alert(bytes: &[u8]) -> Option<AlertDescription> {
    match bytes {
        &[ALERT, _, _, 0, 2, _level, description, ..] => Some(description.into()),
        _ => None,
    }
}

/// Sends a fatal alert. rustls' acceptor has none for a first message that is no ClientHello (application data, a change of
/// cipher, another message of a handshake); then it is made here. Best effort: the connection ends in any case.
async fn reject<IO: AsyncWrite + Unpin>(
    io: &mut IO,
    error: &rustls::Error,
    mut alert: server::AcceptedAlert,
) {
    let mut bytes = Vec::new();
    // Writing to memory does not fail.
    let _ = alert.write_all(&mut bytes);
    if bytes.is_empty() {
        bytes.extend([ALERT, 3, 3, 0, 2, FATAL, u8::from(alert_for(error))]);
    }
    if io.write_all(&bytes).await.is_ok() {
        let _ = io.flush().await;
    }
}

/// tokio-rustls wraps what rustls says; a peer that went away is no fault worth a log line.
fn classify_error<IO>(error: io::Error) -> HandshakeError<IO> {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let left = [
        BrokenPipe,
        ConnectionAborted,
        ConnectionReset,
        UnexpectedEof,
    ];
    if left.contains(&error.kind()) {
        return HandshakeError::Closed;
    }
    match error.downcast::<rustls::Error>() {
        Ok(error) => HandshakeError::failed(error),
        Err(other) => HandshakeError::Io(other),
    }
}

/// A fatal alert, unrecognized_name (RFC 6066, section 3), as a record of its own. What rustls sends when it has no
/// certificate is access_denied, which docker's user would take for a missing right.
const UNRECOGNIZED_NAME: [u8; 7] = [ALERT, 3, 3, 0, 2, FATAL, 112];
/// The type of a record that holds an alert, and the level of an alert (RFC 8446 sections 5.1 and 6).
const ALERT: u8 = 21;
const FATAL: u8 = 2;
