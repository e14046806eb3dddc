//! Properties of a whole connection above TLS, for any bytes of a client and any way in which they are split.
//!
//! This module is compiled for tests and for `cargo fuzz run connection` only. The requests that the handler gets over HTTP/1 are
//! compared with those of [`reference`], which parses all bytes in one piece and does not use hyper.

#![allow(clippy::panic, reason = "a panic reports a finding to the fuzzer")]

use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use http::Response;
use http_body::Body as _;
use parking_lot::Mutex;
use tokio::runtime::LocalOptions;

use super::request::{ConnectionInfo, IncomingRequest, ResponseFuture};
use super::serve::{ConnectionContext, HttpConnection};
use super::settings::Settings;
use super::shutdown::ShutdownTrigger;
use super::state::ConnectionState;
use crate::body::{Body, MinRate, RecvBudget, RequestBody};
use crate::net::addr::PeerAddr;
use crate::upstream::fuzzing::{End, Wire, split};

mod reference;

/// A request as a parser understood it: the method, and the body if it is complete.
type ParsedRequest = (String, Option<Vec<u8>>);

/// Serves `bytes` as HTTP/1, in one piece and split at `cuts`.
///
/// # Panics
/// Panics if the handler gets other requests than the reference parser finds, or if the result depends on the split.
pub fn check_http1(bytes: &[u8], cuts: &[u8]) {
    let expected = reference::requests(bytes);
    let whole = serve(false, vec![bytes.to_vec()]);
    let pieces = split(bytes, cuts).into_iter().map(<[u8]>::to_vec);
    let split = serve(false, pieces.collect());
    // hyper and the proxy may reject more than the reference does, but must not see another request or another body.
    for seen in [&whole, &split] {
        assert!(expected.starts_with(seen), "{seen:?} of {expected:?}");
    }
    assert_eq!(whole, split, "the result depends on the split");
}

/// Serves `bytes` as HTTP/2, after the connection preface and an empty SETTINGS frame, split at `cuts`.
///
/// # Panics
/// Panics if the handler gets more requests, or longer bodies, than the bytes can contain.
pub fn check_http2(bytes: &[u8], cuts: &[u8]) {
    let all = [PREFACE, bytes].concat();
    let pieces = split(&all, cuts).into_iter().map(<[u8]>::to_vec);
    let seen = serve(true, pieces.collect());
    let max_requests = bytes.len() / 10;
    assert!(seen.len() <= max_requests, "{} requests", seen.len());
    assert!(
        seen.iter()
            .all(|(_, body)| body.as_ref().is_none_or(|body| body.len() <= bytes.len()))
    );
}

/// Serves a connection on which these pieces arrive. Returns the requests that the handler got.
fn serve(is_http2: bool, pieces: Vec<Vec<u8>>) -> Vec<ParsedRequest> {
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
        .build_local(LocalOptions::default())
    else {
        panic!("the runtime cannot be created");
    };
    let _context = runtime.enter();
    let (settings, shutdown) = (settings(), ShutdownTrigger::new());
    let context = ConnectionContext {
        settings: &settings,
        recv_budget: &Arc::new(RecvBudget::new(1 << 20)),
        early_responses: &Default::default(),
        shutdown: shutdown.subscribe(),
        metrics: &Default::default(),
    };
    let peer = PeerAddr::new(([127, 0, 0, 1], 1).into());
    let info = ConnectionInfo::new(peer, peer.client(), None);
    let state = Rc::new(ConnectionState::new(&settings, shutdown.subscribe()));
    let connection = HttpConnection::new(info, context, state, handler);
    // The client never closes the connection: the close would race with the responses. The pieces end in silence instead.
    if is_http2 {
        let served = connection.http2(Wire::new(pieces, End::Never));
        runtime.block_on(poll_with_tasks(served));
    } else {
        poll_until_stalled(connection.http1(Wire::new(pieces, End::Never)));
    }
    let mut seen = seen.lock();
    std::mem::take(&mut seen)
}

async fn read_request(
    request: IncomingRequest,
    seen: &Mutex<Vec<ParsedRequest>>,
) -> Response<Body> {
    let method = request.request.method().to_string();
    let index = {
        let mut seen = seen.lock();
        seen.push((method, None));
        seen.len() - 1
    };
    let incoming = request.request.into_body();
    let mut body = pin!(RequestBody::new(
        incoming,
        request.received,
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
    Response::new(Body::full("whole"))
}

/// Polls a connection and the tasks of its streams alternately, at most [`MAX_POLLS`] times.
async fn poll_with_tasks(served: impl Future<Output = ()>) {
    let mut served = pin!(served);
    for _ in 0..MAX_POLLS {
        if std::future::poll_fn(|cx| Poll::Ready(served.as_mut().poll(cx).is_ready())).await {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Polls a future until it is ready, or until nothing wakes it any more because it waits for bytes that never arrive.
fn poll_until_stalled(future: impl Future<Output = ()>) {
    let woken = Arc::new(WokenFlag(AtomicBool::new(true)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut future = pin!(future);
    while woken.0.swap(false, Ordering::Relaxed) {
        if future.as_mut().poll(&mut Context::from_waker(&waker)) == Poll::Ready(()) {
            return;
        }
    }
}

struct WokenFlag(AtomicBool);

impl Wake for WokenFlag {
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

/// Longer than any input takes.
const TIMEOUT: Duration = Duration::from_secs(20);
const MIN_RATE: MinRate = MinRate {
    rate: 1,
    window: TIMEOUT,
};
/// More than the frames of one input need.
const MAX_POLLS: usize = 50;
/// The connection preface of a client, with an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_handler_and_the_reference_see_the_expected_requests() {
        let two = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n";
        let expected = vec![
            ("POST".to_owned(), Some(b"abc".to_vec())),
            ("GET".to_owned(), Some(Vec::new())),
        ];
        assert_eq!(reference::requests(two), expected);
        assert_eq!(serve(false, vec![two.to_vec()]), expected);
        let truncated = b"PUT / HTTP/1.1\r\nContent-Length: 4\r\n\r\nabc";
        assert_eq!(
            serve(false, vec![truncated.to_vec()]),
            [("PUT".to_owned(), None)]
        );
        // A trailer line without a colon: the request is not complete, and no other request follows.
        let trailers = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nabc\r\n\r\nGET / HTTP/1.1\r\n\r\n";
        let expected = [("POST".to_owned(), None)];
        assert_eq!(reference::requests(trailers), expected);
        assert_eq!(serve(false, vec![trailers.to_vec()]), expected);
        let ambiguous = b"PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na";
        assert_eq!(serve(false, vec![ambiguous.to_vec()]), []);
        let get = b"\0\0\x06\x01\x05\0\0\0\x01\x82\x87\x84\x41\x01a";
        let bytes = [PREFACE, get].concat();
        assert_eq!(serve(true, vec![bytes]).len(), 1);
    }

    /// Valid and invalid sequences of pieces of requests.
    fn hostile_requests() -> impl Strategy<Value = Vec<u8>> {
        let pieces = [
            "GET / HTTP/1.1\r\n",
            "POST /v2/ HTTP/1.1\r\n",
            "PUT /x HTTP/1.0\r\n",
            "HEAD / HTTP/1.1\r\n",
            "CONNECT a:1 HTTP/1.1\r\n",
            "Host: a\r\n",
            "Content-Length: ",
            "Content-Length: 3\r\n",
            "Transfer-Encoding: ",
            "Transfer-Encoding: chunked\r\n",
            "chunked",
            "gzip, ",
            "3",
            "0",
            "\r\n",
            "\r\n\r\n",
            "\n",
            "\r",
            "\0",
            "abc",
            " ",
            "\t",
            ":",
            ";",
            "3\r\nabc\r\n",
            "0\r\n\r\n",
            "1;x\r\nZ\r\n",
            "1 ;x\r\nZ\r\n",
            "0\t; x\r\n\r\n",
            "0000000000000000",
            "A: b\r\n",
            "#",
            "Connection: close\r\n",
            "Expect: 100-continue\r\n",
            "Upgrade: x\r\nConnection: upgrade\r\n",
        ];
        let piece =
            prop::sample::select(pieces.to_vec()).prop_map(|piece| piece.as_bytes().to_vec());
        let any = prop_oneof![20 => piece, 1 => prop::collection::vec(any::<u8>(), 0..4)];
        prop::collection::vec(any, 0..24).prop_map(|pieces| pieces.concat())
    }

    /// Valid and invalid sequences of frames.
    fn hostile_frames() -> impl Strategy<Value = Vec<u8>> {
        let payload = prop::sample::select(vec![
            b"\x82\x87\x84\x41\x01a".to_vec(),
            b"\x83\x87\x84\x41\x01a\x0f\x0d\x013".to_vec(),
            b"\x82\x87".to_vec(),
            b"abc".to_vec(),
            8_u32.to_be_bytes().to_vec(),
            vec![0; 8],
            Vec::new(),
        ]);
        let frame =
            (0..11_u8, 0..8_u8, 0..8_u8, payload).prop_map(|(kind, flags, stream, payload)| {
                let length = u8::try_from(payload.len()).unwrap();
                [
                    &[0, 0, length, kind, flags, 0, 0, 0, stream],
                    payload.as_slice(),
                ]
                .concat()
            });
        prop::collection::vec(frame, 0..20).prop_map(|frames| frames.concat())
    }

    // A short run of what `cargo fuzz run connection` does without end.
    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn http1(bytes in hostile_requests(), cuts in prop::collection::vec(1..40_u8, 0..4)) {
            check_http1(&bytes, &cuts);
        }

        #[test]
        fn http2(bytes in hostile_frames(), cuts in prop::collection::vec(1..40_u8, 0..4)) {
            check_http2(&bytes, &cuts);
        }
    }
}
