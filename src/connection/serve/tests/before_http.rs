//! Connections to `listen.behind_proxy` that end before their HTTP version is known.

use super::*;
use crate::connection::{AcceptedConnection, serve_behind_proxy};

/// Serves a connection over which `sent` arrives, and which then ends if `closes`. Returns how often each reason for a close was
/// counted, by the names in the metrics.
async fn close_reasons(sent: &[u8], closes: bool) -> [(&'static str, u64); 4] {
    let shared = Shared::new(settings(), &Arc::new(RecvBudget::new(1 << 20)));
    let (mut peer, stream) = tokio::io::duplex(PIPE_SIZE);
    peer.write_all(sent).await.unwrap();
    if closes {
        peer.shutdown().await.unwrap();
    }
    let address = PeerAddr::new(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
    let accepted = AcceptedConnection {
        stream,
        listener: Arc::new(ListenAddr::Named("test".to_owned())),
        peer: address,
        client: address.client(),
        is_client_named: true,
        handshake_deadline: tokio::time::Instant::now(),
    };
    let handler = |_request: IncomingRequest| -> ResponseFuture { unreachable!("no request") };
    serve_behind_proxy(accepted, shared.context(), handler).await;
    let metrics = &shared.metrics;
    assert!(metrics.open_counts().iter().all(|(_, open)| *open == 0));
    [
        ("done", metrics.done.get()),
        ("error", metrics.error.get()),
        ("idle_timeout", metrics.idle_timeout.get()),
        ("head_timeout", metrics.head_timeout.get()),
    ]
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn every_end_before_http_is_counted_once_by_its_reason() {
    for (sent, closes, reason) in [
        (&b""[..], true, "done"),
        (b"PRI * HTTP", true, "error"),
        (b"", false, "idle_timeout"),
        (b"PRI * HTTP", false, "head_timeout"),
    ] {
        for (name, count) in close_reasons(sent, closes).await {
            assert_eq!(count, u64::from(name == reason), "{name} after {sent:?}");
        }
    }
}
