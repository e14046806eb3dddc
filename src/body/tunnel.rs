//! A connection that has left HTTP: after a 101 (Switching Protocols), client and upstream exchange bytes in both directions.
//!
//! `forward` makes a [`Tunnel`] from the connection of an upstream that has accepted a WebSocket, and puts it into the body of
//! the 101 response ([`Body::tunnel`](super::Body::tunnel)). `connection` takes it out again and copies the bytes. Nothing is
//! copied here.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Observer;

/// The upstream's end of a tunnel. Dropping it closes the connection to the upstream.
pub trait TunnelEnd: AsyncRead + AsyncWrite + Send + Unpin {
    /// Ready once the tunnel must end, because other requests wait for its upstream connection.
    fn poll_displaced(&self, cx: &Context<'_>) -> Poll<()>;

    /// Records that `bytes` passed in either direction.
    fn record_transfer(&self, bytes: usize);
}

/// A tunnel from the upstream's side.
pub struct Tunnel {
    /// The connection to the upstream.
    pub upstream: Box<dyn TunnelEnd>,
    /// Bytes of the tunnel that arrived together with the upstream's 101.
    pub first: Bytes,
    /// The time after which a tunnel without bytes in either direction is closed.
    pub max_silence: Duration,
}

/// A tunnel that was taken out of a body, with the observer of the body.
pub struct OpenTunnel {
    /// The tunnel.
    pub tunnel: Tunnel,
    /// Learns how many bytes pass in each direction, and how the tunnel ends.
    pub observer: Option<Box<dyn Observer>>,
}
