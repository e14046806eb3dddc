//! Whole requests over real sockets, against an upstream that follows a script.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
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
mod secure;
mod several;
mod slots;
mod streaming;

/// What the upstream does on one connection, in order.
#[derive(Clone)]
enum Step {
    /// Reads a request's head and reports it.
    Head,
    /// Reads so many bytes.
    Read(usize),
    Say(Vec<u8>),
    /// Reads to the end, which it reports with what came before it.
    Drain,
    /// Closes with whatever lies unread: the kernel sends a reset then.
    Close,
    /// Waits for the test.
    Wait(Arc<tokio::sync::Notify>),
}

use Step::{Close, Drain, Head, Read, Wait};

fn say(bytes: impl Into<Vec<u8>>) -> Step {
    Step::Say(bytes.into())
}

/// A listening upstream, and what it has seen.
struct Script {
    address: SocketAddr,
    seen: mpsc::UnboundedReceiver<String>,
    accepted: Arc<Mutex<usize>>,
}

impl Script {
    /// Each connection follows the next script; a further one gets no answer.
    async fn start(scripts: impl IntoIterator<Item = Vec<Step>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, seen) = mpsc::unbounded_channel();
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
            seen,
            accepted,
        }
    }

    fn accepted(&self) -> usize {
        *self.accepted.lock().unwrap()
    }

    /// The next report: a head, or all that came before an end.
    async fn next(&mut self) -> String {
        let report = tokio::time::timeout(Duration::from_secs(10), self.seen.recv());
        report.await.expect("nothing came").unwrap()
    }

    /// Requests that have arrived and were not asked for by `next`.
    fn pending(&mut self) -> usize {
        std::iter::from_fn(|| self.seen.try_recv().ok()).count()
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

async fn follow(mut stream: TcpStream, script: Vec<Step>, seen: mpsc::UnboundedSender<String>) {
    for step in script {
        match step {
            Head => match read_head(&mut stream).await {
                Some(head) => drop(seen.send(head)),
                None => return,
            },
            Read(count) => drop(stream.read_exact(&mut vec![0; count]).await),
            Step::Say(bytes) => drop(stream.write_all(&bytes).await),
            Drain => {
                let mut rest = Vec::new();
                drop(stream.read_to_end(&mut rest).await);
                drop(seen.send(String::from_utf8_lossy(&rest).into_owned()));
            }
            Close => return,
            Wait(notify) => notify.notified().await,
        }
    }
    // Open until the client closes.
    drop(stream.read_to_end(&mut Vec::new()).await);
}

async fn read_head(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

pub(super) fn settings(endpoint: Endpoint) -> Settings {
    let each = EndpointSettings {
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
        each,
    }
}

/// The network of a client.
fn client() -> ClientNetwork {
    network("192.0.2.1")
}

pub(super) fn network(address: &str) -> ClientNetwork {
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

async fn text(answer: Response<ResponseBody>) -> String {
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A client's body fed by the test; it ends when the sender goes.
struct Fed {
    frames: mpsc::Receiver<Result<Bytes, body::Error>>,
}

impl Fed {
    fn body() -> (mpsc::Sender<Result<Bytes, body::Error>>, Body) {
        let (sender, frames) = mpsc::channel(1);
        (sender, Body::stream(Self { frames }))
    }
}

impl http_body::Body for Fed {
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
