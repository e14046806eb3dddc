//! Upstreams with several endpoints, and endpoints that refuse connections for a while.

use super::*;

fn tcp(address: SocketAddr) -> Endpoint {
    Endpoint::Tcp {
        host: address.ip().to_string(),
        port: address.port(),
    }
}

fn settings_of(endpoints: Vec<Endpoint>, retry: Duration) -> Settings {
    Settings {
        endpoints,
        connect_retry: retry,
        host: HostHeader::Client,
        ..settings(tcp(([127, 0, 0, 1], 1).into()))
    }
}

/// An address that refuses connections.
async fn closed_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// Responds to a number of requests on one connection.
fn respond(times: usize) -> Vec<Step> {
    (0..times).flat_map(|_| [Head, reply(OK)]).collect()
}

#[tokio::test]
async fn an_unsent_request_of_any_method_goes_to_another_endpoint() {
    // With this many names, the first endpoint is chosen for some of them, whatever its port.
    let names: Vec<_> = (0..16).map(|number| number.to_string()).collect();
    let uploads = || names.iter().map(|name| Some(name.as_str()));
    let mut script = ScriptedUpstream::start([respond(68)]).await;
    let endpoints = vec![tcp(closed_address().await), tcp(script.address)];
    let upstream = Upstream::new(settings_of(endpoints, Duration::ZERO), 1, &[]);
    for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
        for upload in uploads().chain([None]) {
            let request = request(method.clone(), Body::full(""));
            let response = upstream.send(0, client(), upload, request).await.unwrap();
            assert_eq!(text(response).await, "ok", "{method} {upload:?}");
        }
    }
    assert_eq!(script.pending(), 68);
    assert!(!upstream.endpoints[0].health().is_up() && upstream.endpoints[1].health().is_up());
}

#[tokio::test]
async fn a_repeated_request_is_not_repeated_again_elsewhere() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut other = ScriptedUpstream::start([vec![Head, reply(OK), Head, Close], respond(1)]).await;
    let endpoints = vec![tcp(listener.local_addr().unwrap()), tcp(other.address)];
    // Closes its connection after the second request, and refuses connections from then on.
    let dying = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await.unwrap();
        stream.write_all(OK.as_bytes()).await.unwrap();
        read_head(&mut stream).await.unwrap();
    });
    let upstream = Upstream::new(settings_of(endpoints, Duration::ZERO), 1, &[]);
    for endpoint in &upstream.endpoints {
        let mut request = OutboundRequest::new(0, client(), None, get());
        let response = endpoint.send(&mut request).await.ok().unwrap();
        assert_eq!(text(response).await, "ok");
    }
    let names = (0..).map(|number| number.to_string());
    let first = names.into_iter().find(|name| {
        balance::choose::<EndpointClient>(&upstream.endpoints, EndpointSet::default(), Some(name))
            == Some(0)
    });
    let error = upstream
        .send(0, client(), first.as_deref(), get())
        .await
        .err();
    assert!(
        matches!(error, Some(Error::Closed(_) | Error::Write(_))),
        "{error:?}"
    );
    dying.await.unwrap();
    assert_eq!((other.accepted(), other.pending()), (1, 2));
}

#[tokio::test]
async fn a_request_waits_for_a_restart_but_not_for_an_outage() {
    let address = closed_address().await;
    let retry = Duration::from_millis(400);
    let upstream = Arc::new(Upstream::new(
        settings_of(vec![tcp(address)], retry),
        1,
        &[],
    ));
    let shared = Arc::clone(&upstream);
    let post = || request(Method::POST, Body::empty());
    let waiting =
        tokio::spawn(async move { shared.send(0, client(), None, post()).await.map(|_| ()) });
    // Until its connection was refused.
    while upstream.endpoints[0].health().failing_since().is_none() {
        tokio::task::yield_now().await;
    }
    let listener = TcpListener::bind(address).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    assert!(read_head(&mut stream).await.unwrap().starts_with("POST"));
    stream.write_all(OK.as_bytes()).await.unwrap();
    assert!(waiting.await.unwrap().is_ok());
    assert!(upstream.endpoints[0].health().failing_since().is_none());
    drop((listener, stream));
    let began = Instant::now();
    assert!(upstream.send(0, client(), None, post()).await.is_err());
    assert!(
        began.elapsed() >= retry,
        "the request waits for a second restart as well"
    );
    let again = Instant::now();
    assert!(upstream.send(0, client(), None, post()).await.is_err());
    assert!(
        again.elapsed() < retry,
        "during an outage requests fail immediately"
    );
}

#[tokio::test]
async fn checks_mark_an_endpoint_down_and_up() {
    let (alive, dead) = (ScriptedUpstream::start([]).await, closed_address().await);
    let endpoints = vec![tcp(alive.address), tcp(dead)];
    let upstream = Upstream::new(settings_of(endpoints, Duration::ZERO), 1, &[]);
    let due = |now: Instant| upstream.due_checks(now).collect::<Vec<_>>();
    // The check of the endpoint that is alive is not run: this test is about the other endpoint.
    drop(due(Instant::now()));
    let endpoint = &upstream.endpoints[1];
    let is_up = || endpoint.health().is_up();
    // Once it has responded, three failures in a row are needed.
    endpoint
        .health()
        .record_response(Instant::now() + Duration::from_secs(1));
    for number in 0..3 {
        assert!(is_up(), "after {number} checks");
        check(endpoint).await;
    }
    assert!(!is_up());
    let listener = TcpListener::bind(dead).await.unwrap();
    let answering = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = read_head(&mut stream).await.unwrap();
        let no = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(no.as_bytes()).await.unwrap();
        head
    });
    check(endpoint).await;
    assert!(is_up(), "a registry that asks for a password is alive");
    let expected =
        format!("GET /v2/ HTTP/1.1\r\nhost: {dead}\r\nuser-agent: tidegate-check\r\n\r\n");
    assert_eq!(answering.await.unwrap(), expected);
}

/// Runs the next check, whether it is due or not.
async fn check(endpoint: &Arc<EndpointClient>) {
    let later = Instant::now() + Duration::from_secs(60);
    endpoint
        .due_check(later, true)
        .expect("a check")
        .run()
        .await;
}

#[tokio::test]
async fn the_health_of_an_endpoint_survives_a_change_of_the_settings() {
    let (dead, other) = (closed_address().await, closed_address().await);
    let before = settings_of(vec![tcp(dead)], Duration::ZERO);
    let old = Arc::new(Upstream::new(before.clone(), 1, &[]));
    for _ in 0..3 {
        assert!(old.send(0, client(), None, get()).await.is_err());
    }
    assert!(!old.endpoints[0].health().is_up());
    let mut settings = before;
    settings.endpoints.insert(0, tcp(other));
    let more = Upstream::new(settings.clone(), 1, &[Arc::clone(&old)]);
    assert!(more.endpoints[0].health().is_up());
    assert!(
        Arc::ptr_eq(&more.endpoints[1], &old.endpoints[0]),
        "the same address and settings"
    );
    settings.each.connections = 1;
    let fewer = Upstream::new(settings, 1, &[old]);
    assert!(!Arc::ptr_eq(&fewer.endpoints[1], &more.endpoints[1]));
    assert!(!fewer.endpoints[1].health().is_up());
}
