//! Endpoints: how they are named, and why there is no connection to one.

use super::*;

#[tokio::test]
async fn connecting_has_errors_of_its_own() {
    // Bound and not listening: refused, and nobody else's either.
    let deaf = tokio::net::TcpSocket::new_v4().unwrap();
    deaf.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let port = deaf.local_addr().unwrap().port();
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

/// The kernel drops the SYNs of further clients once the queue of one is full.
fn full_listener() -> socket2::Socket {
    use socket2::{Domain, Socket, Type};
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&any.into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let first = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    first.connect(&address).unwrap();
    // It stays in the queue though its client is gone.
    drop(first);
    listener
}

#[test]
fn endpoints_have_an_authority_and_a_name() {
    let tcp = |host: &str| Endpoint::Tcp {
        host: host.to_owned(),
        port: 5000,
    };
    for (host, authority) in [
        ("127.0.0.1", "127.0.0.1:5000"),
        ("registry.local", "registry.local:5000"),
        ("::1", "[::1]:5000"),
        ("[::1]", "[::1]:5000"),
    ] {
        assert_eq!(tcp(host).authority(), authority);
        assert_eq!(tcp(host).to_string(), format!("http://{authority}"));
    }
    let tls = Endpoint::Tls {
        host: "::1".to_owned(),
        port: 443,
    };
    assert_eq!(
        (tls.authority().as_str(), tls.to_string().as_str()),
        ("[::1]:443", "https://[::1]:443")
    );
    let unix = Endpoint::Unix("/run/r.sock".into());
    assert_eq!(
        (unix.authority().as_str(), unix.to_string().as_str()),
        ("localhost", "unix:/run/r.sock")
    );
}

#[test]
fn a_request_can_be_moved_between_threads() {
    fn is_send<T: Send>(_: &T) {}
    let endpoint = Endpoint::Unix("/".into());
    let upstream = Upstream::new(settings(endpoint), 1, &[]);
    is_send(&upstream);
    is_send(&upstream.send(0, client(), None, get()));
}
