//! The connection to an upstream that has switched protocols: bytes in both directions, without HTTP.
//!
//! `response_body` makes it from the connection of a 101 response, and `forward` hands it to `connection` as a [`TunnelEnd`].
//! The request stays active as long as the tunnel, so that tunnels count in `limits.upstream_connections`, with the shares of
//! the client networks. A tunnel that moves less than 64 KiB in a second counts as a request that waits for its client: it can
//! be detached and displaced while other requests are queued (see `request_limit`).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connect::Stream;
use super::http1::Connection;
use super::pool::ActiveRequest;
use crate::body::TunnelEnd;

/// A connection that has left HTTP, and the request to which it belongs.
pub(crate) struct UpstreamTunnel {
    connection: Connection<Stream>,
    active: ActiveRequest,
}

impl UpstreamTunnel {
    pub(crate) fn new(connection: Connection<Stream>, active: ActiveRequest) -> Self {
        active.request().client_wait().begin();
        Self { connection, active }
    }

    fn stream(self: Pin<&mut Self>) -> Pin<&mut Stream> {
        Pin::new(self.get_mut().connection.io_mut())
    }
}

impl TunnelEnd for UpstreamTunnel {
    fn poll_displaced(&self, cx: &Context<'_>) -> Poll<()> {
        self.active.request().poll_displaced(cx)
    }

    fn record_transfer(&self, bytes: usize) {
        self.active
            .request()
            .client_wait()
            .record_transfer(bytes as u64);
    }
}

impl AsyncRead for UpstreamTunnel {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream().poll_read(cx, buffer)
    }
}

impl AsyncWrite for UpstreamTunnel {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}
