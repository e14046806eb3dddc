//! Counters that exist once for the process: logins and connections.
//!
//! `auth` and `connection` count, `admin` reads.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use super::alerts::TlsAlerts;
use super::counter::Counter;
use crate::log::LogLimiter;

/// The outcomes of logins with a password.
#[derive(Debug, Default)]
pub struct LoginCounts {
    /// Correct passwords that the login cache had, without a hash.
    pub cached: Counter,
    /// Correct passwords that were verified by a hash.
    pub verified: Counter,
    /// Wrong passwords.
    pub wrong_password: Counter,
    /// Passwords that were not checked, because the client network has sent too many wrong ones.
    pub throttled: Counter,
    /// Passwords that were not checked, because the queue of the hash threads is full.
    pub busy: Counter,
    /// Password hashes that were computed.
    pub hashes: Counter,
}

/// The counters of client connections.
#[derive(Debug, Default)]
pub struct Connections {
    handshake: AtomicUsize,
    http1: AtomicUsize,
    http2: AtomicUsize,
    plain: AtomicUsize,
    /// TLS handshakes that did not end within `limits.handshake`.
    pub handshake_timeout: Counter,
    /// TLS handshakes that ended with an alert, or with a network error.
    pub handshake_failed: Counter,
    /// Connections that the client closed before the end of the TLS handshake, as health checks of load balancers do.
    pub handshake_closed: Counter,
    /// Plain HTTP requests on a TLS port.
    pub handshake_plain_http: Counter,
    /// The alerts with which TLS handshakes ended.
    pub alerts: TlsAlerts,
    /// Limits the log lines about TLS handshakes that time out.
    pub handshake_timeout_lines: LogLimiter,
    /// Limits the log lines about plain HTTP on a TLS port.
    pub plain_http_lines: LogLimiter,
    /// Connections that the client closed, or that the proxy closed after the last response.
    pub done: Counter,
    /// Connections that ended with a network error or a protocol error.
    pub error: Counter,
    /// Connections that were aborted because a request head did not end within `limits.head`.
    pub head_timeout: Counter,
    /// Connections that were closed because no request arrived within `limits.idle`.
    pub idle_timeout: Counter,
    /// Connections that were aborted because the client read nothing, or too little, of a response.
    pub write_timeout: Counter,
    /// Connections that were aborted for abuse of HTTP/2 (stream resets, frames without effect).
    pub http2_abuse: Counter,
}

/// The protocol that is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// The TLS handshake is in progress.
    Handshake,
    /// HTTP/1 over TLS.
    Http1,
    /// HTTP/2 over TLS.
    Http2,
    /// HTTP/1 without TLS.
    Plain,
}

/// Counts one connection as open until it is dropped.
#[derive(Debug)]
pub struct OpenConnection<'a>(&'a AtomicUsize);

impl Connections {
    /// Counts one more open connection of this protocol until the guard is dropped.
    pub fn open(&self, protocol: Protocol) -> OpenConnection<'_> {
        let count = self.count_of(protocol);
        count.fetch_add(1, Relaxed);
        OpenConnection(count)
    }

    /// The number of open connections by the value of the label `protocol`.
    pub fn open_counts(&self) -> [(&'static str, usize); 4] {
        let row = |label, protocol| (label, self.count_of(protocol).load(Relaxed));
        [
            row("handshake", Protocol::Handshake),
            row("h1", Protocol::Http1),
            row("h2", Protocol::Http2),
            row("plain", Protocol::Plain),
        ]
    }

    fn count_of(&self, protocol: Protocol) -> &AtomicUsize {
        match protocol {
            Protocol::Handshake => &self.handshake,
            Protocol::Http1 => &self.http1,
            Protocol::Http2 => &self.http2,
            Protocol::Plain => &self.plain,
        }
    }
}

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
