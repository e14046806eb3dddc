//! Properties of a client connection: what holds for any bytes that a client sends after the TLS handshake, in any
//! segmentation. The whole connection runs in memory.
//!
//! The requests that reach the handler over HTTP/1 are compared with those of [`http1_reference`], an independent parser
//! that reads all bytes at once and shares no code with hyper or the proxy.

#![allow(clippy::panic, reason = "a panic reports a finding to the fuzzer")]

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use http::Response;
use http_body::Body as _;
use parking_lot::Mutex;

use super::http1_reference::{self, ParsedRequest};
use super::wire::{Wire, WireEnd, split};
use crate::body::{Body, MinRate, RecvBudget, RequestBody};
use crate::connection::{
    ConnectionContext, ConnectionInfo, IncomingRequest, ResponseFuture, Settings, ShutdownTrigger,
    serve_stream,
};
use crate::net::addr::PeerAddr;
use crate::net::listener::ListenAddr;

/// Parses `bytes` as HTTP/1, in one segment and in segments of the lengths in `cuts`.
///
/// # Panics
/// If the connection breaks a property.
pub fn check_http1(bytes: &[u8], cuts: &[u8]) {
    let expected = http1_reference::parse(bytes);
    let whole = serve(false, vec![bytes.to_vec()]);
    let segments = split(bytes, cuts).into_iter().map(<[u8]>::to_vec);
    let segmented = serve(false, segments.collect());
    // hyper and the proxy may reject more than the reference. They must never see a request that the reference does not see,
    // nor the same request with another body.
    for seen in [&whole, &segmented] {
        assert!(expected.starts_with(seen), "{seen:?} of {expected:?}");
    }
    assert_eq!(whole, segmented, "the segmentation makes a difference");
}

/// Parses `bytes` as HTTP/2 frames that follow the preface and an empty SETTINGS frame, in segments of the lengths in `cuts`.
///
/// # Panics
/// If the connection breaks a property.
pub fn check_http2(bytes: &[u8], cuts: &[u8]) {
    let input = [HTTP2_PREFACE, bytes].concat();
    let segments = split(&input, cuts).into_iter().map(<[u8]>::to_vec);
    let seen = serve(true, segments.collect());
    // A frame header has 9 bytes, and a HEADERS frame at least one more.
    let max_requests = bytes.len() / 10;
    assert!(seen.len() <= max_requests, "{} requests", seen.len());
    assert!(
        seen.iter()
            .all(|(_, body)| body.as_ref().is_none_or(|body| body.len() <= bytes.len()))
    );
}

/// Serves a connection on which these segments arrive, and returns the requests that reached the handler.
fn serve(is_http2: bool, segments: Vec<Vec<u8>>) -> Vec<ParsedRequest> {
    let seen = Arc::<Mutex<Vec<ParsedRequest>>>::default();
    let handler = {
        let seen = Arc::clone(&seen);
        move |request: IncomingRequest| -> ResponseFuture {
            let seen = Arc::clone(&seen);
            Box::pin(async move { Ok::<_, Infallible>(read_request(request, &seen).await) })
        }
    };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build_local(tokio::runtime::LocalOptions::default())
    else {
        panic!("no runtime");
    };
    let _context = runtime.enter();
    let (settings, budget, shutdown) = (
        settings(),
        Arc::new(RecvBudget::new(1 << 20)),
        ShutdownTrigger::new(),
    );
    let context = ConnectionContext {
        settings: &settings,
        recv_budget: &budget,
        early_responses: &Default::default(),
        shutdown: shutdown.subscribe(),
        metrics: &Default::default(),
    };
    let peer = PeerAddr::new(([127, 0, 0, 1], 1).into());
    let listener = Arc::new(ListenAddr::Named("fuzz".to_owned()));
    let info = ConnectionInfo::new(listener, peer, peer.client(), None);
    // An end of the stream would race with the responses, so the client falls silent instead.
    let wire = Wire::new(segments, WireEnd::Pending);
    let connection = serve_stream(info, context, is_http2, wire, handler);
    if is_http2 {
        runtime.block_on(poll_with_streams(connection));
    } else {
        poll_until_stuck(connection);
    }
    let mut seen = seen.lock();
    std::mem::take(&mut seen)
}

/// Records a request, then its body if the body is complete.
async fn read_request(
    incoming: IncomingRequest,
    seen: &Mutex<Vec<ParsedRequest>>,
) -> Response<Body> {
    let method = incoming.request.method().to_string();
    let index = {
        let mut seen = seen.lock();
        seen.push((method, None));
        seen.len() - 1
    };
    let mut body = pin!(RequestBody::new(
        incoming.request.into_body(),
        incoming.upload,
        None,
        TIMEOUT,
        MIN_RATE
    ));
    let mut bytes = Vec::new();
    while !body.is_end_stream() {
        match std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            Some(Ok(frame)) => bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
            Some(Err(_)) => return Response::new(Body::full("broken")),
            None => break,
        }
    }
    let mut seen = seen.lock();
    if let Some((_, body)) = seen.get_mut(index) {
        *body = Some(bytes);
    }
    Response::new(Body::full("complete"))
}

/// Polls a connection, and between the polls the tasks that it spawned for its streams.
async fn poll_with_streams(connection: impl Future<Output = ()>) {
    let mut connection = pin!(connection);
    for _ in 0..MAX_POLLS {
        if std::future::poll_fn(|cx| Poll::Ready(connection.as_mut().poll(cx).is_ready())).await {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Polls a connection until it ends or waits for bytes that never arrive. A poll that wakes itself is repeated; apart from
/// that, the wire is the only thing to wait for.
fn poll_until_stuck(connection: impl Future<Output = ()>) {
    let woken = Arc::new(WakeFlag(AtomicBool::new(true)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut connection = pin!(connection);
    while woken.0.swap(false, Ordering::Relaxed) {
        if connection.as_mut().poll(&mut Context::from_waker(&waker)) == Poll::Ready(()) {
            return;
        }
    }
}

struct WakeFlag(AtomicBool);

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn settings() -> Settings {
    Settings {
        handshake: TIMEOUT,
        head: TIMEOUT,
        head_size: 16 * 1024,
        idle: TIMEOUT,
        write_idle: TIMEOUT,
        min_rate: MIN_RATE,
        h2_streams: 100,
        h2_resets: 200,
        h2_window: 65_535,
        h2_connection_window: 65_535,
    }
}

/// Longer than any run takes, so no timeout fires.
const TIMEOUT: Duration = Duration::from_secs(20);
const MIN_RATE: MinRate = MinRate {
    rate: 1,
    window: TIMEOUT,
};
/// More polls than a short sequence of frames needs.
const MAX_POLLS: usize = 50;
/// The connection preface of HTTP/2 (RFC 9113 section 3.4) and an empty SETTINGS frame.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

#[cfg(test)]
mod tests;
