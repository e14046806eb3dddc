//! Large bodies: they arrive completely, in order, and in bounded memory.

use super::*;

const SIZE: usize = 64 * 1024 * 1024;
const PIECE: usize = 64 * 1024;

/// The content differs in every piece, so that a lost or repeated piece is detected.
fn piece(number: usize) -> Vec<u8> {
    let mut piece = vec![u8::try_from(number % 251).unwrap(); PIECE];
    piece[..8].copy_from_slice(&(number as u64).to_be_bytes());
    piece
}

fn check(at: usize, data: &[u8]) {
    let mut at = at;
    let mut data = data;
    while !data.is_empty() {
        let (number, from) = (at / PIECE, at % PIECE);
        let count = data.len().min(PIECE - from);
        assert!(
            data[..count] == piece(number)[from..from + count],
            "at {at}"
        );
        (at, data) = (at + count, &data[count..]);
    }
}

/// An upstream on a separate thread that sends 64 MiB, chunked or with a length.
fn sender(is_chunked: bool) -> SocketAddr {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = [0; 4096];
        assert!(stream.read(&mut head).unwrap() > 0);
        let framing = if is_chunked {
            "Transfer-Encoding: chunked".to_owned()
        } else {
            format!("Content-Length: {SIZE}")
        };
        let head = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        for number in 0..SIZE / PIECE {
            let data = piece(number);
            let data = if is_chunked {
                [format!("{PIECE:x}\r\n").as_bytes(), &data, b"\r\n"].concat()
            } else {
                data
            };
            stream.write_all(&data).unwrap();
        }
        if is_chunked {
            stream.write_all(b"0\r\n\r\n").unwrap();
        }
        // Keeps the connection open until the test ends.
        drop(stream.read(&mut [0]));
    });
    address
}

#[tokio::test]
async fn a_large_download_needs_two_buffers() {
    for is_chunked in [false, true] {
        let address = sender(is_chunked);
        let endpoint = Endpoint::Tcp {
            host: address.ip().to_string(),
            port: address.port(),
        };
        let upstream = Upstream::new(settings(endpoint), 1, &[]);
        let mut body = upstream
            .send(0, client(), None, get())
            .await
            .unwrap()
            .into_body();
        let mut at = 0;
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            assert!(data.len() <= crate::buffer_pool::LARGE);
            check(at, &data);
            at += data.len();
        }
        assert_eq!(at, SIZE);
        assert!(body.is_received(), "the connection was released");
        // The pool of this thread holds every buffer that was taken from it.
        let (small, large) = crate::buffer_pool::kept();
        assert!(small <= 2 && large <= 2, "{small} {large}");
    }
}

/// A request body of 64 MiB that counts the bytes it has returned.
struct CountedBody {
    next: usize,
    polled: Arc<Mutex<usize>>,
    length: Option<u64>,
}

impl http_body::Body for CountedBody {
    type Data = Bytes;
    type Error = body::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, body::Error>>> {
        if self.next == SIZE / PIECE {
            return Poll::Ready(None);
        }
        let data = Bytes::from(piece(self.next));
        self.next += 1;
        *self.polled.lock().unwrap() += PIECE;
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

#[tokio::test]
async fn a_large_upload_is_read_no_faster_than_the_upstream_reads() {
    for length in [Some(SIZE as u64), None] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint::Tcp {
            host: "127.0.0.1".to_owned(),
            port: listener.local_addr().unwrap().port(),
        };
        let polled = Arc::new(Mutex::new(0));
        let body = Body::stream(CountedBody {
            next: 0,
            polled: Arc::clone(&polled),
            length,
        });
        let taking = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_head(&mut stream).await.unwrap();
            let mut taken = 0;
            while taken < SIZE {
                let data = match length {
                    Some(_) => read(&mut stream, PIECE).await,
                    None => read_chunk(&mut stream).await,
                };
                check(taken, &data);
                taken += data.len();
                // The buffers of both sockets, and two batches.
                let ahead = *polled.lock().unwrap() - taken;
                assert!(ahead <= 16 * 1024 * 1024, "{ahead} bytes ahead");
            }
            if length.is_none() {
                assert!(read_chunk(&mut stream).await.is_empty());
            }
            stream.write_all(OK.as_bytes()).await.unwrap();
            stream
        };
        let upstream = Upstream::new(settings(endpoint), 1, &[]);
        let put = request(Method::PUT, body);
        let (response, _stream) = tokio::join!(upstream.send(0, client(), None, put), taking);
        assert_eq!(text(response.unwrap()).await, "ok");
    }
}

async fn read(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut data = vec![0; count];
    stream.read_exact(&mut data).await.unwrap();
    data
}

async fn read_chunk(stream: &mut TcpStream) -> Vec<u8> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(stream.read_u8().await.unwrap());
    }
    let digits = std::str::from_utf8(&line[..line.len() - 2]).unwrap();
    let data = read(stream, usize::from_str_radix(digits, 16).unwrap()).await;
    assert_eq!(read(stream, 2).await, b"\r\n");
    data
}

#[tokio::test]
async fn each_part_of_a_slow_body_is_returned_when_it_arrives() {
    let go = Arc::new(tokio::sync::Notify::new());
    let head = reply("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut steps = vec![Head, head];
    for word in ["4\r\none \r\n", "4\r\ntwo \r\n", "5\r\nthree\r\n0\r\n\r\n"] {
        steps.extend([Wait(Arc::clone(&go)), reply(word)]);
    }
    let script = ScriptedUpstream::start([steps]).await;
    let upstream = script.upstream();
    let mut body = upstream
        .send(0, client(), None, get())
        .await
        .unwrap()
        .into_body();
    for word in ["one ", "two ", "three"] {
        go.notify_one();
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), word);
    }
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn a_small_body_arrives_with_its_head() {
    let script = ScriptedUpstream::start([vec![Head, reply(OK), Head, reply(OK)]]).await;
    let upstream = script.upstream();
    let first = upstream.send(0, client(), None, get()).await.unwrap();
    assert!(first.body().is_received(), "nothing more to read");
    assert!(!http_body::Body::is_end_stream(first.body()));
    // The connection serves the next request although the body was not returned yet.
    let second = upstream.send(0, client(), None, get()).await.unwrap();
    assert_eq!(script.accepted(), 1);
    assert_eq!(
        (text(second).await, text(first).await),
        ("ok".into(), "ok".into())
    );
}
