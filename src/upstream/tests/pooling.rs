//! Connections: opened, kept idle, checked, reused and retried.

use super::*;

#[tokio::test]
async fn a_connection_is_used_again_by_its_own_worker_only() {
    let mut script = ScriptedUpstream::start([
        vec![Head, reply(OK), Head, reply(OK)],
        vec![Head, reply(OK)],
        vec![Head, reply(OK)],
    ])
    .await;
    let upstream = script.upstream();
    for (worker, accepted) in [(0, 1), (0, 1), (1, 2), (7, 3)] {
        let response = upstream.send(worker, client(), None, get()).await.unwrap();
        assert_eq!(text(response).await, "ok");
        assert_eq!(script.accepted(), accepted, "worker {worker}");
        let head = script.next().await;
        assert_eq!(head, "GET /v2/ HTTP/1.1\r\nhost: reg.example\r\n\r\n");
    }
}

#[tokio::test]
async fn the_connection_that_was_used_last_is_used_next() {
    // Larger than what is read together with a head, so that a connection is busy until its response is read.
    const LENGTH: usize = 300_000;
    let response = |name: &str| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
        reply(head + &name.repeat(LENGTH))
    };
    let script = ["a", "b"].map(|name| vec![Head, response(name), Head, response(name)]);
    let script = ScriptedUpstream::start(script).await;
    let upstream = script.upstream();
    let mut names = String::new();
    for _ in 0..2 {
        let first = upstream.send(0, client(), None, get()).await.unwrap();
        let second = upstream.send(0, client(), None, get()).await.unwrap();
        for response in [first, second] {
            names.extend(text(response).await.chars().next());
        }
    }
    assert_eq!(names, "abba", "b became idle after a");
    assert_eq!(script.accepted(), 2);
}

#[tokio::test]
async fn a_unix_socket_works_like_tcp() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        for _ in 0..2 {
            let head = read_head(&mut stream).await.unwrap();
            assert!(head.starts_with("GET /v2/ "));
            stream.write_all(OK.as_bytes()).await.unwrap();
        }
    });
    let upstream = Upstream::new(settings(Endpoint::Unix(path)), 1, &[]);
    for _ in 0..2 {
        assert_get_ok(&upstream).await;
    }
}

#[tokio::test]
async fn a_connection_that_ended_while_idle_is_not_used() {
    // Closed, and with bytes that are no response: the second request of any method uses another connection.
    for last in [Close, reply("HTTP/1.1 408 Timeout\r\n\r\n")] {
        let go = Arc::default();
        let first = vec![Head, reply(OK), Wait(Arc::clone(&go)), last];
        let mut script = ScriptedUpstream::start([first, vec![Head, reply(OK)]]).await;
        let upstream = script.upstream();
        assert_get_ok(&upstream).await;
        go.notify_one();
        // The task of the connection runs to its last step before this one continues.
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        let post = request(Method::POST, Body::empty());
        assert_eq!(
            text(upstream.send(0, client(), None, post).await.unwrap()).await,
            "ok"
        );
        assert_eq!((script.accepted(), script.pending()), (2, 2));
    }
}

#[tokio::test]
async fn a_request_that_cannot_be_repeated_asks_the_kernel_for_the_end_of_the_connection() {
    use std::io::{Read as _, Write as _};
    let listener = Arc::new(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let port = listener.local_addr().unwrap().port();
    let serve = || {
        let listener = Arc::clone(&listener);
        let (close, closing) = std::sync::mpsc::channel::<()>();
        let served = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
            stream.write_all(OK.as_bytes()).unwrap();
            let _ = closing.recv();
        });
        (close, served)
    };
    let host = "127.0.0.1".to_owned();
    let upstream = Upstream::new(settings(Endpoint::Tcp { host, port }), 1, &[]);
    let (close, served) = serve();
    assert_get_ok(&upstream).await;
    drop(close);
    // Blocks this thread, so that its reactor is not polled between the close and the request.
    served.join().unwrap();
    let (_close, _served) = serve();
    let post = request(Method::POST, Body::empty());
    assert_eq!(
        text(upstream.send(0, client(), None, post).await.unwrap()).await,
        "ok"
    );
}

#[tokio::test]
async fn a_reused_connection_that_dies_is_retried_for_get_and_head_only() {
    let first = vec![Head, reply(OK), Head, Close];
    let head_only = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
    for (method, response) in [(Method::GET, OK), (Method::HEAD, head_only)] {
        let mut script =
            ScriptedUpstream::start([first.clone(), vec![Head, reply(response)]]).await;
        let upstream = script.upstream();
        assert_get_ok(&upstream).await;
        let again = upstream
            .send(0, client(), None, request(method, Body::empty()))
            .await;
        assert_eq!(again.unwrap().status(), 200);
        assert_eq!((script.accepted(), script.pending()), (2, 3));
    }
    let others = [
        (Method::POST, Body::empty()),
        (Method::PATCH, Body::full("abc")),
        (Method::PUT, Body::empty()),
        (Method::DELETE, Body::empty()),
        (Method::GET, Body::full("abc")),
    ];
    for (method, body) in others {
        let mut script = ScriptedUpstream::start([first.clone(), vec![Head, reply(OK)]]).await;
        let upstream = script.upstream();
        assert_get_ok(&upstream).await;
        let error = upstream
            .send(0, client(), None, request(method.clone(), body))
            .await
            .err();
        assert!(
            matches!(error, Some(Error::Closed(_) | Error::Write(_))),
            "{method}: {error:?}"
        );
        assert_eq!((script.accepted(), script.pending()), (1, 2), "{method}");
    }
}

/// For example, the body of a response to HEAD that arrives after the next request was sent.
#[tokio::test]
async fn a_get_or_head_is_repeated_if_the_first_bytes_are_no_status_line() {
    let late = [
        "{\"late\":1}",
        "\r\n",
        "x",
        "HTTX",
        "stray\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    ];
    for late in late {
        let first = vec![Head, reply(OK), Head, reply(late.to_owned() + OK)];
        for method in [Method::GET, Method::HEAD] {
            let mut script = ScriptedUpstream::start([first.clone(), vec![Head, reply(OK)]]).await;
            let upstream = script.upstream();
            assert_get_ok(&upstream).await;
            let again = request(method, Body::empty());
            let again = upstream.send(0, client(), None, again).await.unwrap();
            assert_eq!(again.status(), 200, "{late:?}");
            assert_eq!((script.accepted(), script.pending()), (2, 3), "{late:?}");
        }
        // A request with side effects is never sent twice.
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let mut script = ScriptedUpstream::start([first.clone(), vec![Head, reply(OK)]]).await;
            let upstream = script.upstream();
            assert_get_ok(&upstream).await;
            let again = request(method.clone(), Body::empty());
            let error = upstream.send(0, client(), None, again).await.err();
            assert!(
                matches!(error, Some(Error::Malformed(_))),
                "{method} {late:?}: {error:?}"
            );
            assert_eq!((script.accepted(), script.pending()), (1, 2), "{method}");
        }
    }
    // On a new connection there was no earlier response, so this is the response of the upstream.
    let mut fresh =
        ScriptedUpstream::start([vec![Head, reply("SSH-2.0")], vec![Head, reply(OK)]]).await;
    let error = fresh.upstream().send(0, client(), None, get()).await.err();
    assert!(matches!(error, Some(Error::Malformed(_))), "{error:?}");
    assert_eq!((fresh.accepted(), fresh.pending()), (1, 1));
    // A head that has partial is the response, even if it turns out malformed.
    let partial = vec![Head, reply(OK), Head, reply("HTTP/1.1 2xx\r\n\r\n")];
    let mut script = ScriptedUpstream::start([partial, vec![Head, reply(OK)]]).await;
    let upstream = script.upstream();
    assert_get_ok(&upstream).await;
    let error = upstream.send(0, client(), None, get()).await.err();
    assert!(matches!(error, Some(Error::Malformed(_))), "{error:?}");
    assert_eq!((script.accepted(), script.pending()), (1, 2));
    // The request is repeated only once.
    let twice = || vec![Head, reply(OK), Head, reply("x")];
    let mut script =
        ScriptedUpstream::start([twice(), vec![Head, reply("y")], vec![Head, reply(OK)]]).await;
    let upstream = script.upstream();
    assert_get_ok(&upstream).await;
    let error = upstream.send(0, client(), None, get()).await.err();
    assert!(matches!(error, Some(Error::Malformed(_))), "{error:?}");
    assert_eq!((script.accepted(), script.pending()), (2, 3));
}

#[tokio::test]
async fn nothing_is_retried_on_a_new_connection_or_after_the_first_byte() {
    let mut fresh = ScriptedUpstream::start([vec![Head, Close], vec![Head, reply(OK)]]).await;
    let error = fresh.upstream().send(0, client(), None, get()).await.err();
    assert!(matches!(error, Some(Error::Closed(_))));
    assert_eq!((fresh.accepted(), fresh.pending()), (1, 1));

    let partial = vec![Head, reply(OK), Head, reply("H"), Close];
    let mut script = ScriptedUpstream::start([partial, vec![Head, reply(OK)]]).await;
    let upstream = script.upstream();
    assert_get_ok(&upstream).await;
    let error = upstream.send(0, client(), None, get()).await.err();
    assert!(matches!(error, Some(Error::Closed(_))));
    assert_eq!((script.accepted(), script.pending()), (1, 2));
}

#[tokio::test]
async fn nothing_is_retried_twice_or_after_a_timeout() {
    let mut script =
        ScriptedUpstream::start([vec![Head, reply(OK), Head, Close], vec![Head, Close]]).await;
    let upstream = script.upstream();
    assert_get_ok(&upstream).await;
    let error = upstream.send(0, client(), None, get()).await.err();
    assert!(matches!(error, Some(Error::Closed(_))));
    assert_eq!((script.accepted(), script.pending()), (2, 3));

    let mut silent = ScriptedUpstream::start([vec![Head, reply(OK), Head]]).await;
    let mut settings = silent.settings();
    settings.each.read_timeout = Duration::from_millis(200);
    let upstream = Upstream::new(settings, 1, &[]);
    assert_get_ok(&upstream).await;
    let error = upstream.send(0, client(), None, get()).await.err();
    assert!(matches!(error, Some(Error::Silent(_))));
    assert_eq!((silent.accepted(), silent.pending()), (1, 2));
}

#[tokio::test]
async fn connections_that_are_idle_for_too_long_are_closed() {
    let mut script =
        ScriptedUpstream::start([vec![Head, reply(OK), Drain], vec![Head, reply(OK), Drain]]).await;
    let mut settings = script.settings();
    settings.each.idle = Duration::ZERO;
    let upstream = Upstream::new(settings, 1, &[]);
    assert_get_ok(&upstream).await;
    assert_get_ok(&upstream).await;
    assert_eq!(script.accepted(), 2);
    upstream.close_idle(Instant::now() + Duration::from_secs(1));
    // Two heads, and the ends of both connections.
    for _ in 0..4 {
        script.next().await;
    }
}

#[tokio::test]
async fn a_name_is_resolved_again_however_busy_its_connection_is() {
    let respond = || vec![Head, reply(OK), Head, reply(OK), Head, reply(OK)];
    for (host, connections) in [("127.0.0.1", 1), ("localhost", 2)] {
        let script = ScriptedUpstream::start([respond(), respond()]).await;
        let mut settings = settings(Endpoint::Tcp {
            host: host.to_owned(),
            port: script.address.port(),
        });
        settings.each.idle = Duration::from_secs(3600);
        let upstream = Upstream::new(settings, 1, &[]);
        for minutes in [1, 0, 0] {
            assert_get_ok(&upstream).await;
            tokio::time::pause();
            tokio::time::advance(Duration::from_secs(61 * minutes)).await;
            tokio::time::resume();
        }
        assert_eq!(script.accepted(), connections, "{host}");
    }
}

#[tokio::test]
async fn a_worker_keeps_its_share_of_idle_connections() {
    let keep = || vec![Head, reply(OK), Head, reply(OK)];
    let script = ScriptedUpstream::start([keep(), keep(), keep(), keep()]).await;
    let mut settings = script.settings();
    settings.each.connections = 3;
    let upstream = Upstream::new(settings, 2, &[]);
    let three = || async {
        // Requests of a single network would not be sent at the same time.
        let send = |client| upstream.send(0, network(client), None, get());
        let (a, b, c) = tokio::join!(send("192.0.2.1"), send("192.0.2.2"), send("192.0.2.3"));
        for response in [a, b, c] {
            assert_eq!(text(response.unwrap()).await, "ok");
        }
    };
    three().await;
    assert_eq!(script.accepted(), 3);
    // With three connections and two workers, a worker keeps two.
    three().await;
    assert_eq!(script.accepted(), 4);
}
