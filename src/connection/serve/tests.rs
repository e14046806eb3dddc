//! Uploads over HTTP/2 whose bytes nobody takes, over streams in memory.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncWriteExt as _, DuplexStream, ReadBuf};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::super::Settings;
use super::*;
use crate::body::{Body, MIN_UNTHROTTLED, RecvBudget, RequestBody};
use crate::net::addr::PeerAddr;

mod alone;
mod gone;
mod pace;

const UPLOADS: usize = 8;
const SIZE: usize = 3 * 1024 * 1024;
const PIPE: usize = 16 * 1024;

/// Counts what is read from a stream.
struct Counted {
    stream: DuplexStream,
    read: Arc<AtomicUsize>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = out.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, out);
        let count = out.filled().len() - before;
        self.read.fetch_add(count, Ordering::Relaxed);
        result
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A gate that takes a frame of a body for each permit, and answers with the body's length.
struct Gate {
    budget: Arc<RecvBudget>,
    permits: Arc<Semaphore>,
    read: Arc<AtomicUsize>,
    drain: super::super::ShutdownTrigger,
}

const FLOOR_RATE: crate::body::MinRate = crate::body::MinRate {
    rate: 1024,
    window: Duration::from_secs(60),
};
const BODY_IDLE: Duration = Duration::from_secs(50);

impl Gate {
    fn new(limit: usize) -> Self {
        Self {
            budget: Arc::new(RecvBudget::new(limit)),
            permits: Arc::new(Semaphore::new(0)),
            read: Arc::default(),
            drain: super::super::ShutdownTrigger::new(),
        }
    }

    fn serve(&self) -> DuplexStream {
        let (near, far) = tokio::io::duplex(PIPE);
        let permits = Arc::clone(&self.permits);
        let service = move |exchange: IncomingRequest| -> ResponseFuture {
            let permits = Arc::clone(&permits);
            Box::pin(async move { Ok::<_, Infallible>(take(exchange, &permits).await) })
        };
        let stream = Counted {
            stream: far,
            read: Arc::clone(&self.read),
        };
        let (budget, drain) = (Arc::clone(&self.budget), self.drain.listen());
        tokio::spawn(async move {
            let settings = settings();
            let terms = ConnectionContext {
                settings: &settings,
                budget: &budget,
                early_responses: &Default::default(),
                drain,
                counts: &Default::default(),
            };
            let peer = PeerAddr::new(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
            let info = ConnectionInfo::new(peer, peer.client(), None);
            let watch = Arc::new(ConnectionState::new(&settings, terms.drain.clone()));
            Connection::new(info, terms, watch, service)
                .http2(stream)
                .await;
        });
        near
    }

    fn read(&self) -> usize {
        self.read.load(Ordering::Relaxed)
    }
}

async fn take(exchange: IncomingRequest, permits: &Semaphore) -> Response<Body> {
    let incoming = exchange.request.into_body();
    if incoming.is_end_stream() {
        return Response::new(Body::full("0"));
    }
    let mut body = RequestBody::new(incoming, exchange.received, None, BODY_IDLE, FLOOR_RATE);
    let mut length = 0;
    loop {
        permits.acquire().await.unwrap().forget();
        match body.frame().await {
            Some(Ok(frame)) => length += frame.into_data().unwrap().len(),
            Some(Err(_)) => return Response::new(Body::full("broken")),
            None => return Response::new(Body::full(length.to_string())),
        }
    }
}

fn settings() -> Settings {
    let wait = Duration::from_secs(60);
    Settings {
        handshake: wait,
        head: wait,
        head_size: 16 * 1024,
        idle: wait,
        write_idle: wait,
        floor: FLOOR_RATE,
        h2_streams: 100,
        h2_resets: 200,
        h2_window: 4 * 1024 * 1024,
        h2_connection_window: 8 * 1024 * 1024,
    }
}

type Sender = h2::client::SendRequest<Bytes>;

async fn connect(gate: &Gate) -> Sender {
    let (sender, connection) = h2::client::handshake(gate.serve()).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Sends a body of `size` bytes, and returns the answer's.
fn upload(sender: &Sender, size: usize) -> JoinHandle<String> {
    let sender = sender.clone();
    tokio::spawn(async move {
        let mut sender = sender.ready().await.unwrap();
        let request = Request::put("https://localhost/").body(()).unwrap();
        let (response, mut body) = sender.send_request(request, false).unwrap();
        let mut left = size;
        while left > 0 {
            body.reserve_capacity(left.min(PIPE));
            let room = std::future::poll_fn(|cx| body.poll_capacity(cx)).await;
            let count = room.unwrap().unwrap().min(left);
            left -= count;
            body.send_data(vec![b'a'; count].into(), left == 0).unwrap();
        }
        let mut answer = response.await.unwrap().into_body();
        let data = answer.data().await.unwrap().unwrap();
        String::from_utf8(data.to_vec()).unwrap()
    })
}

/// The clock stands still while any task can run: so this returns when nothing moves any more.
async fn until_nothing_moves() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn uploads_that_nobody_takes_hold_the_cap_and_no_more() {
    for limit in [usize::MAX, 1024 * 1024] {
        let gate = Gate::new(limit);
        let mut uploads = Vec::new();
        for _ in 0..UPLOADS {
            uploads.push(upload(&connect(&gate).await, SIZE));
        }
        until_nothing_moves().await;
        // All connections come from one client network, which may hold half of the limit.
        let share = limit / 2;
        let (most, all) = (
            share.saturating_add(UPLOADS * 2 * MIN_UNTHROTTLED),
            UPLOADS * SIZE,
        );
        assert!(gate.read() >= all.min(share), "{} of {all}", gate.read());
        assert!(gate.read() <= most, "{} with {limit}", gate.read());
        // A connection that holds little goes on.
        let mut small = connect(&gate).await;
        let get = Request::get("https://localhost/").body(()).unwrap();
        let (answer, _) = small.send_request(get, true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
        gate.permits.add_permits(1_000_000);
        for upload in uploads {
            assert_eq!(upload.await.unwrap(), SIZE.to_string());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_goes_through_is_more_than_what_is_held() {
    // Thirty times the cap, through bodies that are taken frame by frame.
    let gate = Gate::new(MIN_UNTHROTTLED);
    gate.permits.add_permits(1_000_000);
    let mut senders = Vec::new();
    for _ in 0..2 {
        senders.push(connect(&gate).await);
    }
    let uploads: Vec<_> = senders
        .iter()
        .flat_map(|sender| [upload(sender, SIZE), upload(sender, SIZE)])
        .collect();
    for upload in uploads {
        assert_eq!(upload.await.unwrap(), SIZE.to_string());
    }
    assert_eq!(gate.budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_not_read_from_is_not_too_slow() {
    let gate = Gate::new(0);
    let sender = connect(&gate).await;
    // The first body waits for data, which lies behind those of the second.
    gate.permits.add_permits(1);
    let request = Request::put("https://localhost/").body(()).unwrap();
    let (response, mut waiting) = sender.clone().send_request(request, false).unwrap();
    until_nothing_moves().await;
    let stuck = upload(&sender, SIZE);
    until_nothing_moves().await;
    assert!(gate.read() < SIZE);
    waiting.reserve_capacity(1);
    waiting.send_data(Bytes::from_static(b"a"), true).unwrap();
    tokio::time::sleep(3 * BODY_IDLE).await;
    gate.permits.add_permits(1_000_000);
    let mut answer = response.await.unwrap().into_body();
    assert_eq!(answer.data().await.unwrap().unwrap(), "1");
    assert_eq!(stuck.await.unwrap(), SIZE.to_string());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_gives_back_what_it_held() {
    let gate = Gate::new(usize::MAX);
    let sender = connect(&gate).await;
    let upload = upload(&sender, SIZE);
    until_nothing_moves().await;
    assert!(gate.budget.used() > SIZE / 2);
    upload.abort();
    drop(sender);
    assert!(upload.await.is_err());
    until_nothing_moves().await;
    gate.permits.add_permits(1_000_000);
    until_nothing_moves().await;
    assert_eq!(gate.budget.used(), 0);
}
