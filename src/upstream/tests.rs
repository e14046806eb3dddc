//! Complete requests over real sockets, against an upstream that follows a script.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::*;
use crate::body;

mod connecting;
mod failing;
mod pooling;
mod request_limit;
mod several;
mod streaming;
mod tls;

/// An action of the upstream on a connection.
#[derive(Clone)]
enum Step {
    /// Reads a request head and reports it.
    Head,
    /// Reads a number of bytes.
    Read(usize),
    Reply(Vec<u8>),
    /// Reads to the end of the stream and reports what was read.
    Drain,
    /// Closes the socket. If bytes are unread, the kernel sends RST.
    Close,
    /// Waits for a notification by the test.
    Wait(Arc<tokio::sync::Notify>),
}

use Step::{Close, Drain, Head, Read, Wait};

fn reply(bytes: impl Into<Vec<u8>>) -> Step {
    Step::Reply(bytes.into())
}

/// A listening upstream, and the reports of its connections.
struct ScriptedUpstream {
    address: SocketAddr,
    reports: mpsc::UnboundedReceiver<String>,
    accepted: Arc<Mutex<usize>>,
}

impl ScriptedUpstream {
    /// Starts an upstream. Each accepted connection follows the next script; further connections get no response.
    async fn start(scripts: impl IntoIterator<Item = Vec<Step>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, reports) = mpsc::unbounded_channel();
        let accepted = Arc::new(Mutex::new(0));
        let count = Arc::clone(&accepted);
        let mut scripts: VecDeque<_> = scripts.into_iter().collect();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *count.lock().unwrap() += 1;
                let script = scripts.pop_front().unwrap_or_default();
                tokio::spawn(follow(stream, script, sender.clone()));
            }
        });
        Self {
            address,
            reports,
            accepted,
        }
    }

    fn accepted(&self) -> usize {
        *self.accepted.lock().unwrap()
    }

    /// The next report: a request head, or what `Drain` has read.
    async fn next(&mut self) -> String {
        let report = tokio::time::timeout(Duration::from_secs(10), self.reports.recv());
        report.await.expect("no report within 10 s").unwrap()
    }

    /// The number of reports that `next` has not returned.
    fn pending(&mut self) -> usize {
        std::iter::from_fn(|| self.reports.try_recv().ok()).count()
    }

    fn settings(&self) -> Settings {
        settings(Endpoint::Tcp {
            host: self.address.ip().to_string(),
            port: self.address.port(),
        })
    }

    fn upstream(&self) -> Upstream {
        Upstream::new(self.settings(), 2, &[])
    }
}

async fn follow(mut stream: TcpStream, script: Vec<Step>, reports: mpsc::UnboundedSender<String>) {
    for step in script {
        match step {
            Head => match read_head(&mut stream).await {
                Some(head) => drop(reports.send(head)),
                None => return,
            },
            Read(count) => drop(stream.read_exact(&mut vec![0; count]).await),
            Step::Reply(bytes) => drop(stream.write_all(&bytes).await),
            Drain => {
                let mut rest = Vec::new();
                drop(stream.read_to_end(&mut rest).await);
                drop(reports.send(String::from_utf8_lossy(&rest).into_owned()));
            }
            Close => return,
            Wait(notify) => notify.notified().await,
        }
    }
    // Keeps the connection open until the proxy closes it.
    drop(stream.read_to_end(&mut Vec::new()).await);
}

async fn read_head(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

pub(crate) fn settings(endpoint: Endpoint) -> Settings {
    let each = EndpointSettings {
        server_name: None,
        trust: None,
        connect_timeout: Duration::from_secs(5),
        read_timeout: Duration::from_secs(30),
        connections: 8,
        queue: 8,
        queue_wait: Duration::from_secs(5),
        idle: Duration::from_secs(60),
        head_size: 64 * 1024,
    };
    Settings {
        endpoints: vec![endpoint],
        connect_retry: Duration::ZERO,
        host: HostHeader::Client,
        each,
    }
}

/// The network of the client that most tests use.
fn client() -> ClientNetwork {
    network("192.0.2.1")
}

pub(crate) fn network(address: &str) -> ClientNetwork {
    let address: std::net::IpAddr = address.parse().unwrap();
    crate::net::addr::ClientAddr::new(address).network()
}

fn request(method: Method, body: Body) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri("/v2/")
        .header("host", "reg.example")
        .body(body)
        .unwrap()
}

fn get() -> Request<Body> {
    request(Method::GET, Body::empty())
}

/// Sends a GET and expects the response [`OK`].
async fn assert_get_ok(upstream: &Upstream) {
    let response = upstream.send(0, client(), None, get()).await;
    assert_eq!(text(response.unwrap()).await, "ok");
}

async fn text(response: Box<Response<ResponseBody>>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A request body whose frames the test sends. It ends when the sender is dropped.
struct ChannelBody {
    frames: mpsc::Receiver<Result<Bytes, body::Error>>,
}

impl ChannelBody {
    fn channel() -> (mpsc::Sender<Result<Bytes, body::Error>>, Body) {
        let (sender, frames) = mpsc::channel(1);
        (sender, Body::stream(Self { frames }))
    }
}

impl http_body::Body for ChannelBody {
    type Data = Bytes;
    type Error = body::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, body::Error>>> {
        let frame = ready!(self.frames.poll_recv(cx));
        Poll::Ready(frame.map(|it| it.map(Frame::data)))
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
