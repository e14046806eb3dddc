//! A client that breaks off while nobody reads from it, and one that does not read itself.

use socket2::SockRef;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::connection::{AcceptedConnection, ShutdownTrigger, serve_plain};

/// Within which the request of such a client ends.
const SOON: Duration = Duration::from_secs(1);

/// A client of `service`, whose end is that of the task.
async fn serve(settings: Settings, service: impl Handler + Sync) -> (TcpStream, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (socket, peer) = listener.accept().await.unwrap();
    let serving = tokio::spawn(async move {
        let (peer, drainer) = (PeerAddr::new(peer), ShutdownTrigger::new());
        let arrival =
            AcceptedConnection::new(socket.into_std().unwrap(), peer, settings.handshake).unwrap();
        let terms = ConnectionContext {
            settings: &settings,
            budget: &Arc::new(RecvBudget::new(1 << 20)),
            early_responses: &Default::default(),
            drain: drainer.listen(),
            counts: &Default::default(),
        };
        serve_plain(arrival, terms, service).await;
    });
    (client, serving)
}

/// A service whose requests run until they are dropped; told when each begins, and closed when none is left.
fn endless() -> (impl Handler + Sync, tokio::sync::mpsc::Receiver<()>) {
    let (tell, told) = tokio::sync::mpsc::channel::<()>(9);
    let service = move |exchange: IncomingRequest| -> ResponseFuture {
        let tell = tell.clone();
        Box::pin(async move {
            let _unread = exchange;
            tell.send(()).await.unwrap();
            std::future::pending().await
        })
    };
    (service, told)
}

const UPLOAD: &[u8] = b"PATCH / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\n";
const CHUNKED: &[u8] = b"PATCH / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

#[tokio::test]
async fn a_reset_ends_a_request_whose_body_nobody_takes() {
    let (service, mut told) = endless();
    let (mut client, _serving) = serve(settings(), service).await;
    client.write_all(UPLOAD).await.unwrap();
    assert_eq!(told.recv().await, Some(()), "the request runs");
    let body = vec![0; 1 << 20];
    while client.try_write(&body).is_ok() {}
    SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(client);
    assert_eq!(timeout(SOON, told.recv()).await, Ok(None), "it still runs");
}

#[tokio::test]
async fn an_end_behind_bytes_that_nobody_reads_ends_the_request() {
    let chunk = [b"100000\r\n".as_slice(), &[b'x'; 30_000]].concat();
    for (head, behind) in [
        // Small enough to be with the gate's kernel: an end behind more cannot arrive.
        (UPLOAD, vec![0; 30_000]),
        (UPLOAD, vec![0; 1]),
        (CHUNKED, chunk),
        (GET, b"PUT /".to_vec()),
    ] {
        let (service, mut told) = endless();
        let (mut client, serving) = serve(settings(), service).await;
        client.write_all(head).await.unwrap();
        assert_eq!(told.recv().await, Some(()), "the request runs");
        let _ = client.try_write(&behind);
        drop(client);
        let gone = timeout(SOON, told.recv()).await;
        assert_eq!(gone, Ok(None), "{} still runs", head.escape_ascii());
        serving.await.unwrap();
    }
}

/// As nobody can tell such a client from one that is gone, what it asked last is not answered.
#[tokio::test]
async fn an_end_behind_whole_requests_leaves_the_first_its_answer() {
    let upload: &[u8] = b"PATCH / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nsome";
    for first in [GET, upload] {
        let service = |exchange: IncomingRequest| -> ResponseFuture {
            Box::pin(async move {
                // The upstream's time, of several looks at the connection.
                tokio::time::sleep(2 * SOON).await;
                let body = http_body_util::BodyExt::collect(exchange.request.into_body());
                let size = body.await.map_or(0, |body| body.to_bytes().len());
                Ok(Response::new(Body::full(format!("{size} bytes"))))
            })
        };
        let (mut client, serving) = serve(settings(), service).await;
        client.write_all(&[first, GET].concat()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answers = String::new();
        timeout(5 * SOON, client.read_to_string(&mut answers))
            .await
            .expect("the connection ends")
            .unwrap();
        assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 1, "{answers}");
        let size = if first == GET { 0 } else { 4 };
        assert!(answers.ends_with(&format!("{size} bytes")), "{answers}");
        serving.await.unwrap();
    }
}

#[tokio::test]
async fn what_a_client_does_not_read_is_forgotten_when_it_is_cut() {
    let large = Bytes::from(vec![0; 64 << 20]);
    let service = move |_: IncomingRequest| -> ResponseFuture {
        let large = large.clone();
        Box::pin(async move { Ok(Response::new(Body::full(large))) })
    };
    let settings = Settings {
        write_idle: Duration::from_millis(200),
        ..settings()
    };
    let (mut client, serving) = serve(settings, service).await;
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    timeout(10 * SOON, serving).await.expect("a cut").unwrap();
    let mut read = Vec::new();
    let error = client.read_to_end(&mut read).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}
