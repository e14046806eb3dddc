//! A request that panics ends alone.

use super::*;

/// Panics where it is told to, else answers when it is permitted to.
fn moody(permits: &Arc<Semaphore>) -> impl Handler + use<> {
    let permits = Arc::clone(permits);
    move |exchange: IncomingRequest| -> ResponseFuture {
        let permits = Arc::clone(&permits);
        Box::pin(async move {
            assert_ne!(exchange.request.uri().path(), "/panic", "as it was told to");
            permits.acquire().await.unwrap().forget();
            Ok(Response::new(Body::full("fine")))
        })
    }
}

async fn serve(stream: DuplexStream, permits: Arc<Semaphore>, http2: bool) {
    let (settings, drainer) = (settings(), super::super::super::ShutdownTrigger::new());
    let terms = ConnectionContext {
        settings: &settings,
        budget: &Arc::new(RecvBudget::new(1 << 20)),
        early_responses: &Default::default(),
        drain: drainer.listen(),
        counts: &Default::default(),
    };
    let peer = PeerAddr::new(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
    let info = ConnectionInfo::new(peer, peer.client(), None);
    let watch = Arc::new(ConnectionState::new(&settings, terms.drain.clone()));
    let connection = Connection::new(info, terms, watch, moody(&permits));
    if http2 {
        connection.http2(stream).await;
    } else {
        connection.http1(stream).await;
    }
}

#[tokio::test]
async fn a_stream_that_panics_leaves_its_neighbours_alone() {
    let permits = Arc::new(Semaphore::new(0));
    let (near, far) = tokio::io::duplex(PIPE);
    tokio::spawn(serve(far, Arc::clone(&permits), true));
    let (mut sender, connection) = h2::client::handshake(near).await.unwrap();
    tokio::spawn(connection);
    let mut ask = |path: &str| {
        let request = Request::get(format!("http://a{path}")).body(()).unwrap();
        sender.send_request(request, true).unwrap().0
    };
    let (before, panics, after) = (ask("/"), ask("/panic"), ask("/"));
    assert!(panics.await.is_err());
    permits.add_permits(2);
    for neighbour in [before, after] {
        assert_eq!(neighbour.await.unwrap().status(), 200);
    }
    // A body of HTTP/1 that is made next on this thread belongs to no stream.
    assert!(crate::connection::streams::SendProgress::current().is_none());
}

#[tokio::test]
async fn a_connection_that_panics_is_closed_and_another_is_served() {
    let permits = Arc::new(Semaphore::new(1));
    for (path, is_served) in [("/panic", false), ("/", true)] {
        let (mut near, far) = tokio::io::duplex(PIPE);
        let served = tokio::spawn(serve(far, Arc::clone(&permits), false));
        let head = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        near.write_all(head.as_bytes()).await.unwrap();
        let mut said = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut near, &mut said)
            .await
            .unwrap();
        assert_eq!(said.ends_with("fine"), is_served, "{said:?}");
        assert_eq!(served.await.is_ok(), is_served);
    }
}
