//! Several endpoints, and one that is away for a while.

use super::*;

fn tcp(address: SocketAddr) -> Endpoint {
    Endpoint::Tcp {
        host: address.ip().to_string(),
        port: address.port(),
    }
}

fn of(endpoints: Vec<Endpoint>, retry: Duration) -> Settings {
    Settings {
        endpoints,
        connect_retry: retry,
        ..settings(tcp(([127, 0, 0, 1], 1).into()))
    }
}

async fn nowhere() -> SocketAddr {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    gone.local_addr().unwrap()
}

/// Answers so many requests over one connection.
fn yes(times: usize) -> Vec<Step> {
    (0..times).flat_map(|_| [Head, say(OK)]).collect()
}

#[tokio::test]
async fn what_was_not_sent_goes_to_another_endpoint_whatever_it_is() {
    // So many names that the first endpoint has some of them, whatever its port.
    let names: Vec<_> = (0..16).map(|number| number.to_string()).collect();
    let uploads = || names.iter().map(|name| Some(name.as_str()));
    let mut script = Script::start([yes(68)]).await;
    let endpoints = vec![tcp(nowhere().await), tcp(script.address)];
    let upstream = Upstream::new(of(endpoints, Duration::ZERO), 1, &[]);
    for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
        for upload in uploads().chain([None]) {
            let request = request(method.clone(), Body::full(""));
            let answer = upstream.send(0, client(), upload, request).await.unwrap();
            assert_eq!(text(answer).await, "ok", "{method} {upload:?}");
        }
    }
    assert_eq!(script.pending(), 68);
    assert!(!upstream.nodes[0].health().is_up() && upstream.nodes[1].health().is_up());
}

#[tokio::test]
async fn a_repeated_request_is_not_repeated_again_elsewhere() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut other = Script::start([vec![Head, say(OK), Head, Close], yes(1)]).await;
    let endpoints = vec![tcp(listener.local_addr().unwrap()), tcp(other.address)];
    // Dies at its second request, and refuses connections from then on.
    let dying = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await.unwrap();
        stream.write_all(OK.as_bytes()).await.unwrap();
        read_head(&mut stream).await.unwrap();
    });
    let upstream = Upstream::new(of(endpoints, Duration::ZERO), 1, &[]);
    for node in &upstream.nodes {
        let (parts, body) = get().into_parts();
        let mut request = OutboundRequest {
            parts,
            body,
            may_repeat: true,
            has_others: false,
        };
        let answer = node.send(0, client(), &mut request).await.ok().unwrap();
        assert_eq!(text(answer).await, "ok");
    }
    let names = (0..).map(|number| number.to_string());
    let first = names.into_iter().find(|name| {
        balance::choose::<EndpointNode>(&upstream.nodes, EndpointSet::default(), Some(name))
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
async fn a_restart_is_waited_for_and_an_outage_is_not() {
    let address = nowhere().await;
    let retry = Duration::from_millis(400);
    let upstream = Arc::new(Upstream::new(of(vec![tcp(address)], retry), 1, &[]));
    let asked = Arc::clone(&upstream);
    let post = || request(Method::POST, Body::empty());
    let waiting =
        tokio::spawn(async move { asked.send(0, client(), None, post()).await.map(|_| ()) });
    // Until it has been refused.
    while upstream.nodes[0].health().failing_since().is_none() {
        tokio::task::yield_now().await;
    }
    let listener = TcpListener::bind(address).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    assert!(read_head(&mut stream).await.unwrap().starts_with("POST"));
    stream.write_all(OK.as_bytes()).await.unwrap();
    assert!(waiting.await.unwrap().is_ok());
    assert!(upstream.nodes[0].health().failing_since().is_none());
    drop((listener, stream));
    let began = Instant::now();
    assert!(upstream.send(0, client(), None, post()).await.is_err());
    assert!(
        began.elapsed() >= retry,
        "a second restart is waited for as well"
    );
    let again = Instant::now();
    assert!(upstream.send(0, client(), None, post()).await.is_err());
    assert!(again.elapsed() < retry, "what lasts is told at once");
}

#[tokio::test]
async fn checks_find_out_and_bring_back() {
    let (alive, dead) = (Script::start([]).await, nowhere().await);
    let endpoints = vec![tcp(alive.address), tcp(dead)];
    let upstream = Upstream::new(of(endpoints, Duration::ZERO), 1, &[]);
    let due = |now: Instant| upstream.due_checks(now).collect::<Vec<_>>();
    // The one that is alive gets no answer here: what it does is no matter of this test.
    drop(due(Instant::now()));
    let node = &upstream.nodes[1];
    let is_up = || node.health().is_up();
    // Once it has responded, three failures in a row are needed.
    node.health()
        .answered(Instant::now() + Duration::from_secs(1));
    for number in 0..3 {
        assert!(is_up(), "after {number} checks");
        check(node).await;
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
    check(node).await;
    assert!(is_up(), "a registry that asks for a password is there");
    let asked = format!("GET /v2/ HTTP/1.1\r\nhost: {dead}\r\nuser-agent: tidegate-check\r\n\r\n");
    assert_eq!(answering.await.unwrap(), asked);
}

/// The next check, due or not.
async fn check(node: &Arc<EndpointNode>) {
    let later = Instant::now() + Duration::from_secs(60);
    node.due_check(later, true).expect("a check").run().await;
}

#[tokio::test]
async fn what_is_known_of_an_endpoint_outlives_a_change_of_the_settings() {
    let (dead, other) = (nowhere().await, nowhere().await);
    let before = of(vec![tcp(dead)], Duration::ZERO);
    let old = Arc::new(Upstream::new(before.clone(), 1, &[]));
    for _ in 0..3 {
        assert!(old.send(0, client(), None, get()).await.is_err());
    }
    assert!(!old.nodes[0].health().is_up());
    let mut settings = before;
    settings.endpoints.insert(0, tcp(other));
    let more = Upstream::new(settings.clone(), 1, &[Arc::clone(&old)]);
    assert!(more.nodes[0].health().is_up());
    assert!(
        Arc::ptr_eq(&more.nodes[1], &old.nodes[0]),
        "used in the same way"
    );
    settings.each.connections = 1;
    let fewer = Upstream::new(settings, 1, &[old]);
    assert!(!Arc::ptr_eq(&fewer.nodes[1], &more.nodes[1]));
    assert!(!fewer.nodes[1].health().is_up());
}

#[tokio::test]
async fn a_connection_to_a_name_is_made_anew_now_and_then() {
    for (host, accepted) in [("localhost", 2), ("127.0.0.1", 1)] {
        let script = Script::start([yes(3), yes(3)]).await;
        let port = script.address.port();
        let host = host.to_owned();
        let mut settings = of(vec![Endpoint::Tcp { host, port }], Duration::ZERO);
        settings.each.idle = Duration::from_secs(3600);
        let upstream = Upstream::new(settings, 1, &[]);
        for _ in 0..3 {
            let answer = upstream.send(0, client(), None, get()).await.unwrap();
            assert_eq!(text(answer).await, "ok");
            tokio::time::pause();
            tokio::time::advance(Duration::from_secs(61)).await;
            tokio::time::resume();
        }
        assert_eq!(
            script.accepted(),
            accepted,
            "{:?}",
            upstream.settings.endpoints
        );
    }
}
