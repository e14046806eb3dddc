//! A handler that panics ends only its own request.

use super::*;
use crate::connection::h2_executor::SendProgress;

/// Returns a handler that panics on the path `/panic`, and otherwise responds when it gets a permit.
fn panicking_handler(permits: &Arc<Semaphore>) -> impl Handler + use<> {
    let permits = Arc::clone(permits);
    move |request: IncomingRequest| -> ResponseFuture {
        let permits = Arc::clone(&permits);
        Box::pin(async move {
            let path = request.request.uri().path();
            assert_ne!(path, "/panic", "the panic of this test");
            permits.acquire().await.unwrap().forget();
            Ok(Response::new(Body::full("fine")))
        })
    }
}

async fn serve(stream: DuplexStream, permits: Arc<Semaphore>, is_http2: bool) {
    let shared = Shared::new(settings(), &Arc::new(RecvBudget::new(1 << 20)));
    let handler = panicking_handler(&permits);
    shared
        .serve(stream, is_http2, shared.state(), handler)
        .await;
}

#[tokio::test(flavor = "local")]
async fn a_stream_that_panics_does_not_affect_other_streams() {
    let permits = Arc::new(Semaphore::new(0));
    let (client, server) = tokio::io::duplex(PIPE_SIZE);
    tokio::task::spawn_local(serve(server, Arc::clone(&permits), true));
    let (mut sender, connection) = h2::client::handshake(client).await.unwrap();
    tokio::spawn(connection);
    let mut get = |path: &str| {
        let request = Request::get(format!("http://a{path}")).body(()).unwrap();
        sender.send_request(request, true).unwrap().0
    };
    let (before, panics, after) = (get("/"), get("/panic"), get("/"));
    assert!(panics.await.is_err());
    permits.add_permits(2);
    for other in [before, after] {
        assert_eq!(other.await.unwrap().status(), 200);
    }
    // An HTTP/1 response body that is created next on this thread must not find a stream.
    assert!(SendProgress::current().is_none());
}

#[tokio::test(flavor = "local")]
async fn a_connection_that_panics_is_closed_and_another_is_served() {
    let permits = Arc::new(Semaphore::new(1));
    for (path, is_served) in [("/panic", false), ("/", true)] {
        let (mut client, server) = tokio::io::duplex(PIPE_SIZE);
        let serving = tokio::task::spawn_local(serve(server, Arc::clone(&permits), false));
        let head = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        let mut response = String::new();
        client.read_to_string(&mut response).await.unwrap();
        assert_eq!(response.ends_with("fine"), is_served, "{response:?}");
        assert_eq!(serving.await.is_ok(), is_served);
    }
}
