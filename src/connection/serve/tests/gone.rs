//! A client that breaks off while nobody reads from it.

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::connection::{Arrival, Drainer, serve_plain};

/// Within which the request of such a client ends.
const SOON: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_reset_ends_a_request_whose_body_nobody_takes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (socket, peer) = listener.accept().await.unwrap();
    let (tell, mut told) = tokio::sync::mpsc::channel::<()>(1);
    tokio::spawn(async move {
        let (settings, drainer) = (settings(), Drainer::new());
        let peer = PeerAddr::new(peer);
        let arrival = Arrival::new(socket.into_std().unwrap(), peer, settings.handshake).unwrap();
        let terms = Terms {
            settings: &settings,
            budget: &Arc::new(Budget::new(1 << 20)),
            drain: drainer.listen(),
        };
        let service = move |exchange: Exchange| -> Answer {
            let tell = tell.clone();
            Box::pin(async move {
                let _unread = exchange;
                tell.send(()).await.unwrap();
                std::future::pending().await
            })
        };
        serve_plain(arrival, terms, service).await;
    });
    let head = b"PATCH / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\n";
    client.write_all(head).await.unwrap();
    assert_eq!(told.recv().await, Some(()), "the request runs");
    let body = vec![0; 1 << 20];
    while client.try_write(&body).is_ok() {}
    SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(client);
    assert_eq!(timeout(SOON, told.recv()).await, Ok(None), "it still runs");
}
