//! `limits.min_rate`, with a window of two seconds: who is too slow is cut, and who waits for the other side is not.

use std::task::ready;

use http_body::Frame;
use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, Sleep, sleep};

use super::super::super::stream::{MonitoredSocket, Socket};
use super::*;
use crate::body::{self, MinRate};

/// Bytes a second.
const RATE: usize = 100_000;
const WINDOW: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_millis(100);
/// What a peer at the floor moves in a step.
const SHARE: usize = RATE / 10;

fn paced() -> Settings {
    Settings {
        floor: MinRate {
            rate: RATE as u64,
            window: WINDOW,
        },
        // Shorter than it takes a slow client to take a frame.
        write_idle: WINDOW,
        ..settings()
    }
}

impl Socket for DuplexStream {
    fn take_error(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn is_read_closed(&self) -> bool {
        false
    }

    fn set_linger_zero(&self) {}
}

fn serve(stream: DuplexStream, http2: bool, service: impl Handler + Sync) -> JoinHandle<()> {
    tokio::spawn(async move {
        let (settings, drainer) = (paced(), super::super::super::ShutdownTrigger::new());
        let terms = ConnectionContext {
            settings: &settings,
            budget: &Arc::new(RecvBudget::new(1 << 30)),
            early_responses: &Default::default(),
            drain: drainer.listen(),
            counts: &Default::default(),
        };
        let peer = PeerAddr::new(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
        let info = ConnectionInfo::new(peer, peer.client(), None);
        let watch = Arc::new(ConnectionState::new(&settings, terms.drain.clone()));
        let stream = MonitoredSocket::new(stream, &watch);
        let connection = Connection::new(info, terms, watch, service);
        if http2 {
            connection.http2(stream).await;
        } else {
            connection.http1(stream).await;
        }
    })
}

/// Takes a body with a rest of `pause` after each frame, and says how that went.
fn taking(pause: Duration) -> impl Handler + Sync {
    move |exchange: IncomingRequest| -> ResponseFuture {
        Box::pin(async move {
            let (incoming, floor) = (exchange.request.into_body(), paced().floor);
            let mut body = RequestBody::new(incoming, exchange.received, None, BODY_IDLE, floor);
            let mut length = 0;
            let verdict = loop {
                match body.frame().await {
                    Some(Ok(frame)) => length += frame.into_data().unwrap().len(),
                    Some(Err(error)) => break error.to_string(),
                    None => break length.to_string(),
                }
                sleep(pause).await;
            };
            Ok(Response::new(Body::full(verdict)))
        })
    }
}

/// Sends `steps` pieces, one a step or all at once, and reads the verdict; how long it took.
async fn upload(
    http2: bool,
    piece: usize,
    step: Duration,
    steps: usize,
    pause: Duration,
) -> (String, Duration) {
    let (mut near, far) = tokio::io::duplex(1 << 20);
    serve(far, http2, taking(pause));
    let began = Instant::now();
    let piece = vec![b'x'; piece];
    if !http2 {
        let head = b"PATCH / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        near.write_all(head).await.unwrap();
        let (mut reader, mut writer) = tokio::io::split(near);
        tokio::spawn(async move {
            for _ in 0..steps {
                let framed =
                    [format!("{:x}\r\n", piece.len()).as_bytes(), &piece, b"\r\n"].concat();
                let _ = writer.write_all(&framed).await;
                sleep(step).await;
            }
            let _ = writer.write_all(b"0\r\n\r\n").await;
            std::future::pending::<()>().await;
        });
        let mut said = Vec::new();
        while !said.ends_with(b"client") && !said.ends_with(b"000") {
            assert_ne!(reader.read_buf(&mut said).await.unwrap(), 0);
        }
        let said = String::from_utf8(said).unwrap();
        let verdict = said.rsplit_once("\r\n\r\n").unwrap().1.to_owned();
        return (verdict, began.elapsed());
    }
    let (sender, connection) = h2::client::handshake(near).await.unwrap();
    tokio::spawn(connection);
    let request = Request::patch("http://a/").body(()).unwrap();
    let (response, mut body) = sender
        .ready()
        .await
        .unwrap()
        .send_request(request, false)
        .unwrap();
    tokio::spawn(async move {
        for _ in 0..steps {
            let _ = body.send_data(Bytes::from(piece.clone()), false);
            sleep(step).await;
        }
        let _ = body.send_data(Bytes::new(), true);
        std::future::pending::<()>().await;
    });
    let mut body = response.await.unwrap().into_body();
    let said = body.data().await.unwrap().unwrap();
    (String::from_utf8(said.to_vec()).unwrap(), began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn an_upload_below_the_floor_is_cut_after_one_window() {
    for http2 in [false, true] {
        let (verdict, took) = upload(http2, SHARE / 2, STEP, 100, Duration::ZERO).await;
        assert_eq!(
            verdict,
            "less than 100000 bytes a second came from the client"
        );
        assert!((WINDOW..WINDOW * 11 / 10).contains(&took), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_above_the_floor_goes_on_and_so_does_one_that_waits_for_the_upstream() {
    for http2 in [false, true] {
        let (verdict, took) = upload(http2, SHARE * 12 / 10, STEP, 100, Duration::ZERO).await;
        assert_eq!(verdict, "1200000");
        assert!(took >= 100 * STEP, "{took:?}");
        // All of it is there, and is taken at a hundredth of the floor.
        let (verdict, took) = upload(http2, 1000, Duration::ZERO, 20, Duration::from_secs(1)).await;
        assert_eq!(verdict, "20000");
        assert!(took > 5 * WINDOW || http2, "{took:?}");
    }
}

/// A piece after each `pause`, for ever.
struct Source {
    piece: usize,
    pause: Duration,
    sleep: Pin<Box<Sleep>>,
}

impl http_body::Body for Source {
    type Data = Bytes;
    type Error = body::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, body::Error>>> {
        if !self.pause.is_zero() {
            ready!(self.sleep.as_mut().poll(cx));
            let next = Instant::now() + self.pause;
            self.sleep.as_mut().reset(next);
        }
        Poll::Ready(Some(Ok(Frame::data(vec![b'x'; self.piece].into()))))
    }
}

fn giving(piece: usize, pause: Duration) -> impl Handler + Sync {
    move |_: IncomingRequest| -> ResponseFuture {
        let source = Source {
            piece,
            pause,
            sleep: Box::pin(sleep(pause)),
        };
        Box::pin(async move { Ok(Response::new(Body::stream(source))) })
    }
}

/// Takes so many bytes a step of an endless answer; when it broke off, within twenty seconds.
async fn download(http2: bool, share: usize, piece: usize, pause: Duration) -> Option<Duration> {
    let (mut near, far) = tokio::io::duplex(SHARE);
    serve(far, http2, giving(piece, pause));
    let began = Instant::now();
    let until = began + 10 * WINDOW;
    if !http2 {
        near.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        let mut space = vec![0; share];
        while Instant::now() < until {
            let taken = timeout(2 * WINDOW, near.read(&mut space)).await;
            if matches!(taken, Ok(Ok(0))) {
                return Some(began.elapsed());
            }
            sleep(STEP).await;
        }
        return None;
    }
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(u32::try_from(4 * SHARE).unwrap());
    let (sender, connection) = builder.handshake::<_, Bytes>(near).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://a/").body(()).unwrap();
    let (response, _) = sender
        .ready()
        .await
        .unwrap()
        .send_request(request, true)
        .unwrap();
    let mut body = response.await.unwrap().into_body();
    // Opened by a share a step, however much came.
    let (mut owed, mut next) = (0, Instant::now());
    while Instant::now() < until {
        match tokio::time::timeout_at(next, body.data()).await {
            Ok(Some(Ok(data))) => owed += data.len(),
            Ok(_) => return Some(began.elapsed()),
            Err(_) => {
                let release = share.min(owed);
                owed -= release;
                let _ = body.flow_control().release_capacity(release);
                next += STEP;
            }
        }
    }
    None
}

#[tokio::test(start_paused = true)]
async fn a_download_below_the_floor_is_cut_after_one_window() {
    for http2 in [false, true] {
        let took = download(http2, SHARE / 2, 1 << 20, Duration::ZERO).await;
        let took = took.unwrap_or_else(|| panic!("it went on: {http2}"));
        let least = WINDOW * 9 / 10;
        assert!(
            (least..WINDOW * 12 / 10).contains(&took),
            "{took:?} {http2}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_download_above_the_floor_goes_on_and_so_does_one_that_waits_for_the_upstream() {
    for http2 in [false, true] {
        let broke = download(http2, SHARE * 14 / 10, 1 << 20, Duration::ZERO).await;
        assert_eq!(broke, None, "{http2}");
        // A byte a second is what the upstream gives.
        let broke = download(http2, SHARE, 1, Duration::from_secs(1)).await;
        assert_eq!(broke, None, "{http2}");
    }
}
