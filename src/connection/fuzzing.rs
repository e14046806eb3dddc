//! What must hold whatever bytes a client sends, and however they are cut: the whole connection above TLS, in memory.
//!
//! Compiled for tests and for `cargo fuzz` only. The requests that the service gets over HTTP/1 are held against
//! [`reference`], which reads all bytes at once and knows nothing of hyper.

#![allow(clippy::panic, reason = "a finding is told by a panic")]

use parking_lot::Mutex;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use http::Response;
use http_body::Body as _;

use super::serve::Connection;
use super::watch::ConnectionState;
use super::{
    ConnectionContext, ConnectionInfo, IncomingRequest, ResponseFuture, Settings, ShutdownTrigger,
};
use crate::body::{Body, MinRate, RecvBudget, RequestBody};
use crate::net::addr::PeerAddr;
use crate::upstream::fuzzing::{End, Wire, split};

mod reference;

/// A request as it was understood: its method, and its body if that came whole.
type Understood = (String, Option<Vec<u8>>);

/// Reads `bytes` as HTTP/1, in one piece and in pieces.
///
/// # Panics
/// When something does not hold.
pub fn check_http1(bytes: &[u8], cuts: &[u8]) {
    let expected = reference::requests(bytes);
    let whole = serve(false, vec![bytes.to_vec()]);
    let pieces = split(bytes, cuts).into_iter().map(<[u8]>::to_vec);
    let pieced = serve(false, pieces.collect());
    // hyper and the gate may refuse more; they never see another request, nor one with another body.
    for seen in [&whole, &pieced] {
        assert!(expected.starts_with(seen), "{seen:?} of {expected:?}");
    }
    assert_eq!(whole, pieced, "the cut makes a difference");
}

/// Reads `bytes` as HTTP/2, behind the preface and an empty SETTINGS, in pieces.
///
/// # Panics
/// When something does not hold.
pub fn check_http2(bytes: &[u8], cuts: &[u8]) {
    let hello = [HELLO, bytes].concat();
    let pieces = split(&hello, cuts).into_iter().map(<[u8]>::to_vec);
    let seen = serve(true, pieces.collect());
    let most = bytes.len() / 10;
    assert!(seen.len() <= most, "{} requests", seen.len());
    assert!(
        seen.iter()
            .all(|(_, body)| body.as_ref().is_none_or(|body| body.len() <= bytes.len()))
    );
}

/// What the service understood.
fn serve(is_http2: bool, pieces: Vec<Vec<u8>>) -> Vec<Understood> {
    let seen = Arc::<Mutex<Vec<Understood>>>::default();
    let service = {
        let seen = Arc::clone(&seen);
        move |exchange: IncomingRequest| -> ResponseFuture {
            let seen = Arc::clone(&seen);
            Box::pin(async move { Ok::<_, Infallible>(take(exchange, &seen).await) })
        }
    };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
    else {
        panic!("no runtime");
    };
    let _context = runtime.enter();
    let (settings, budget, drainer) = (
        settings(),
        Arc::new(RecvBudget::new(1 << 20)),
        ShutdownTrigger::new(),
    );
    let terms = ConnectionContext {
        settings: &settings,
        budget: &budget,
        early_responses: &Default::default(),
        drain: drainer.listen(),
        counts: &Default::default(),
    };
    let peer = PeerAddr::new(([127, 0, 0, 1], 1).into());
    let info = ConnectionInfo::new(peer, peer.client(), None);
    let watch = Arc::new(ConnectionState::new(&settings, drainer.listen()));
    let connection = Connection::new(info, terms, watch, service);
    // An end of the client would race the answers, so its silence is the end.
    if is_http2 {
        let served = connection.http2(Wire::new(pieces, End::Never));
        runtime.block_on(turns(served));
    } else {
        run(connection.http1(Wire::new(pieces, End::Never)));
    }
    let mut seen = seen.lock();
    std::mem::take(&mut seen)
}

async fn take(exchange: IncomingRequest, seen: &Mutex<Vec<Understood>>) -> Response<Body> {
    let method = exchange.request.method().to_string();
    let index = {
        let mut seen = seen.lock();
        seen.push((method, None));
        seen.len() - 1
    };
    let incoming = exchange.request.into_body();
    let mut body = pin!(RequestBody::new(
        incoming,
        exchange.received,
        None,
        PATIENCE,
        FLOOR
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

/// Lets a connection and the tasks of its streams have their turns.
async fn turns(served: impl Future<Output = ()>) {
    let mut served = pin!(served);
    for _ in 0..TURNS {
        if std::future::poll_fn(|cx| Poll::Ready(served.as_mut().poll(cx).is_ready())).await {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Polls until it is done, or waits for bytes that never come: the wire has nothing else to wait for.
fn run(future: impl Future<Output = ()>) {
    let woken = Arc::new(Woken(AtomicBool::new(true)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut future = pin!(future);
    while woken.0.swap(false, Ordering::Relaxed) {
        if future.as_mut().poll(&mut Context::from_waker(&waker)) == Poll::Ready(()) {
            return;
        }
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn settings() -> Settings {
    Settings {
        handshake: PATIENCE,
        head: PATIENCE,
        head_size: 16 * 1024,
        idle: PATIENCE,
        write_idle: PATIENCE,
        floor: FLOOR,
        h2_streams: 100,
        h2_resets: 200,
        h2_window: 65_535,
        h2_connection_window: 65_535,
    }
}

/// Nothing here takes time.
const PATIENCE: Duration = Duration::from_secs(20);
const FLOOR: MinRate = MinRate {
    rate: 1,
    window: PATIENCE,
};
/// More than a short stream of frames needs.
const TURNS: usize = 50;
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

#[cfg(test)]
mod tests;
