//! The stream of a connection over TLS.
//!
//! Made by `handshake`, used by `connection` in place of the socket. Keys, records and alerts are rustls' own; only the
//! buffers are the gate's, by rustls' unbuffered interface: with the other one rustls makes its buffer larger and
//! smaller with each burst of records, and keeps 4 KiB of it for each idle connection.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::CommonState;
use rustls::server::{ServerConfig, ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, ReadTraffic, UnbufferedStatus,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::opened::Plaintext;
use super::sealed::{CiphertextIn, CiphertextOut, Traffic};

mod halves;

/// What a client sends and reads, decrypted.
pub struct Stream<IO> {
    io: IO,
    tls: UnbufferedServerConnection,
    incoming: CiphertextIn,
    opened: Plaintext,
    outgoing: CiphertextOut,
    /// rustls has seen whole records of `incoming`, and waits for the next ones: a message of the handshake, or a key update,
    /// has come in part.
    is_joining: bool,
    /// How the client broke the protocol; what there is to say to it about that has been said.
    broken: Option<rustls::Error>,
    /// The client has said that it sends no more.
    is_ended: bool,
    /// The client has been told that nothing more is sent.
    is_shut: bool,
}

/// How far what has come leads.
enum HandshakeStep {
    /// A record was opened.
    Opened,
    /// The client has said goodbye.
    Ended,
    /// The rest of a message of the handshake must come.
    Handshaking,
    /// More must come; whatever there is may be said.
    Open,
}

impl<IO> Stream<IO> {
    /// Before the handshake, of which some bytes have come.
    pub(super) fn new(
        io: IO,
        incoming: CiphertextIn,
        config: Arc<ServerConfig>,
    ) -> Result<Self, rustls::Error> {
        Ok(Self {
            io,
            tls: UnbufferedServerConnection::new(config)?,
            incoming,
            opened: Plaintext::default(),
            outgoing: CiphertextOut::default(),
            is_joining: false,
            broken: None,
            is_ended: false,
            is_shut: false,
        })
    }

    /// What was agreed.
    pub(super) fn negotiated(&self) -> &CommonState {
        &self.tls
    }

    /// Opens what has come, up to one record of the client's own data; it goes to `out`, and what does not fit is kept.
    fn step(&mut self, out: &mut ReadBuf<'_>) -> Result<HandshakeStep, rustls::Error> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        loop {
            let UnbufferedStatus { mut discard, state } =
                self.tls.process_tls_records(self.incoming.bytes());
            let step = match state {
                Ok(ConnectionState::ReadTraffic(traffic)) => {
                    let taken = take(traffic, &mut self.opened, out);
                    taken.map(|more| {
                        discard += more;
                        Some(HandshakeStep::Opened)
                    })
                }
                Ok(ConnectionState::EncodeTlsData(data)) => {
                    encode(data, &mut self.outgoing).map(|()| None)
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    Ok(None)
                }
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                    Ok(Some(HandshakeStep::Ended))
                }
                Ok(ConnectionState::WriteTraffic(_)) => Ok(Some(HandshakeStep::Open)),
                Ok(ConnectionState::BlockedHandshake) => Ok(Some(HandshakeStep::Handshaking)),
                // Early data, which is not offered, and what later versions of rustls may have.
                Ok(_) => Err(unforeseen("a state that has no name")),
                Err(error) => Err(error),
            };
            self.incoming.discard(discard);
            match step {
                Ok(None) => {}
                Ok(Some(step)) => {
                    let wants_more =
                        matches!(step, HandshakeStep::Handshaking | HandshakeStep::Open);
                    self.is_joining = wants_more && self.incoming.record().is_some();
                    return Ok(step);
                }
                Err(error) => {
                    self.broken = Some(error.clone());
                    self.alert();
                    return Err(error);
                }
            }
        }
    }

    /// What rustls has to say about the error that it just told. Nothing more is opened: the broken record would be told
    /// again.
    fn alert(&mut self) {
        while self.tls.wants_write() {
            let status = self.tls.process_tls_records(self.incoming.bytes());
            let Ok(ConnectionState::EncodeTlsData(data)) = status.state else {
                return;
            };
            if encode(data, &mut self.outgoing).is_err() {
                return;
            }
        }
    }

    /// Does what needs rustls' permission to send. Records that came are not opened for it; only of a message that came in
    /// part are they shown again, since rustls knows where in them it is.
    fn write<T>(
        &mut self,
        what: impl FnOnce(&mut Traffic<'_>, &mut CiphertextOut) -> io::Result<T>,
    ) -> io::Result<T> {
        if self.broken.is_some() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        loop {
            let came = match self.is_joining {
                true => self.incoming.bytes(),
                false => &mut [],
            };
            let UnbufferedStatus { discard, state } = self.tls.process_tls_records(came);
            match state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    return what(&mut traffic, &mut self.outgoing);
                }
                Ok(ConnectionState::EncodeTlsData(data)) => {
                    encode(data, &mut self.outgoing).map_err(failed)?;
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.is_ended = true,
                Ok(_) => return Err(io::ErrorKind::BrokenPipe.into()),
                Err(error) => return Err(failed(error)),
            }
            self.incoming.discard(discard);
        }
    }

    /// Opens whole records as long as they fit; false when more must come before there is any.
    fn open(&mut self, out: &mut ReadBuf<'_>) -> io::Result<bool> {
        let room = out.remaining();
        loop {
            let has_some = out.remaining() < room;
            match self.step(out) {
                Ok(HandshakeStep::Opened) => {}
                Ok(HandshakeStep::Ended) => {
                    self.is_ended = true;
                    return Ok(true);
                }
                Ok(HandshakeStep::Handshaking | HandshakeStep::Open) => return Ok(has_some),
                // What came before the broken record is whole; the next call tells.
                Err(_) if has_some => return Ok(true),
                Err(error) => return Err(failed(error)),
            }
            let next = self.incoming.record().unwrap_or(usize::MAX);
            // An empty record is no end of the stream: what follows is looked at.
            let has_some = out.remaining() < room || self.opened.is_some();
            if has_some && next > out.remaining() {
                return Ok(true);
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Stream<IO> {
    /// Goes on with the handshake, up to its end.
    pub(super) fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let step = self.step(&mut ReadBuf::new(&mut []));
            let sent = self.outgoing.poll_send(&mut self.io, cx);
            match step.map_err(failed)? {
                HandshakeStep::Handshaking => ready!(sent)?,
                HandshakeStep::Ended if self.tls.is_handshaking() => {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                // Who leaves at once may say so together with the end of his handshake.
                step => {
                    self.is_ended = matches!(step, HandshakeStep::Ended);
                    // Tickets may be under way; the client need not read them before it asks.
                    return match sent {
                        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                        _ => Poll::Ready(Ok(())),
                    };
                }
            }
            ready!(self.poll_fill(cx))?;
        }
    }

    /// More sealed bytes. An end without a goodbye is an error: somebody may have cut the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(self.incoming.poll_fill(&mut self.io, cx))? {
            0 => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl<IO> fmt::Debug for Stream<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stream(..)")
    }
}

/// Takes over what was opened, and says how many bytes more are used up.
fn take(
    mut traffic: ReadTraffic<'_, '_, ServerConnectionData>,
    opened: &mut Plaintext,
    out: &mut ReadBuf<'_>,
) -> Result<usize, rustls::Error> {
    let mut used = 0;
    while let Some(record) = traffic.next_record() {
        let record = record?;
        used += record.discard;
        if !opened.take(record.payload, out) {
            return Err(unforeseen("more than one record at once"));
        }
    }
    Ok(used)
}

/// What rustls has written by itself: messages of the handshake, alerts, key updates.
fn encode(
    mut data: EncodeTlsData<'_, ServerConnectionData>,
    outgoing: &mut CiphertextOut,
) -> Result<(), rustls::Error> {
    let wanted = match data.encode(&mut []) {
        Ok(_) => return Ok(()),
        Err(EncodeError::InsufficientSize(error)) => error.required_size,
        Err(error) => return Err(unforeseen(error)),
    };
    let count = data.encode(outgoing.room(wanted)).map_err(unforeseen)?;
    outgoing.grow(count);
    Ok(())
}

fn unforeseen(what: impl fmt::Display) -> rustls::Error {
    rustls::Error::General(what.to_string())
}

fn failed(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests;
