//! The limits of a connection, from `[limits]` in the configuration.

use std::time::Duration;

use crate::body::MinRate;

/// The limits of a connection. Every wait of a connection is bounded by one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The time from the accepted connection to the end of the TLS handshake.
    pub handshake: Duration,
    /// The time from the first byte of a header section to its end, HTTP/1 and HTTP/2.
    pub head: Duration,
    /// The size of a header section in bytes, HTTP/1 and HTTP/2.
    pub head_size: usize,
    /// The time that a connection may be without a request, HTTP/1 and HTTP/2.
    pub idle: Duration,
    /// The time that a write may make no progress.
    pub write_idle: Duration,
    /// The slowest rate at which a client may read a response while the proxy waits for it.
    pub min_rate: MinRate,
    /// The number of concurrent streams of one HTTP/2 connection.
    pub h2_streams: u32,
    /// The number of streams of one HTTP/2 connection that may be reset, by either side, before the connection is closed.
    pub h2_resets: usize,
    /// The receive window of one HTTP/2 stream in bytes. It bounds the upload speed to one window per round trip.
    pub h2_window: u32,
    /// The receive window of one HTTP/2 connection in bytes.
    pub h2_connection_window: u32,
}
