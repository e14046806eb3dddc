//! Connections: made, kept, looked at, and used again.

use super::*;

#[tokio::test]
async fn a_connection_is_used_again_by_its_own_worker_only() {
    let mut script = Script::start([
        vec![Head, say(OK), Head, say(OK)],
        vec![Head, say(OK)],
        vec![Head, say(OK)],
    ])
    .await;
    let upstream = script.upstream();
    for (worker, accepted) in [(0, 1), (0, 1), (1, 2), (7, 3)] {
        let answer = upstream.send(worker, client(), None, get()).await.unwrap();
        assert_eq!(text(answer).await, "ok");
        assert_eq!(script.accepted(), accepted, "worker {worker}");
        let head = script.next().await;
        assert_eq!(head, "GET /v2/ HTTP/1.1\r\nhost: reg.example\r\n\r\n");
    }
}

#[tokio::test]
async fn the_connection_that_was_used_last_is_used_next() {
    // Longer than what is read along with a head, so that a connection is busy until its answer has been read.
    const LENGTH: usize = 300_000;
    let answer = |name: &str| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
        say(head + &name.repeat(LENGTH))
    };
    let script = ["a", "b"].map(|name| vec![Head, answer(name), Head, answer(name)]);
    let script = Script::start(script).await;
    let upstream = script.upstream();
    let mut names = String::new();
    for _ in 0..2 {
        let first = upstream.send(0, client(), None, get()).await.unwrap();
        let second = upstream.send(0, client(), None, get()).await.unwrap();
        for answer in [first, second] {
            names.extend(text(answer).await.chars().next());
        }
    }
    assert_eq!(names, "abba", "b became idle after a");
    assert_eq!(script.accepted(), 2);
}

#[tokio::test]
async fn a_unix_socket_works_as_tcp_does() {
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
        assert_eq!(
            text(upstream.send(0, client(), None, get()).await.unwrap()).await,
            "ok"
        );
    }
}

#[tokio::test]
async fn a_connection_that_ended_while_idle_is_not_used() {
    // Closed, and with bytes nobody asked for: the second request of any method goes elsewhere.
    for last in [Close, say("HTTP/1.1 408 Timeout\r\n\r\n")] {
        let go = Arc::default();
        let first = vec![Head, say(OK), Wait(Arc::clone(&go)), last];
        let mut script = Script::start([first, vec![Head, say(OK)]]).await;
        let upstream = script.upstream();
        assert_eq!(
            text(upstream.send(0, client(), None, get()).await.unwrap()).await,
            "ok"
        );
        go.notify_one();
        // The connection's task runs to its last step before this one goes on.
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
async fn a_request_that_cannot_be_repeated_sees_an_end_the_reactor_has_not_seen() {
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
    assert_eq!(
        text(upstream.send(0, client(), None, get()).await.unwrap()).await,
        "ok"
    );
    drop(close);
    // Blocks this thread, so that its reactor gets no turn between the close and the request.
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
    let first = vec![Head, say(OK), Head, Close];
    let head_only = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
    for (method, answer) in [(Method::GET, OK), (Method::HEAD, head_only)] {
        let mut script = Script::start([first.clone(), vec![Head, say(answer)]]).await;
        let upstream = script.upstream();
        assert_eq!(
            text(upstream.send(0, client(), None, get()).await.unwrap()).await,
            "ok"
        );
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
        let mut script = Script::start([first.clone(), vec![Head, say(OK)]]).await;
        let upstream = script.upstream();
        assert_eq!(
            text(upstream.send(0, client(), None, get()).await.unwrap()).await,
            "ok"
        );
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

/// The body of a response to HEAD, say, which comes when the next request is already out.
#[tokio::test]
async fn bytes_that_are_no_status_line_are_not_the_answer_to_a_get_or_head() {
    let late = [
        "{\"late\":1}",
        "\r\n",
        "x",
        "HTTX",
        "stray\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    ];
    for late in late {
        let first = vec![Head, say(OK), Head, say(late.to_owned() + OK)];
        for method in [Method::GET, Method::HEAD] {
            let mut script = Script::start([first.clone(), vec![Head, say(OK)]]).await;
            let upstream = script.upstream();
            assert_eq!(
                text(upstream.send(0, client(), None, get()).await.unwrap()).await,
                "ok"
            );
            let again = request(method, Body::empty());
            let again = upstream.send(0, client(), None, again).await.unwrap();
            assert_eq!(again.status(), 200, "{late:?}");
            assert_eq!((script.accepted(), script.pending()), (2, 3), "{late:?}");
        }
        // What may do something is never sent twice.
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let mut script = Script::start([first.clone(), vec![Head, say(OK)]]).await;
            let upstream = script.upstream();
            assert_eq!(
                text(upstream.send(0, client(), None, get()).await.unwrap()).await,
                "ok"
            );
            let again = request(method.clone(), Body::empty());
            let error = upstream.send(0, client(), None, again).await.err();
            assert!(
                matches!(error, Some(Error::Malformed(_))),
                "{method} {late:?}: {error:?}"
            );
            assert_eq!((script.accepted(), script.pending()), (1, 2), "{method}");
        }
    }
    // On a fresh connection there was no answer before: this is what the upstream says.
    let mut fresh = Script::start([vec![Head, say("SSH-2.0")], vec![Head, say(OK)]]).await;
    let error = fresh.upstream().send(0, client(), None, get()).await.err();
    assert!(matches!(error, Some(Error::Malformed(_))), "{error:?}");
    assert_eq!((fresh.accepted(), fresh.pending()), (1, 1));
    // And so is a head that is begun, whatever becomes of it.
    let begun = vec![Head, say(OK), Head, say("HTTP/1.1 2xx\r\n\r\n")];
    let mut script = Script::start([begun, vec![Head, say(OK)]]).await;
    let upstream = script.upstream();
    assert_eq!(
        text(upstream.send(0, client(), None, get()).await.unwrap()).await,
        "ok"
    );
    let error = upstream.send(0, client(), None, get()).await.err();
    assert!(matches!(error, Some(Error::Malformed(_))), "{error:?}");
    assert_eq!((script.accepted(), script.pending()), (1, 2));
    // Once, not twice.
    let twice = || vec![Head, say(OK), Head, say("x")];
    let mut script = Script::start([twice(), vec![Head, say("y")], vec![Head, say(OK)]]).await;
    let upstream = script.upstream();
    assert_eq!(
        text(upstream.send(0, client(), None, get()).await.unwrap()).await,
        "ok"
    );
    let error = upstream.send(0, client(), None, get()).await.err();
    assert!(matches!(error, Some(Error::Malformed(_))), "{error:?}");
    assert_eq!((script.accepted(), script.pending()), (2, 3));
}

#[tokio::test]
async fn nothing_is_retried_on_a_fresh_connection_or_after_a_byte() {
    let mut fresh = Script::start([vec![Head, Close], vec![Head, say(OK)]]).await;
    let error = fresh.upstream().send(0, client(), None, get()).await.err();
    assert!(matches!(error, Some(Error::Closed(_))));
    assert_eq!((fresh.accepted(), fresh.pending()), (1, 1));

    let begun = vec![Head, say(OK), Head, say("H"), Close];
    let mut script = Script::start([begun, vec![Head, say(OK)]]).await;
    let upstream = script.upstream();
    assert_eq!(
        text(upstream.send(0, client(), None, get()).await.unwrap()).await,
        "ok"
    );
    let error = upstream.send(0, client(), None, get()).await.err();
    assert!(matches!(error, Some(Error::Closed(_))));
    assert_eq!((script.accepted(), script.pending()), (1, 2));
}

#[tokio::test]
async fn nothing_is_retried_twice_or_after_a_timeout() {
    let mut script = Script::start([vec![Head, say(OK), Head, Close], vec![Head, Close]]).await;
    let upstream = script.upstream();
    assert_eq!(
        text(upstream.send(0, client(), None, get()).await.unwrap()).await,
        "ok"
    );
    let error = upstream.send(0, client(), None, get()).await.err();
    assert!(matches!(error, Some(Error::Closed(_))));
    assert_eq!((script.accepted(), script.pending()), (2, 3));

    let mut silent = Script::start([vec![Head, say(OK), Head]]).await;
    let mut settings = silent.settings();
    settings.each.read_timeout = Duration::from_millis(200);
    let upstream = Upstream::new(settings, 1, &[]);
    assert_eq!(
        text(upstream.send(0, client(), None, get()).await.unwrap()).await,
        "ok"
    );
    let error = upstream.send(0, client(), None, get()).await.err();
    assert!(matches!(error, Some(Error::Silent(_))));
    assert_eq!((silent.accepted(), silent.pending()), (1, 2));
}

#[tokio::test]
async fn idle_connections_grow_old() {
    let mut script = Script::start([vec![Head, say(OK), Drain], vec![Head, say(OK), Drain]]).await;
    let mut settings = script.settings();
    settings.each.idle = Duration::ZERO;
    let upstream = Upstream::new(settings, 1, &[]);
    assert_eq!(
        text(upstream.send(0, client(), None, get()).await.unwrap()).await,
        "ok"
    );
    assert_eq!(
        text(upstream.send(0, client(), None, get()).await.unwrap()).await,
        "ok"
    );
    assert_eq!(script.accepted(), 2);
    upstream.close_idle(Instant::now() + Duration::from_secs(1));
    // Two heads, and the ends of both connections.
    for _ in 0..4 {
        script.next().await;
    }
}

#[tokio::test]
async fn a_name_is_resolved_anew_however_busy_its_connection_is() {
    let yes = || vec![Head, say(OK), Head, say(OK), Head, say(OK)];
    for (host, connections) in [("127.0.0.1", 1), ("localhost", 2)] {
        let script = Script::start([yes(), yes()]).await;
        let mut settings = settings(Endpoint::Tcp {
            host: host.to_owned(),
            port: script.address.port(),
        });
        settings.each.idle = Duration::from_secs(3600);
        let upstream = Upstream::new(settings, 1, &[]);
        for minutes in [1, 0, 0] {
            let answer = upstream.send(0, client(), None, get()).await.unwrap();
            assert_eq!(text(answer).await, "ok");
            tokio::time::pause();
            tokio::time::advance(Duration::from_secs(61 * minutes)).await;
            tokio::time::resume();
        }
        assert_eq!(script.accepted(), connections, "{host}");
    }
}

#[tokio::test]
async fn a_worker_keeps_its_share_of_idle_connections() {
    let keep = || vec![Head, say(OK), Head, say(OK)];
    let script = Script::start([keep(), keep(), keep(), keep()]).await;
    let mut settings = script.settings();
    settings.each.connections = 3;
    let upstream = Upstream::new(settings, 2, &[]);
    let three = || async {
        // Of one network they would not be sent at once.
        let send = |client| upstream.send(0, network(client), None, get());
        let (a, b, c) = tokio::join!(send("192.0.2.1"), send("192.0.2.2"), send("192.0.2.3"));
        for answer in [a, b, c] {
            assert_eq!(text(answer.unwrap()).await, "ok");
        }
    };
    three().await;
    assert_eq!(script.accepted(), 3);
    // Of three connections for two workers one keeps two.
    three().await;
    assert_eq!(script.accepted(), 4);
}
