//! What is counted once for the process: logins and connections.
//!
//! `auth` and `connection` count, `admin` reads.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use super::{Counter, TlsAlerts};
use crate::log::LogLimiter;

/// What came of passwords.
#[derive(Debug, Default)]
pub struct Logins {
    /// Right, and remembered from before.
    pub remembered: Counter,
    /// Right.
    pub right: Counter,
    /// Wrong.
    pub wrong: Counter,
    /// Not looked at, after too many that were wrong.
    pub throttled: Counter,
    /// Not looked at, for want of a thread.
    pub busy: Counter,
    /// Hashes computed.
    pub hashes: Counter,
}

/// Connections of clients.
#[derive(Debug, Default)]
pub struct Connections {
    handshake: AtomicUsize,
    http1: AtomicUsize,
    http2: AtomicUsize,
    plain: AtomicUsize,
    /// Handshakes that did not end in time.
    pub handshake_late: Counter,
    /// Handshakes that ended with an alert, or with an error of the network.
    pub handshake_failed: Counter,
    /// Connections that the client closed before the handshake was done, as health checks of balancers do.
    pub handshake_closed: Counter,
    /// Plain HTTP on a TLS port.
    pub handshake_plain: Counter,
    /// The alerts with which handshakes ended.
    pub alerts: TlsAlerts,
    /// Limits the lines about late handshakes.
    pub late_lines: LogLimiter,
    /// Limits the lines about plain HTTP on a TLS port.
    pub plain_lines: LogLimiter,
    /// Ended by the client, or after its last answer.
    pub done: Counter,
    /// Broken.
    pub broken: Counter,
    /// Cut after a head that did not end.
    pub late_head: Counter,
    /// Closed without a request for too long.
    pub idle: Counter,
    /// Cut since the client took nothing, or too little.
    pub late_write: Counter,
    /// Cut for what it did with HTTP/2.
    pub abused: Counter,
}

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Nothing yet: TLS is being agreed on.
    Handshake,
    /// HTTP/1 over TLS.
    Http1,
    /// HTTP/2 over TLS.
    Http2,
    /// HTTP/1 without TLS.
    Plain,
}

/// A connection counts as open as long as this lives.
#[derive(Debug)]
pub struct Open<'a>(&'a AtomicUsize);

impl Connections {
    /// One more is open.
    pub fn open(&self, protocol: Protocol) -> Open<'_> {
        let open = self.of(protocol);
        open.fetch_add(1, Relaxed);
        Open(open)
    }

    /// How many are open, by the label's word.
    pub fn opened(&self) -> [(&'static str, usize); 4] {
        let row = |word, protocol| (word, self.of(protocol).load(Relaxed));
        [
            row("handshake", Protocol::Handshake),
            row("h1", Protocol::Http1),
            row("h2", Protocol::Http2),
            row("plain", Protocol::Plain),
        ]
    }

    fn of(&self, protocol: Protocol) -> &AtomicUsize {
        match protocol {
            Protocol::Handshake => &self.handshake,
            Protocol::Http1 => &self.http1,
            Protocol::Http2 => &self.http2,
            Protocol::Plain => &self.plain,
        }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
