//! What h2 writes during one poll of the connection is sent at the end of that poll.

use std::cell::Cell;
use std::io;

use hyper::client::conn::http2 as client;
use hyper_util::rt::TokioExecutor;
use tokio::runtime::LocalRuntime;

use super::*;

/// A stream that skips flushes while it is held, as the TLS stream does.
struct HeldStream {
    stream: DuplexStream,
    hold: SendHold,
    skipped: Rc<Cell<usize>>,
    sent: Rc<Cell<usize>>,
}

impl AsyncRead for HeldStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, out)
    }
}

impl AsyncWrite for HeldStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let counter = if self.hold.is_held() {
            self.hold.skip_flush();
            &self.skipped
        } else {
            &self.sent
        };
        counter.set(counter.get() + 1);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[test]
fn a_download_is_flushed_once_for_each_poll() {
    const SIZE: usize = 256 * 1024;
    let handler = |_: IncomingRequest| -> ResponseFuture {
        Box::pin(async { Ok::<_, Infallible>(Response::new(Body::full(vec![7; SIZE]))) })
    };
    let (near, far) = tokio::io::duplex(4 * SIZE);
    let hold = SendHold::default();
    let (skipped, sent) = (Rc::default(), Rc::default());
    let stream = HeldStream {
        stream: far,
        hold: hold.clone(),
        skipped: Rc::clone(&skipped),
        sent: Rc::clone(&sent),
    };
    LocalRuntime::new().unwrap().block_on(async {
        let shared = Shared::new(settings(), &Arc::new(RecvBudget::new(1 << 20)));
        tokio::task::spawn_local(async move {
            let state = shared.state();
            shared.serve_held(stream, hold, true, state, handler).await;
        });
        let (mut sender, connection) = client::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(1 << 20)
            .handshake(TokioIo::new(near))
            .await
            .unwrap();
        tokio::task::spawn_local(async move {
            let _ = connection.await;
        });
        let request = Request::get("https://a.test/").body(http_body_util::Empty::<Bytes>::new());
        let response = sender.send_request(request.unwrap()).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(body.len() == SIZE && body.iter().all(|byte| *byte == 7));
    });
    let frames = SIZE / (16 * 1024);
    assert!(
        skipped.get() >= frames,
        "h2 flushed {} times",
        skipped.get()
    );
    assert!((1..frames).contains(&sent.get()), "{} flushes", sent.get());
}
