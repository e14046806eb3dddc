//! The limit on active requests and its queue, with real connections.

use super::*;

#[tokio::test]
async fn more_requests_than_connections_are_queued_or_rejected() {
    let go = Arc::new(tokio::sync::Notify::new());
    let first = vec![Head, Wait(Arc::clone(&go)), reply(OK), Head, reply(OK)];
    let mut script = ScriptedUpstream::start([first]).await;
    let mut settings = script.settings();
    (settings.each.connections, settings.each.queue) = (1, 1);
    let upstream = Arc::new(Upstream::new(settings, 1, &[]));
    let send = || {
        let upstream = Arc::clone(&upstream);
        tokio::spawn(
            async move { text(upstream.send(0, client(), None, get()).await.unwrap()).await },
        )
    };
    let busy = send();
    script.next().await;
    let queued = send();
    tokio::task::yield_now().await;
    // The only permit is in use and the queue is full.
    assert!(matches!(
        upstream.send(0, client(), None, get()).await.err(),
        Some(Error::Busy)
    ));
    go.notify_one();
    assert_eq!(busy.await.unwrap(), "ok");
    assert_eq!(queued.await.unwrap(), "ok");
    assert_eq!(script.accepted(), 1);
}

#[tokio::test]
async fn a_queued_request_times_out_and_a_dropped_one_leaves_the_queue() {
    let mut script = ScriptedUpstream::start([vec![Head]]).await;
    let mut settings = script.settings();
    (settings.each.connections, settings.each.queue) = (1, 1);
    settings.each.queue_wait = Duration::from_millis(10);
    let upstream = Arc::new(Upstream::new(settings, 1, &[]));
    let held = Arc::clone(&upstream);
    let held = tokio::spawn(async move { held.send(0, client(), None, get()).await.is_ok() });
    script.next().await;
    for _ in 0..3 {
        let error = upstream.send(0, client(), None, get()).await.err();
        assert!(matches!(error, Some(Error::Busy)));
        let mut dropped = Box::pin(upstream.send(0, client(), None, get()));
        assert!(
            std::future::poll_fn(|cx| Poll::Ready(dropped.as_mut().poll(cx).is_pending())).await
        );
    }
    held.abort();
}

#[tokio::test]
async fn a_permit_is_released_however_a_request_ends() {
    let partial = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok";
    let mut script = ScriptedUpstream::start([
        vec![Head, Close],
        vec![Head, reply("garbage"), Close],
        vec![Head, reply(partial), Drain],
        vec![Head, reply(OK)],
    ])
    .await;
    let mut settings = script.settings();
    (settings.each.connections, settings.each.queue) = (1, 0);
    let upstream = Upstream::new(settings, 1, &[]);
    assert!(matches!(
        upstream.send(0, client(), None, get()).await.err(),
        Some(Error::Closed(_))
    ));
    assert!(matches!(
        upstream.send(0, client(), None, get()).await.err(),
        Some(Error::Malformed(_))
    ));
    drop(upstream.send(0, client(), None, get()).await.unwrap());
    assert_get_ok(&upstream).await;
    assert_eq!(script.accepted(), 4);
    assert_eq!(script.next().await.lines().count(), 3);
}

const FIRST: &str = "192.0.2.1";
const SECOND: &str = "192.0.2.2";
const THIRD: &str = "192.0.2.3";

/// Advances the clock of tokio, but not the sockets.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn an_unread_response_gives_up_its_permit_and_continues() {
    let go = Arc::new(tokio::sync::Notify::new());
    let part = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok";
    let slow = vec![Head, reply(part), Wait(Arc::clone(&go)), reply("ok")];
    let script = ScriptedUpstream::start([slow, vec![Head, reply(OK), Head, reply(OK)]]).await;
    let mut settings = script.settings();
    settings.each.connections = 1;
    let upstream = Upstream::new(settings, 1, &[]);
    let send = |client| upstream.send(0, network(client), None, get());
    let unread = send(FIRST).await.unwrap();
    pass(Duration::from_secs(2)).await;
    assert_eq!(text(send(SECOND).await.unwrap()).await, "ok");
    go.notify_one();
    assert_eq!(text(unread).await, "okok", "the response is complete");
    // One idle connection is kept, although two were open.
    assert_eq!(text(send(FIRST).await.unwrap()).await, "ok");
    assert_eq!(script.accepted(), 2);
    assert_eq!(upstream.statuses().next().unwrap().busy, 0);
}

#[tokio::test]
async fn the_longest_unread_response_is_closed_if_too_many_are_unread() {
    let part = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok";
    let unread = || vec![Head, reply(part), Drain];
    let mut script = ScriptedUpstream::start([unread(), unread(), vec![Head, reply(OK)]]).await;
    let mut settings = script.settings();
    settings.each.connections = 1;
    let upstream = Upstream::new(settings, 1, &[]);
    let send = |client| upstream.send(0, network(client), None, get());
    let first = send(FIRST).await.unwrap();
    pass(Duration::from_secs(2)).await;
    let second = send(SECOND).await.unwrap();
    pass(Duration::from_secs(6)).await;
    assert_eq!(text(send(THIRD).await.unwrap()).await, "ok");
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(script.next().await);
    }
    let requests = seen.iter().filter(|seen| seen.starts_with("GET "));
    assert_eq!(requests.count(), 3);
    assert!(
        seen.contains(&String::new()),
        "the connection is closed immediately"
    );
    let mut body = first.into_body();
    let error = body.frame().await.unwrap().unwrap_err();
    assert!(matches!(error, body::Error::Displaced), "{error}");
    assert!(body.frame().await.is_none());
    drop((body, second));
    assert_eq!(upstream.statuses().next().unwrap().busy, 0);
}

#[tokio::test]
async fn an_upload_that_its_client_does_not_send_is_displaced() {
    let mut script = ScriptedUpstream::start([
        vec![Head, Drain],
        vec![Head, Drain],
        vec![Head, reply(OK)],
        vec![Head, reply(OK)],
    ])
    .await;
    let mut settings = script.settings();
    settings.each.connections = 1;
    let upstream = Arc::new(Upstream::new(settings, 1, &[]));
    let upload = |client| {
        let (feed, body) = ChannelBody::channel();
        let upstream = Arc::clone(&upstream);
        let request = request(Method::PATCH, body);
        let sending = async move { upstream.send(0, network(client), None, request).await.err() };
        (feed, tokio::spawn(sending))
    };
    let (first_feed, first) = upload(FIRST);
    script.next().await;
    // Single bytes are no progress.
    pass(Duration::from_millis(600)).await;
    first_feed.send(Ok("x".into())).await.unwrap();
    tokio::task::yield_now().await;
    pass(Duration::from_millis(600)).await;
    let (second_feed, second) = upload(SECOND);
    script.next().await;
    pass(Duration::from_secs(6)).await;
    let third = upstream.send(0, network(THIRD), None, get());
    assert_eq!(text(third.await.unwrap()).await, "ok");
    assert!(matches!(first.await.unwrap(), Some(Error::Busy)));
    drop((first_feed, second_feed));
    second.abort();
    let _ = second.await;
    assert_eq!(upstream.statuses().next().unwrap().busy, 0);
}

#[tokio::test]
async fn one_network_leaves_half_of_the_connections_to_others() {
    let mut script = ScriptedUpstream::start((0..8).map(|_| vec![Head])).await;
    let mut settings = script.settings();
    (settings.each.connections, settings.each.queue) = (4, 1);
    settings.each.queue_wait = Duration::from_millis(10);
    let upstream = Arc::new(Upstream::new(settings, 1, &[]));
    let send = |client: &'static str| {
        let upstream = Arc::clone(&upstream);
        tokio::spawn(async move { upstream.send(0, network(client), None, get()).await.is_ok() })
    };
    let _held = [send("2001:db8::1"), send("2001:db8::2")];
    script.next().await;
    script.next().await;
    for same in ["2001:db8::3", "2001:db8::ffff:0:0:1"] {
        assert!(!send(same).await.unwrap(), "{same}");
    }
    let _neighbour = send("2001:db8:0:1::1");
    script.next().await;
    let _other = send(FIRST);
    script.next().await;
    assert_eq!(script.accepted(), 4);
}
