//! Tests with whole connections. The tests of this file are about HTTP/2 uploads whose bytes no upstream takes, over streams in
//! memory; the submodules test other properties.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadBuf};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::*;
use crate::body::{Body, MIN_UNTHROTTLED, MinRate, RequestBody};
use crate::connection::request::ResponseFuture;
use crate::connection::shutdown::ShutdownTrigger;
use crate::net::addr::PeerAddr;
use crate::net::listener::ListenAddr;

mod before_http;
mod client_abort;
mod held_writes;
mod min_rate;
mod panics;

const UPLOADS: usize = 8;
const SIZE: usize = 3 * 1024 * 1024;
const PIPE_SIZE: usize = 16 * 1024;
const MIN_RATE: MinRate = MinRate {
    rate: 1024,
    window: Duration::from_secs(60),
};
const BODY_IDLE: Duration = Duration::from_secs(50);

fn settings() -> Settings {
    let timeout = Duration::from_secs(60);
    Settings {
        handshake: timeout,
        head: timeout,
        head_size: 16 * 1024,
        idle: timeout,
        write_idle: timeout,
        min_rate: MIN_RATE,
        h2_streams: 100,
        h2_resets: 200,
        h2_window: 4 * 1024 * 1024,
        h2_connection_window: 8 * 1024 * 1024,
    }
}

/// What the connections of a test share with each other.
struct Shared {
    settings: Settings,
    recv_budget: Arc<RecvBudget>,
    early_responses: EarlyResponses,
    metrics: Connections,
    shutdown: ShutdownTrigger,
}

impl Shared {
    fn new(settings: Settings, recv_budget: &Arc<RecvBudget>) -> Self {
        Self {
            settings,
            recv_budget: Arc::clone(recv_budget),
            early_responses: EarlyResponses::default(),
            metrics: Connections::default(),
            shutdown: ShutdownTrigger::new(),
        }
    }

    fn context(&self) -> ConnectionContext<'_> {
        ConnectionContext {
            settings: &self.settings,
            recv_budget: &self.recv_budget,
            early_responses: &self.early_responses,
            shutdown: self.shutdown.subscribe(),
            metrics: &self.metrics,
        }
    }

    fn state(&self) -> Rc<ConnectionState> {
        Rc::new(ConnectionState::new(
            &self.settings,
            self.shutdown.subscribe(),
        ))
    }

    /// Serves a connection of a client at 127.0.0.1 with `handler`.
    async fn serve<IO>(
        &self,
        stream: IO,
        is_http2: bool,
        state: Rc<ConnectionState>,
        handler: impl Handler,
    ) where
        IO: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let hold = SendHold::default();
        self.serve_held(stream, hold, is_http2, state, handler)
            .await;
    }

    /// Like [`Self::serve`], for a stream that looks at `hold`.
    async fn serve_held<IO>(
        &self,
        stream: IO,
        hold: SendHold,
        is_http2: bool,
        state: Rc<ConnectionState>,
        handler: impl Handler,
    ) where
        IO: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let peer = PeerAddr::new(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
        let listener = Arc::new(ListenAddr::Named("test".to_owned()));
        let info = ConnectionInfo::new(listener, peer, peer.client(), None);
        let connection = HttpConnection::new(info, self.context(), state, handler);
        if is_http2 {
            connection.http2(stream, hold).await;
        } else {
            connection.http1(stream).await;
        }
    }
}

/// A stream that counts the bytes that are read from it.
struct CountedStream {
    stream: DuplexStream,
    read: Arc<AtomicUsize>,
}

impl AsyncRead for CountedStream {
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

impl AsyncWrite for CountedStream {
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

/// A proxy that takes one frame of a request body for each permit, and responds with the length of the body.
struct Proxy {
    budget: Arc<RecvBudget>,
    permits: Arc<Semaphore>,
    read: Arc<AtomicUsize>,
}

impl Proxy {
    fn new(limit: usize) -> Self {
        Self {
            budget: Arc::new(RecvBudget::new(limit)),
            permits: Arc::new(Semaphore::new(0)),
            read: Arc::default(),
        }
    }

    /// Serves one connection, and returns the end of the client.
    fn accept(&self) -> DuplexStream {
        let (client, server) = tokio::io::duplex(PIPE_SIZE);
        let permits = Arc::clone(&self.permits);
        let handler = move |request: IncomingRequest| -> ResponseFuture {
            let permits = Arc::clone(&permits);
            Box::pin(async move { Ok::<_, Infallible>(read_body(request, &permits).await) })
        };
        let stream = CountedStream {
            stream: server,
            read: Arc::clone(&self.read),
        };
        let shared = Shared::new(settings(), &self.budget);
        tokio::task::spawn_local(async move {
            shared.serve(stream, true, shared.state(), handler).await;
        });
        client
    }

    /// The number of bytes that were read from all connections.
    fn bytes_read(&self) -> usize {
        self.read.load(Ordering::Relaxed)
    }
}

async fn read_body(request: IncomingRequest, permits: &Semaphore) -> Response<Body> {
    let incoming = request.request.into_body();
    if incoming.is_end_stream() {
        return Response::new(Body::full("0"));
    }
    let mut body = RequestBody::new(incoming, request.upload, None, BODY_IDLE, MIN_RATE);
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

type Sender = h2::client::SendRequest<Bytes>;

async fn connect(proxy: &Proxy) -> Sender {
    let (sender, connection) = h2::client::handshake(proxy.accept()).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Sends a request body of `size` bytes, and returns the response body.
fn upload(sender: &Sender, size: usize) -> JoinHandle<String> {
    let sender = sender.clone();
    tokio::spawn(async move {
        let mut sender = sender.ready().await.unwrap();
        let request = Request::put("https://localhost/").body(()).unwrap();
        let (response, mut body) = sender.send_request(request, false).unwrap();
        let mut left = size;
        while left > 0 {
            body.reserve_capacity(left.min(PIPE_SIZE));
            let capacity = std::future::poll_fn(|cx| body.poll_capacity(cx)).await;
            let count = capacity.unwrap().unwrap().min(left);
            left -= count;
            body.send_data(vec![b'a'; count].into(), left == 0).unwrap();
        }
        let mut body = response.await.unwrap().into_body();
        let data = body.data().await.unwrap().unwrap();
        String::from_utf8(data.to_vec()).unwrap()
    })
}

/// Returns when no task can make progress: the paused clock advances only then.
async fn until_no_progress() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn uploads_that_no_upstream_takes_use_the_budget_and_no_more() {
    for limit in [usize::MAX, 1024 * 1024] {
        let proxy = Proxy::new(limit);
        let mut uploads = Vec::new();
        for _ in 0..UPLOADS {
            uploads.push(upload(&connect(&proxy).await, SIZE));
        }
        until_no_progress().await;
        // All connections come from one client network group, which may use half of the limit.
        let share = limit / 2;
        let (max, all) = (
            share.saturating_add(UPLOADS * 2 * MIN_UNTHROTTLED),
            UPLOADS * SIZE,
        );
        let read = proxy.bytes_read();
        assert!(read >= all.min(share), "{read} of {all}");
        assert!(read <= max, "{read} with {limit}");
        // A connection that uses little continues.
        let mut small = connect(&proxy).await;
        let get = Request::get("https://localhost/").body(()).unwrap();
        let (response, _) = small.send_request(get, true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
        proxy.permits.add_permits(1_000_000);
        for upload in uploads {
            assert_eq!(upload.await.unwrap(), SIZE.to_string());
        }
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn uploads_may_transfer_more_than_the_budget() {
    // The uploads are many times the budget, and their bodies are taken frame by frame.
    let proxy = Proxy::new(MIN_UNTHROTTLED);
    proxy.permits.add_permits(1_000_000);
    let mut senders = Vec::new();
    for _ in 0..2 {
        senders.push(connect(&proxy).await);
    }
    let uploads: Vec<_> = senders
        .iter()
        .flat_map(|sender| [upload(sender, SIZE), upload(sender, SIZE)])
        .collect();
    for upload in uploads {
        assert_eq!(upload.await.unwrap(), SIZE.to_string());
    }
    assert_eq!(proxy.budget.used(), 0);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_client_is_not_too_slow_while_the_proxy_does_not_read() {
    let proxy = Proxy::new(0);
    let sender = connect(&proxy).await;
    // The first body waits for data, which the client sends after the data of the second body.
    proxy.permits.add_permits(1);
    let request = Request::put("https://localhost/").body(()).unwrap();
    let (response, mut waiting) = sender.clone().send_request(request, false).unwrap();
    until_no_progress().await;
    let stuck = upload(&sender, SIZE);
    until_no_progress().await;
    assert!(proxy.bytes_read() < SIZE);
    waiting.reserve_capacity(1);
    waiting.send_data(Bytes::from_static(b"a"), true).unwrap();
    tokio::time::sleep(3 * BODY_IDLE).await;
    proxy.permits.add_permits(1_000_000);
    let mut body = response.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "1");
    assert_eq!(stuck.await.unwrap(), SIZE.to_string());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_client_that_disconnects_releases_its_memory() {
    let proxy = Proxy::new(usize::MAX);
    let sender = connect(&proxy).await;
    let upload = upload(&sender, SIZE);
    until_no_progress().await;
    assert!(proxy.budget.used() > SIZE / 2);
    upload.abort();
    drop(sender);
    assert!(upload.await.is_err());
    until_no_progress().await;
    proxy.permits.add_permits(1_000_000);
    until_no_progress().await;
    assert_eq!(proxy.budget.used(), 0);
}
