//! An HTTP/1 connection without TLS, in `connection::serve_plain`: the framing validator before hyper, hyper itself, and a
//! loopback socket to a client in the same thread.
//!
//! A chunked body and one with Content-Length are sent; their difference is the cost of validating chunks.

use std::convert::Infallible;
use std::net::{Ipv4Addr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use http::Response;
use http_body::Body as _;
use tidegate::body::{Body, MinRate, RecvBudget, RequestBody};
use tidegate::connection::{
    self, AcceptedConnection, ConnectionContext, IncomingRequest, ResponseFuture, ShutdownTrigger,
};
use tidegate::net::addr::PeerAddr;
use tidegate::net::listener::ListenAddr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::LocalRuntime;

use crate::worker;

pub(crate) fn measure(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("framing");
    let mut connection = Connection::open();
    let ping =
        b"GET /v2/ HTTP/1.1\r\nHost: registry.example.com\r\nUser-Agent: docker/28.0\r\n\r\n";
    group.bench_function("a ping", |bencher| {
        bencher.iter(|| connection.exchange(ping))
    });
    group.throughput(Throughput::Bytes(MIB as u64));
    let sized = [head(&format!("Content-Length: {MIB}")), vec![b'x'; MIB]].concat();
    group.bench_function("1 MiB of a known length", |bencher| {
        bencher.iter(|| connection.exchange(&sized));
    });
    for size in [1024, 32 * 1024] {
        let chunk = [
            format!("{size:x}\r\n").into_bytes(),
            vec![b'x'; size],
            b"\r\n".to_vec(),
        ];
        let chunks = chunk.concat().repeat(MIB / size);
        let body = [
            head("Transfer-Encoding: chunked"),
            chunks,
            b"0\r\n\r\n".to_vec(),
        ]
        .concat();
        group.bench_function(format!("1 MiB in chunks of {size}"), |bencher| {
            bencher.iter(|| connection.exchange(&body));
        });
    }
    group.finish();
}

/// Both ends of a connection.
struct Connection {
    runtime: LocalRuntime,
    client: TcpStream,
}

impl Connection {
    fn open() -> Self {
        let runtime = worker();
        let client = runtime.block_on(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).await;
            let (accepted, peer) = listener.accept().unwrap();
            let listener = Arc::new(ListenAddr::Named("bench".to_owned()));
            let peer = PeerAddr::new(peer);
            let accepted_connection =
                AcceptedConnection::new(accepted, peer, listener, PATIENCE).unwrap();
            tokio::task::spawn_local(serve(accepted_connection));
            client.unwrap()
        });
        client.set_nodelay(true).unwrap();
        Self { runtime, client }
    }

    /// Sends a request and reads the response, which arrives in one read.
    fn exchange(&mut self, request: &[u8]) {
        let client = &mut self.client;
        self.runtime.block_on(async {
            client.write_all(request).await.unwrap();
            let mut response = [0; 1024];
            let count = client.read(&mut response).await.unwrap();
            assert!(count > 0, "the proxy closed the connection");
            assert!(response.starts_with(b"HTTP/1.1 200"));
        });
    }
}

async fn serve(accepted: AcceptedConnection) {
    let (settings, shutdown) = (settings(), ShutdownTrigger::new());
    let context = ConnectionContext {
        settings: &settings,
        recv_budget: &Arc::new(RecvBudget::new(1 << 20)),
        early_responses: &Default::default(),
        shutdown: shutdown.subscribe(),
        metrics: &Default::default(),
    };
    let service = |request: IncomingRequest| -> ResponseFuture {
        Box::pin(async move { Ok::<_, Infallible>(read_body(request).await) })
    };
    connection::serve_plain(accepted, context, service).await;
}

async fn read_body(request: IncomingRequest) -> Response<Body> {
    let incoming = request.request.into_body();
    let mut body = pin!(RequestBody::new(
        incoming,
        request.upload,
        None,
        PATIENCE,
        MIN_RATE
    ));
    while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        frame.unwrap();
    }
    Response::new(Body::empty())
}

fn settings() -> connection::Settings {
    connection::Settings {
        handshake: PATIENCE,
        head: PATIENCE,
        head_size: 32 * 1024,
        idle: PATIENCE,
        write_idle: PATIENCE,
        min_rate: MIN_RATE,
        h2_streams: 100,
        h2_resets: 200,
        h2_window: 4 << 20,
        h2_connection_window: 8 << 20,
    }
}

fn head(framing: &str) -> Vec<u8> {
    format!("PUT /v2/ HTTP/1.1\r\nHost: registry.example.com\r\n{framing}\r\n\r\n").into_bytes()
}

const MIB: usize = 1 << 20;
/// Longer than any measurement.
const PATIENCE: Duration = Duration::from_secs(3600);
const MIN_RATE: MinRate = MinRate {
    rate: 1,
    window: PATIENCE,
};
