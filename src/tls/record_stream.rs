//! [`TlsStream`], the encrypted stream of a client connection, over the unbuffered interface of rustls.
//!
//! `handshake` creates it, and `connection` uses it in place of the socket. Keys, records and alerts are rustls' own. Only the
//! buffers belong to the proxy.
//!
//! # Why not `tokio-rustls`
//!
//! The buffered interface of rustls, which `tokio-rustls` uses, grows and shrinks its buffer with each burst of records, and
//! keeps 4 KiB of it for each idle connection. With this stream, an idle connection holds no buffer at all, and the proxy needs
//! 0.84 of the memory that nginx needs for the same idle connections (measured). A differential test in this module compares
//! the stream with `tokio-rustls`: both deliver the same bytes and the same kind of end.
//!
//! # How it works
//!
//! - **Reading.** [`CiphertextIn`] reads from the socket into a pooled buffer, and rustls decrypts the records in place. The
//!   plaintext goes directly into the caller's buffer. If the last record does not fit, [`Plaintext`] keeps the rest of it.
//!   The pooled buffer is returned as soon as all its records are decrypted. If the socket has no more bytes while a record is
//!   incomplete, only the bytes of that record stay, in an allocation of exactly their size.
//! - **Writing.** [`CiphertextOut`] encrypts the caller's bytes into a pooled buffer of 32 KiB or 264 KiB, and writes it to the
//!   socket. Encrypted bytes count as written even if the socket does not take them yet; they are then sent by the next write
//!   or flush. The buffer is returned when the socket has taken all of it.
//! - **Holding back.** h2 flushes after each DATA frame, and each flush would be one system call for 16 KiB. While a
//!   [`SendHold`] is in force, encrypted bytes therefore stay in the buffer until it is full or the hold is released. Nothing is
//!   held back until the socket has taken so many bytes that the client must have read some, nor while the socket is full. A client
//!   that never reads therefore occupies no more memory than it would without a hold. One that stops reading later occupies one
//!   buffer, as on HTTP/1.
//! - **Messages of rustls** (handshake messages, alerts, key updates) are encoded into the same output buffer.
//! - **End.** A close_notify ends the stream. A connection that ends without one is an error, because an attacker may have
//!   truncated the stream. After a record that rustls rejects, the alert is sent and every further read fails; plaintext that
//!   was decrypted before it is still delivered.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use rustls::CommonState;
use rustls::server::{ServerConfig, ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, ReadTraffic, UnbufferedStatus, WriteTraffic,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::buffer_pool::{Buffer, SMALL};

/// A TLS connection of a client: reading returns plaintext, and writing encrypts it.
pub struct TlsStream<IO> {
    io: IO,
    tls: UnbufferedServerConnection,
    incoming: CiphertextIn,
    plaintext: Plaintext,
    outgoing: CiphertextOut,
    /// A handshake message or a key update has arrived in part: rustls has processed whole records of `incoming` that it has
    /// not released, and waits for the next ones.
    has_partial_handshake: bool,
    /// rustls has processed every byte that has arrived, and has nothing to do before more bytes arrive. hyper tries to read two
    /// more times for each request than there is something to read; those reads do not call rustls.
    needs_bytes: bool,
    /// The protocol violation of the client. The alert about it is in `outgoing` already.
    violation: Option<rustls::Error>,
    /// The client has sent close_notify.
    is_read_closed: bool,
    /// The proxy has sent close_notify.
    is_write_closed: bool,
    /// Whether encrypted bytes are held back.
    hold: SendHold,
}

/// Tells a [`TlsStream`] to collect what is written, so that one system call sends it.
///
/// The task that drives the connection holds the stream while it polls h2, then releases the hold and flushes the stream. Both
/// run on one thread; the fields are atomics because a stream is `Send`.
#[derive(Clone, Debug, Default)]
pub struct SendHold {
    state: Arc<HoldState>,
}

#[derive(Debug, Default)]
struct HoldState {
    is_held: AtomicBool,
    /// A flush was skipped since the hold began.
    owes_flush: AtomicBool,
}

impl SendHold {
    /// Begins to hold back what is written.
    pub fn begin(&self) {
        self.state.is_held.store(true, Ordering::Relaxed);
    }

    /// Releases the hold. Returns whether the stream must be flushed, because a flush was skipped.
    #[must_use]
    pub fn release(&self) -> bool {
        self.state.is_held.store(false, Ordering::Relaxed);
        self.state.owes_flush.swap(false, Ordering::Relaxed)
    }

    /// Whether the hold is in force.
    pub(crate) fn is_held(&self) -> bool {
        self.state.is_held.load(Ordering::Relaxed)
    }

    /// Records that a flush is owed when the hold is released.
    pub(crate) fn skip_flush(&self) {
        self.state.owes_flush.store(true, Ordering::Relaxed);
    }
}

/// The state after the bytes that have arrived were processed.
enum ReadStep {
    /// One record of application data was decrypted.
    Decrypted,
    /// The client has sent close_notify.
    Closed,
    /// The rest of a handshake message must arrive.
    Handshaking,
    /// There is no complete record; the proxy may send application data.
    NeedsData,
}

impl<IO> TlsStream<IO> {
    /// Creates the stream before its handshake, of which `incoming` has the first bytes.
    pub(super) fn new(
        io: IO,
        incoming: CiphertextIn,
        config: Arc<ServerConfig>,
    ) -> Result<Self, rustls::Error> {
        Ok(Self {
            io,
            tls: UnbufferedServerConnection::new(config)?,
            incoming,
            plaintext: Plaintext::default(),
            outgoing: CiphertextOut::default(),
            has_partial_handshake: false,
            needs_bytes: false,
            violation: None,
            is_read_closed: false,
            is_write_closed: false,
            hold: SendHold::default(),
        })
    }

    /// Returns the hold of this stream.
    pub fn send_hold(&self) -> SendHold {
        self.hold.clone()
    }

    /// Returns the negotiated version, ALPN protocol and client certificate.
    pub(super) fn negotiated(&self) -> &CommonState {
        &self.tls
    }

    /// Decrypts as many records as fit into `out`. Returns `false` if more bytes must arrive before there is any plaintext.
    fn decrypt(&mut self, out: &mut ReadBuf<'_>) -> io::Result<bool> {
        let room = out.remaining();
        loop {
            let has_plaintext = out.remaining() < room;
            match self.step(out) {
                Ok(ReadStep::Decrypted) => {}
                Ok(ReadStep::Closed) => {
                    self.is_read_closed = true;
                    return Ok(true);
                }
                Ok(ReadStep::Handshaking | ReadStep::NeedsData) => return Ok(has_plaintext),
                // The plaintext before the rejected record is authentic: deliver it. The next read returns the error.
                Err(_) if has_plaintext => return Ok(true),
                Err(error) => return Err(invalid_data(error)),
            }
            let next_record = self.incoming.first_record_len().unwrap_or(usize::MAX);
            // An empty record is not the end of the stream, so go on to the record that follows it.
            let has_plaintext = out.remaining() < room || self.plaintext.is_some();
            if has_plaintext && next_record > out.remaining() {
                return Ok(true);
            }
        }
    }

    /// Processes the bytes that have arrived, up to one record of application data. Its plaintext goes to `out`, and what does
    /// not fit is kept.
    fn step(&mut self, out: &mut ReadBuf<'_>) -> Result<ReadStep, rustls::Error> {
        if let Some(violation) = &self.violation {
            return Err(violation.clone());
        }
        loop {
            let UnbufferedStatus { mut discard, state } =
                self.tls.process_tls_records(self.incoming.bytes());
            let step = match state {
                Ok(ConnectionState::ReadTraffic(traffic)) => {
                    let read = read_records(traffic, &mut self.plaintext, out);
                    read.map(|more| {
                        discard += more;
                        Some(ReadStep::Decrypted)
                    })
                }
                Ok(ConnectionState::EncodeTlsData(data)) => {
                    self.outgoing.encode(data).map(|()| None)
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    Ok(None)
                }
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                    Ok(Some(ReadStep::Closed))
                }
                Ok(ConnectionState::WriteTraffic(_)) => Ok(Some(ReadStep::NeedsData)),
                Ok(ConnectionState::BlockedHandshake) => Ok(Some(ReadStep::Handshaking)),
                // Early data, which the proxy does not offer, and states of later versions of rustls.
                Ok(_) => Err(internal_error("an unknown state of the connection")),
                Err(error) => Err(error),
            };
            self.incoming.discard(discard);
            match step {
                Ok(None) => {}
                Ok(Some(step)) => {
                    let needs_data = matches!(step, ReadStep::Handshaking | ReadStep::NeedsData);
                    self.has_partial_handshake =
                        needs_data && self.incoming.first_record_len().is_some();
                    self.needs_bytes = needs_data && self.incoming.bytes().is_empty();
                    return Ok(step);
                }
                Err(error) => {
                    self.violation = Some(error.clone());
                    self.encode_alert();
                    return Err(error);
                }
            }
        }
    }

    /// Encodes the alert about the error that rustls has just returned. No further records are decrypted: rustls would return
    /// the error about the rejected record again.
    fn encode_alert(&mut self) {
        while self.tls.wants_write() {
            let status = self.tls.process_tls_records(self.incoming.bytes());
            let Ok(ConnectionState::EncodeTlsData(data)) = status.state else {
                return;
            };
            if self.outgoing.encode(data).is_err() {
                return;
            }
        }
    }

    /// Runs `write` when rustls permits sending. The records that have arrived are not decrypted for this. Only those of a
    /// partial handshake message are passed to rustls again, because rustls remembers its position in them.
    fn with_write_traffic<T>(
        &mut self,
        write: impl FnOnce(&mut Traffic<'_>, &mut CiphertextOut) -> io::Result<T>,
    ) -> io::Result<T> {
        if self.violation.is_some() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        loop {
            let records = match self.has_partial_handshake {
                true => self.incoming.bytes(),
                false => &mut [],
            };
            let UnbufferedStatus { discard, state } = self.tls.process_tls_records(records);
            match state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    return write(&mut traffic, &mut self.outgoing);
                }
                Ok(ConnectionState::EncodeTlsData(data)) => {
                    self.outgoing.encode(data).map_err(invalid_data)?;
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.is_read_closed = true,
                Ok(_) => return Err(io::ErrorKind::BrokenPipe.into()),
                Err(error) => return Err(invalid_data(error)),
            }
            self.incoming.discard(discard);
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> TlsStream<IO> {
    /// Performs the handshake to its end.
    pub(super) fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let step = self.step(&mut ReadBuf::new(&mut []));
            let sent = self.outgoing.poll_send(&mut self.io, cx);
            match step.map_err(invalid_data)? {
                ReadStep::Handshaking => ready!(sent)?,
                ReadStep::Closed if self.tls.is_handshaking() => {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                // A client may send close_notify together with the last message of its handshake.
                step => {
                    self.is_read_closed = matches!(step, ReadStep::Closed);
                    // Session tickets may still wait for the socket. Do not wait for them, because a client need not read
                    // them before it sends its first request.
                    return match sent {
                        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                        _ => Poll::Ready(Ok(())),
                    };
                }
            }
            ready!(self.poll_fill(cx))?;
        }
    }

    /// Writes the waiting bytes to the socket, or notes that they are held back: while the hold is in force, the client is known to
    /// read, the socket takes bytes, and the buffer has room.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let holds_back = self.hold.is_held()
            && self.outgoing.accepted >= SOCKET_BUFFERS
            && !self.outgoing.is_blocked
            && !self.outgoing.is_full();
        if !holds_back {
            return self.outgoing.poll_send(&mut self.io, cx);
        }
        if !self.outgoing.is_empty() {
            self.hold.skip_flush();
        }
        Poll::Ready(Ok(()))
    }

    /// Reads ciphertext from the socket. The end of the connection is an error here, because the client has not sent
    /// close_notify: an attacker may have truncated the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let filled = ready!(self.incoming.poll_fill(&mut self.io, cx))?;
        self.needs_bytes = false;
        match filled {
            0 => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.plaintext.copy_to(out) || this.is_read_closed {
            return Poll::Ready(Ok(()));
        }
        loop {
            let decrypted = match this.needs_bytes {
                true => Ok(false),
                false => this.decrypt(out),
            };
            // Send an alert, or the response to a key update. If the client does not read it, later writes will notice.
            if let Poll::Ready(Err(error)) = this.poll_send(cx)
                && decrypted.is_ok()
            {
                return Poll::Ready(Err(error));
            }
            if decrypted? {
                return Poll::Ready(Ok(()));
            }
            ready!(this.poll_fill(cx))?;
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if slices.iter().all(|slice| slice.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        if this.outgoing.is_full() {
            ready!(this.outgoing.poll_send(&mut this.io, cx))?;
        }
        let written =
            this.with_write_traffic(|traffic, outgoing| outgoing.encrypt(traffic, slices))?;
        // Encrypted bytes are written in the eyes of the caller, even if the socket does not take them now.
        match this.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(written)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.poll_send(cx))?;
        if !this.outgoing.is_empty() {
            // Held back: the socket is flushed at the end of the hold.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.is_write_closed {
            this.with_write_traffic(|traffic, outgoing| outgoing.encrypt_close_notify(traffic))?;
            this.is_write_closed = true;
        }
        ready!(this.outgoing.poll_send(&mut this.io, cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

impl<IO> fmt::Debug for TlsStream<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsStream(..)")
    }
}

/// Moves the plaintext of the decrypted records to `out` and `plaintext`, and returns the number of ciphertext bytes that are
/// used up in addition to those that rustls has reported.
fn read_records(
    mut traffic: ReadTraffic<'_, '_, ServerConnectionData>,
    plaintext: &mut Plaintext,
    out: &mut ReadBuf<'_>,
) -> Result<usize, rustls::Error> {
    let mut used = 0;
    while let Some(record) = traffic.next_record() {
        let record = record?;
        used += record.discard;
        if !plaintext.append(record.payload, out) {
            return Err(internal_error("more than one record at a time"));
        }
    }
    Ok(used)
}

/// The ciphertext from the socket. rustls decrypts it in place, record by record, from its front.
#[derive(Default)]
pub(super) struct CiphertextIn {
    buffer: Option<Buffer>,
    /// The number of bytes at the front of `buffer` that are decrypted.
    start: usize,
    /// The bytes of an incomplete record, while there is no `buffer`.
    partial: Vec<u8>,
}

impl CiphertextIn {
    /// Reads once and returns the number of bytes; 0 means the end of the connection.
    pub(super) fn poll_fill<IO: AsyncRead + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut buffer = self.buffer.take().unwrap_or_else(Buffer::medium);
        if self.partial.is_empty() {
            buffer.discard(self.start);
        } else {
            buffer.append(&self.partial);
        }
        self.start = 0;
        if buffer.is_full() {
            // Not reachable by valid data: a record has at most 18 KiB, and all parts of one handshake message 64 KiB.
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        match buffer.poll_read(io, cx) {
            Poll::Ready(Ok(count)) => {
                buffer.grow(count);
                self.partial = Vec::new();
                self.buffer = Some(buffer);
                Poll::Ready(Ok(count))
            }
            other => {
                // A client that sends only the beginning of a record must not occupy more memory than that beginning.
                if self.partial.is_empty() && !buffer.is_empty() {
                    self.partial = buffer.filled().to_vec();
                }
                other
            }
        }
    }

    /// The bytes that are not decrypted yet. They begin with the same byte until [`Self::discard`].
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        match &mut self.buffer {
            Some(buffer) => buffer
                .filled_mut()
                .get_mut(self.start..)
                .unwrap_or_default(),
            None => &mut self.partial,
        }
    }

    /// Removes the first `count` bytes. The buffer returns to the pool when no bytes are left.
    fn discard(&mut self, count: usize) {
        let Some(buffer) = &self.buffer else {
            self.partial.drain(..count.min(self.partial.len()));
            return;
        };
        self.start = self.start.saturating_add(count);
        if self.start >= buffer.filled().len() {
            self.start = 0;
            self.buffer = None;
        }
    }

    /// The length of the first record with its header (RFC 8446 section 5.1), if the whole record has arrived.
    fn first_record_len(&mut self) -> Option<usize> {
        let bytes = self.bytes();
        let &[_, _, _, high, low] = bytes.first_chunk()?;
        let length = RECORD_HEADER + usize::from(u16::from_be_bytes([high, low]));
        (bytes.len() >= length).then_some(length)
    }
}

/// The part of a decrypted record that did not fit into the reader's buffer.
#[derive(Default)]
struct Plaintext {
    /// The rest of at most one record, so the small buffer is large enough.
    buffer: Option<Buffer>,
    /// The number of bytes at the front of `buffer` that were delivered.
    delivered: usize,
}

impl Plaintext {
    /// Copies kept bytes to `out`. Returns `false` if there are none.
    fn copy_to(&mut self, out: &mut ReadBuf<'_>) -> bool {
        let Some(buffer) = &self.buffer else {
            return false;
        };
        let rest = buffer.filled().get(self.delivered..).unwrap_or_default();
        let (now, later) = rest.split_at(rest.len().min(out.remaining()));
        out.put_slice(now);
        self.delivered += now.len();
        if later.is_empty() {
            self.buffer = None;
            self.delivered = 0;
        }
        true
    }

    fn is_some(&self) -> bool {
        self.buffer.is_some()
    }

    /// Copies the plaintext of a record to `out`, and keeps what does not fit. Returns `false` if there is no room to keep it.
    #[must_use]
    fn append(&mut self, record: &[u8], out: &mut ReadBuf<'_>) -> bool {
        let room = if self.buffer.is_some() {
            0
        } else {
            record.len().min(out.remaining())
        };
        let (now, later) = record.split_at(room);
        out.put_slice(now);
        if later.is_empty() {
            return true;
        }
        let buffer = self.buffer.get_or_insert_with(Buffer::small);
        let has_room = later.len() <= buffer.spare().len();
        buffer.append(later);
        has_room
    }
}

/// The permission of rustls to send application data.
type Traffic<'a> = WriteTraffic<'a, ServerConnectionData>;

/// The ciphertext that waits for the socket.
#[derive(Default)]
struct CiphertextOut {
    buffer: Option<Buffer>,
    /// The number of bytes at the front of `buffer` that the socket has taken.
    sent: usize,
    /// The number of bytes that the socket has taken since the beginning of the connection.
    accepted: usize,
    /// The socket has refused the bytes of the last write.
    is_blocked: bool,
}

impl CiphertextOut {
    fn is_empty(&self) -> bool {
        self.buffer.is_none()
    }

    /// Whether the buffer has its full size and no room for another record.
    fn is_full(&mut self) -> bool {
        self.buffer
            .as_mut()
            .is_some_and(|buffer| buffer.is_sealed() && max_plaintext(buffer.spare().len()) == 0)
    }

    /// Returns free space after the waiting bytes: `wanted` bytes, or what the largest buffer has left.
    fn room(&mut self, wanted: usize) -> &mut [u8] {
        let is_roomy = |buffer: &mut Buffer| buffer.is_sealed() || buffer.spare().len() >= wanted;
        if !self.buffer.as_mut().is_some_and(is_roomy) {
            let waiting = self.buffer.take();
            let waiting = waiting
                .as_ref()
                .and_then(|buffer| buffer.filled().get(self.sent..))
                .unwrap_or_default();
            let mut larger = if waiting.len().saturating_add(wanted) <= SMALL {
                Buffer::small()
            } else {
                Buffer::tls_record()
            };
            larger.append(waiting);
            self.sent = 0;
            self.buffer = Some(larger);
        }
        self.spare()
    }

    fn spare(&mut self) -> &mut [u8] {
        self.buffer.as_mut().map(Buffer::spare).unwrap_or_default()
    }

    /// Encrypts as much of `slices` as fits, and returns the number of plaintext bytes.
    fn encrypt(&mut self, traffic: &mut Traffic<'_>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let total = slices.iter().map(|slice| slice.len()).sum();
        let mut left = max_plaintext(self.room(max_ciphertext(total)).len());
        let mut written = 0;
        let mut slices = slices.iter().map(|slice| &**slice).peekable();
        while left > 0
            && let Some(slice) = slices.next()
        {
            let slice = slice.get(..left.min(slice.len())).unwrap_or_default();
            let room = MAX_RECORD_PLAINTEXT.min(left).saturating_sub(slice.len());
            // Small slices share a record, such as a response head and a short body.
            let count = if slices.peek().is_some_and(|next| next.len() <= room) {
                let mut gathered = Buffer::small();
                gathered.append(slice);
                let fits = |gathered: &Buffer, next: &[u8]| {
                    gathered.filled().len() + next.len() <= MAX_RECORD_PLAINTEXT.min(left)
                };
                while let Some(next) = slices.next_if(|next| fits(&gathered, next)) {
                    gathered.append(next);
                }
                self.encrypt_slice(traffic, gathered.filled())?
            } else {
                self.encrypt_slice(traffic, slice)?
            };
            written += count;
            left -= count;
        }
        Ok(written)
    }

    fn encrypt_slice(&mut self, traffic: &mut Traffic<'_>, plaintext: &[u8]) -> io::Result<usize> {
        let count = traffic
            .encrypt(plaintext, self.spare())
            .map_err(io::Error::other)?;
        self.grow(count);
        Ok(plaintext.len())
    }

    fn encrypt_close_notify(&mut self, traffic: &mut Traffic<'_>) -> io::Result<()> {
        let room = self.room(max_ciphertext(0));
        let count = traffic.queue_close_notify(room).map_err(io::Error::other)?;
        self.grow(count);
        Ok(())
    }

    /// Encodes a message that rustls sends on its own: a handshake message, an alert, a key update.
    fn encode(
        &mut self,
        mut data: EncodeTlsData<'_, ServerConnectionData>,
    ) -> Result<(), rustls::Error> {
        let wanted = match data.encode(&mut []) {
            Ok(_) => return Ok(()),
            Err(EncodeError::InsufficientSize(error)) => error.required_size,
            Err(error) => return Err(internal_error(error)),
        };
        let count = data.encode(self.room(wanted)).map_err(internal_error)?;
        self.grow(count);
        Ok(())
    }

    /// Adds `count` bytes of the free space to the waiting ones.
    fn grow(&mut self, count: usize) {
        if let Some(buffer) = &mut self.buffer {
            buffer.grow(count);
            if buffer.is_empty() {
                self.buffer = None;
            }
        }
    }

    /// Writes all waiting bytes to the socket.
    fn poll_send<IO: AsyncWrite + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(buffer) = &self.buffer {
            let waiting = buffer.filled().get(self.sent..).unwrap_or_default();
            if waiting.is_empty() {
                self.sent = 0;
                self.buffer = None;
                break;
            }
            let written = Pin::new(&mut *io).poll_write(cx, waiting);
            self.is_blocked = written.is_pending();
            let count = ready!(written)?;
            self.accepted = self.accepted.saturating_add(count);
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += count;
        }
        Poll::Ready(Ok(()))
    }
}

/// The largest number of ciphertext bytes that `plaintext` bytes can become.
fn max_ciphertext(plaintext: usize) -> usize {
    plaintext
        .saturating_add(MAX_RECORD_OVERHEAD.saturating_mul(2 + plaintext / MAX_RECORD_PLAINTEXT))
}

/// The number of plaintext bytes whose ciphertext certainly fits into `room` bytes.
fn max_plaintext(room: usize) -> usize {
    room.saturating_sub(MAX_RECORD_OVERHEAD * (2 + room / MAX_RECORD_PLAINTEXT))
}

fn internal_error(what: impl fmt::Display) -> rustls::Error {
    rustls::Error::General(what.to_string())
}

fn invalid_data(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// More than the buffers of both ends of a connection hold by Linux's defaults while the receiver reads nothing: a socket that
/// has accepted so many bytes belongs to a client that reads. Only for such a client are bytes held back, because they stay in
/// memory when the client stops reading.
const SOCKET_BUFFERS: usize = 4 * 1024 * 1024;

/// The length of a record's header in bytes.
const RECORD_HEADER: usize = 5;
/// The largest plaintext of a record in bytes.
const MAX_RECORD_PLAINTEXT: usize = 16 * 1024;
/// An upper bound for the bytes that encryption adds to 16 KiB: 29 bytes per record with TLS 1.2, two records at most, and a
/// key update that rustls may put in front.
const MAX_RECORD_OVERHEAD: usize = 128;

#[cfg(test)]
mod tests;
