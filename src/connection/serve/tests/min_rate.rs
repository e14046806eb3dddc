//! `limits.min_rate`, with a window of two seconds: a client that is too slow is disconnected, and a client that waits for the
//! upstream is not.

use std::task::ready;

use http_body::Frame;
use tokio::time::{Instant, Sleep, sleep};

use super::*;
use crate::body;
use crate::connection::socket::{MonitoredSocket, Socket};

/// The minimum rate in bytes per second.
const RATE: usize = 100_000;
const WINDOW: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_millis(100);
/// The number of bytes that a client at the minimum rate transfers in a step.
const BYTES_PER_STEP: usize = RATE / 10;

fn settings_with_min_rate() -> Settings {
    Settings {
        min_rate: MinRate {
            rate: RATE as u64,
            window: WINDOW,
        },
        // Shorter than the time in which a slow client takes a frame.
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

fn serve(stream: DuplexStream, is_http2: bool, handler: impl Handler) -> JoinHandle<()> {
    tokio::task::spawn_local(async move {
        let budget = Arc::new(RecvBudget::new(1 << 30));
        let shared = Shared::new(settings_with_min_rate(), &budget);
        let state = shared.state();
        let stream = MonitoredSocket::new(stream, &state);
        shared.serve(stream, is_http2, state, handler).await;
    })
}

/// Returns a handler that pauses after each frame of the request body, and responds with the length of the body or the error.
fn reading_handler(pause: Duration) -> impl Handler {
    move |request: IncomingRequest| -> ResponseFuture {
        Box::pin(async move {
            let incoming = request.request.into_body();
            let min_rate = settings_with_min_rate().min_rate;
            let mut body = RequestBody::new(incoming, request.upload, None, BODY_IDLE, min_rate);
            let mut length = 0;
            let result = loop {
                match body.frame().await {
                    Some(Ok(frame)) => length += frame.into_data().unwrap().len(),
                    Some(Err(error)) => break error.to_string(),
                    None => break length.to_string(),
                }
                sleep(pause).await;
            };
            Ok(Response::new(Body::full(result)))
        })
    }
}

/// Sends `steps` pieces, one after each `step`. Returns the response body and the time that the upload took.
async fn upload(
    is_http2: bool,
    piece: usize,
    step: Duration,
    steps: usize,
    pause: Duration,
) -> (String, Duration) {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    serve(server, is_http2, reading_handler(pause));
    let began = Instant::now();
    let piece = vec![b'x'; piece];
    if !is_http2 {
        let head = b"PATCH / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        client.write_all(head).await.unwrap();
        let (mut reader, mut writer) = tokio::io::split(client);
        tokio::spawn(async move {
            for _ in 0..steps {
                let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), &piece, b"\r\n"].concat();
                let _ = writer.write_all(&chunk).await;
                sleep(step).await;
            }
            let _ = writer.write_all(b"0\r\n\r\n").await;
            std::future::pending::<()>().await;
        });
        let mut response = Vec::new();
        while !response.ends_with(b"client") && !response.ends_with(b"000") {
            assert_ne!(reader.read_buf(&mut response).await.unwrap(), 0);
        }
        let response = String::from_utf8(response).unwrap();
        let body = response.rsplit_once("\r\n\r\n").unwrap().1.to_owned();
        return (body, began.elapsed());
    }
    let (sender, connection) = h2::client::handshake(client).await.unwrap();
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
    let data = body.data().await.unwrap().unwrap();
    (String::from_utf8(data.to_vec()).unwrap(), began.elapsed())
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn an_upload_below_the_minimum_rate_ends_after_one_window() {
    for is_http2 in [false, true] {
        let (body, took) = upload(is_http2, BYTES_PER_STEP / 2, STEP, 100, Duration::ZERO).await;
        assert_eq!(body, "less than 100000 bytes a second came from the client");
        assert!((WINDOW..WINDOW * 11 / 10).contains(&took), "{took:?}");
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn an_upload_above_the_minimum_rate_continues_and_so_does_one_that_waits_for_the_upstream() {
    for is_http2 in [false, true] {
        let (body, took) = upload(
            is_http2,
            BYTES_PER_STEP * 12 / 10,
            STEP,
            100,
            Duration::ZERO,
        )
        .await;
        assert_eq!(body, "1200000");
        assert!(took >= 100 * STEP, "{took:?}");
        // The client has sent all bytes, and the upstream takes them at a hundredth of the minimum rate.
        let (body, took) = upload(is_http2, 1000, Duration::ZERO, 20, Duration::from_secs(1)).await;
        assert_eq!(body, "20000");
        assert!(took > 5 * WINDOW || is_http2, "{took:?}");
    }
}

/// An endless body with a piece after each `pause`.
struct EndlessBody {
    piece: usize,
    pause: Duration,
    sleep: Pin<Box<Sleep>>,
}

impl http_body::Body for EndlessBody {
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

/// Returns a handler that responds with an endless body.
fn sending_handler(piece: usize, pause: Duration) -> impl Handler {
    move |_: IncomingRequest| -> ResponseFuture {
        let body = EndlessBody {
            piece,
            pause,
            sleep: Box::pin(sleep(pause)),
        };
        Box::pin(async move { Ok(Response::new(Body::stream(body))) })
    }
}

/// Reads `bytes` of an endless response in each step. Returns the time after which the proxy ended it, if it did so within ten
/// windows.
async fn download(is_http2: bool, bytes: usize, piece: usize, pause: Duration) -> Option<Duration> {
    let (mut client, server) = tokio::io::duplex(BYTES_PER_STEP);
    serve(server, is_http2, sending_handler(piece, pause));
    let began = Instant::now();
    let until = began + 10 * WINDOW;
    if !is_http2 {
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        let mut space = vec![0; bytes];
        while Instant::now() < until {
            let read = timeout(2 * WINDOW, client.read(&mut space)).await;
            if matches!(read, Ok(Ok(0))) {
                return Some(began.elapsed());
            }
            sleep(STEP).await;
        }
        return None;
    }
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(u32::try_from(4 * BYTES_PER_STEP).unwrap());
    let (sender, connection) = builder.handshake::<_, Bytes>(client).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://a/").body(()).unwrap();
    let (response, _) = sender
        .ready()
        .await
        .unwrap()
        .send_request(request, true)
        .unwrap();
    let mut body = response.await.unwrap().into_body();
    // The window opens by `bytes` in each step, however many bytes arrived.
    let (mut unreleased, mut next) = (0, Instant::now());
    while Instant::now() < until {
        match tokio::time::timeout_at(next, body.data()).await {
            Ok(Some(Ok(data))) => unreleased += data.len(),
            Ok(_) => return Some(began.elapsed()),
            Err(_) => {
                let release = bytes.min(unreleased);
                unreleased -= release;
                let _ = body.flow_control().release_capacity(release);
                next += STEP;
            }
        }
    }
    None
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_download_below_the_minimum_rate_ends_after_one_window() {
    for is_http2 in [false, true] {
        let took = download(is_http2, BYTES_PER_STEP / 2, 1 << 20, Duration::ZERO).await;
        let took = took.unwrap_or_else(|| panic!("the download continued, HTTP/2: {is_http2}"));
        let expected = WINDOW * 9 / 10..WINDOW * 12 / 10;
        assert!(expected.contains(&took), "{took:?}, HTTP/2: {is_http2}");
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_download_above_the_minimum_rate_continues_and_so_does_one_that_waits_for_the_upstream() {
    for is_http2 in [false, true] {
        let ended = download(is_http2, BYTES_PER_STEP * 14 / 10, 1 << 20, Duration::ZERO).await;
        assert_eq!(ended, None, "HTTP/2: {is_http2}");
        // The upstream sends one byte per second.
        let ended = download(is_http2, BYTES_PER_STEP, 1, Duration::from_secs(1)).await;
        assert_eq!(ended, None, "HTTP/2: {is_http2}");
    }
}
