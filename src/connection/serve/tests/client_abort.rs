//! Clients that close or reset a connection from which the proxy is not reading, and a client that does not read.

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::connection::{AcceptedConnection, serve_plain};

/// The time within which the request of such a client must end.
const DETECTION_TIME: Duration = Duration::from_secs(1);

/// Serves one connection with `handler`. Returns the client and the task that serves the connection.
async fn connect(settings: Settings, handler: impl Handler) -> (TcpStream, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (socket, peer) = listener.accept().await.unwrap();
    let serving = tokio::task::spawn_local(async move {
        let (socket, peer) = (socket.into_std().unwrap(), PeerAddr::new(peer));
        let listener = Arc::new(ListenAddr::Named("test".to_owned()));
        let accepted = AcceptedConnection::new(socket, peer, listener, settings.handshake).unwrap();
        let shared = Shared::new(settings, &Arc::new(RecvBudget::new(1 << 20)));
        serve_plain(accepted, shared.context(), handler).await;
    });
    (client, serving)
}

/// Returns a handler whose requests run until they are dropped, and a channel that gets a message when a request starts and
/// that is closed when no request is left.
fn endless_handler() -> (impl Handler, tokio::sync::mpsc::Receiver<()>) {
    let (sender, receiver) = tokio::sync::mpsc::channel::<()>(9);
    let handler = move |request: IncomingRequest| -> ResponseFuture {
        let sender = sender.clone();
        Box::pin(async move {
            let _unread = request;
            sender.send(()).await.unwrap();
            std::future::pending().await
        })
    };
    (handler, receiver)
}

const UPLOAD: &[u8] = b"PATCH / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\n";
const CHUNKED: &[u8] = b"PATCH / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

#[tokio::test(flavor = "local")]
async fn a_reset_ends_a_request_whose_body_is_not_read() {
    let (handler, mut requests) = endless_handler();
    let (mut client, _serving) = connect(settings(), handler).await;
    client.write_all(UPLOAD).await.unwrap();
    assert_eq!(requests.recv().await, Some(()), "the request has not begun");
    let body = vec![0; 1 << 20];
    while client.try_write(&body).is_ok() {}
    SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(client);
    let ended = timeout(DETECTION_TIME, requests.recv()).await;
    assert_eq!(ended, Ok(None), "the request is still active");
}

#[tokio::test(flavor = "local")]
async fn a_fin_after_unread_bytes_ends_the_request() {
    let chunk = [b"100000\r\n".as_slice(), &[b'x'; 30_000]].concat();
    for (head, unread) in [
        // Few enough bytes for the receive buffer of the kernel: a FIN cannot arrive after more.
        (UPLOAD, vec![0; 30_000]),
        (UPLOAD, vec![0; 1]),
        (CHUNKED, chunk),
        (GET, b"PUT /".to_vec()),
    ] {
        let (handler, mut requests) = endless_handler();
        let (mut client, serving) = connect(settings(), handler).await;
        client.write_all(head).await.unwrap();
        assert_eq!(requests.recv().await, Some(()), "the request has not begun");
        let _ = client.try_write(&unread);
        drop(client);
        let ended = timeout(DETECTION_TIME, requests.recv()).await;
        assert_eq!(ended, Ok(None), "{} is still active", head.escape_ascii());
        serving.await.unwrap();
    }
}

/// The last of the pipelined requests gets no response: once the FIN is read, a client that has closed one direction looks like
/// a client that has closed both.
#[tokio::test(flavor = "local")]
async fn a_fin_after_pipelined_requests_does_not_abort_the_first() {
    let upload: &[u8] = b"PATCH / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nsome";
    for first in [GET, upload] {
        let handler = |request: IncomingRequest| -> ResponseFuture {
            Box::pin(async move {
                // The upstream takes longer than several liveness probes.
                tokio::time::sleep(2 * DETECTION_TIME).await;
                let body = request.request.into_body().collect().await;
                let size = body.map_or(0, |body| body.to_bytes().len());
                Ok(Response::new(Body::full(format!("{size} bytes"))))
            })
        };
        let (mut client, serving) = connect(settings(), handler).await;
        client.write_all(&[first, GET].concat()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut responses = String::new();
        timeout(5 * DETECTION_TIME, client.read_to_string(&mut responses))
            .await
            .expect("the connection is not closed")
            .unwrap();
        assert_eq!(
            responses.matches("HTTP/1.1 200 OK").count(),
            1,
            "{responses}"
        );
        let size = if first == GET { 0 } else { 4 };
        assert!(responses.ends_with(&format!("{size} bytes")), "{responses}");
        serving.await.unwrap();
    }
}

#[tokio::test(flavor = "local")]
async fn a_client_that_does_not_read_gets_a_reset_after_the_write_timeout() {
    let large = Bytes::from(vec![0; 64 << 20]);
    let handler = move |_: IncomingRequest| -> ResponseFuture {
        let large = large.clone();
        Box::pin(async move { Ok(Response::new(Body::full(large))) })
    };
    let settings = Settings {
        write_idle: Duration::from_millis(200),
        ..settings()
    };
    let (mut client, serving) = connect(settings, handler).await;
    client.write_all(GET).await.unwrap();
    timeout(10 * DETECTION_TIME, serving)
        .await
        .expect("the connection is not closed")
        .unwrap();
    let mut read = Vec::new();
    let error = client.read_to_end(&mut read).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}
