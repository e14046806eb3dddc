//! Failed connects.

use super::*;

#[tokio::test]
async fn each_kind_of_failed_connect_has_its_error() {
    // Bound but not listening, so that no listener of another test gets the port.
    let unused = tokio::net::TcpSocket::new_v4().unwrap();
    unused.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let port = unused.local_addr().unwrap().port();
    let host = "127.0.0.1".to_owned();
    let mut settings = settings(Endpoint::Tcp { host, port });
    let refused = Upstream::new(settings.clone(), 1, &[])
        .send(0, client(), None, get())
        .await;
    assert!(matches!(refused.err(), Some(Error::Connect(_))));
    let full = full_listener();
    let port = full.local_addr().unwrap().as_socket().unwrap().port();
    let host = "127.0.0.1".to_owned();
    settings.endpoints = vec![Endpoint::Tcp { host, port }];
    settings.each.connect_timeout = Duration::from_millis(20);
    let late = Upstream::new(settings.clone(), 1, &[])
        .send(0, client(), None, get())
        .await;
    assert!(matches!(late.err(), Some(Error::ConnectTimeout(_))));
    settings.endpoints = vec![Endpoint::Unix("/nowhere/at/all".into())];
    settings.each.connect_timeout = Duration::from_secs(5);
    let missing = Upstream::new(settings, 1, &[])
        .send(0, client(), None, get())
        .await;
    assert!(matches!(missing.err(), Some(Error::Connect(_))));
}

/// A listener whose backlog is full: the kernel drops the SYNs of further clients.
fn full_listener() -> socket2::Socket {
    use socket2::{Domain, Socket, Type};
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&any.into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let first = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    first.connect(&address).unwrap();
    // The connection stays in the backlog although its client is gone.
    drop(first);
    listener
}

#[test]
fn a_request_can_be_moved_between_threads() {
    fn is_send<T: Send>(_: &T) {}
    let endpoint = Endpoint::Unix("/".into());
    let upstream = Upstream::new(settings(endpoint), 1, &[]);
    is_send(&upstream);
    is_send(&upstream.send(0, client(), None, get()));
}
