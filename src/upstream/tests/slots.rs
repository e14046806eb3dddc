//! Requests under way at once: their slots, and the queue for one.

use super::*;

#[tokio::test]
async fn more_requests_than_connections_wait_or_are_refused() {
    let go = Arc::new(tokio::sync::Notify::new());
    let first = vec![Head, Wait(Arc::clone(&go)), say(OK), Head, say(OK)];
    let mut script = Script::start([first]).await;
    let mut settings = script.settings();
    (settings.each.connections, settings.each.queue) = (1, 1);
    let upstream = Arc::new(Upstream::new(settings, 1, &[]));
    let send = || {
        let upstream = Arc::clone(&upstream);
        tokio::spawn(async move { text(upstream.send(0, None, get()).await.unwrap()).await })
    };
    let busy = send();
    script.next().await;
    let queued = send();
    tokio::task::yield_now().await;
    // The slot is taken and the queue is full.
    assert!(matches!(
        upstream.send(0, None, get()).await.err(),
        Some(Error::Busy)
    ));
    go.notify_one();
    assert_eq!(busy.await.unwrap(), "ok");
    assert_eq!(queued.await.unwrap(), "ok");
    assert_eq!(script.accepted(), 1);
}

#[tokio::test]
async fn a_wait_in_the_queue_ends_and_a_dropped_one_leaves_its_place() {
    let mut script = Script::start([vec![Head]]).await;
    let mut settings = script.settings();
    (settings.each.connections, settings.each.queue) = (1, 1);
    settings.each.queue_wait = Duration::from_millis(10);
    let upstream = Arc::new(Upstream::new(settings, 1, &[]));
    let held = Arc::clone(&upstream);
    let held = tokio::spawn(async move { held.send(0, None, get()).await.is_ok() });
    script.next().await;
    for _ in 0..3 {
        let error = upstream.send(0, None, get()).await.err();
        assert!(matches!(error, Some(Error::Busy)));
        let mut dropped = Box::pin(upstream.send(0, None, get()));
        assert!(
            std::future::poll_fn(|cx| Poll::Ready(dropped.as_mut().poll(cx).is_pending())).await
        );
    }
    held.abort();
}

#[tokio::test]
async fn a_slot_comes_back_however_a_request_ends() {
    let partial = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok";
    let mut script = Script::start([
        vec![Head, Close],
        vec![Head, say("garbage"), Close],
        vec![Head, say(partial), Drain],
        vec![Head, say(OK)],
    ])
    .await;
    let mut settings = script.settings();
    (settings.each.connections, settings.each.queue) = (1, 0);
    let upstream = Upstream::new(settings, 1, &[]);
    assert!(matches!(
        upstream.send(0, None, get()).await.err(),
        Some(Error::Closed(_))
    ));
    assert!(matches!(
        upstream.send(0, None, get()).await.err(),
        Some(Error::Malformed(_))
    ));
    drop(upstream.send(0, None, get()).await.unwrap());
    assert_eq!(
        text(upstream.send(0, None, get()).await.unwrap()).await,
        "ok"
    );
    assert_eq!(script.accepted(), 4);
    assert_eq!(script.next().await.lines().count(), 3);
}
