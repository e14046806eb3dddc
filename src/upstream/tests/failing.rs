//! Early responses, incomplete responses and cancelled requests.

use super::*;

/// Larger than the buffers of both sockets, so that the write blocks.
const LARGE: usize = 64 * 1024 * 1024;

#[tokio::test]
async fn an_early_rejection_of_a_large_upload_is_forwarded() {
    let reason = "x".repeat(40 * 1024);
    let head = format!(
        "HTTP/1.1 413 Too Large\r\nContent-Length: {}\r\n\r\n",
        reason.len()
    );
    // With a length and chunked. The upstream closes immediately, which resets the connection during the write.
    for is_chunked in [false, true] {
        let response = reply(format!("{head}{reason}"));
        let script = ScriptedUpstream::start([vec![Head, Read(65_536), response, Close]]).await;
        let upstream = script.upstream();
        let body = if is_chunked {
            endless()
        } else {
            Body::full(vec![b'a'; LARGE])
        };
        let response = upstream
            .send(0, client(), None, request(Method::PATCH, body))
            .await;
        let response = response.unwrap();
        assert_eq!(response.status(), 413, "chunked: {is_chunked}");
        assert_eq!(text(response).await, reason);
    }
}

/// A body without an end that always has a frame ready.
fn endless() -> Body {
    struct Endless;
    impl http_body::Body for Endless {
        type Data = Bytes;
        type Error = body::Error;
        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, body::Error>>> {
            let data = Bytes::from_static(&[b'a'; 8192]);
            Poll::Ready(Some(Ok(Frame::data(data))))
        }
    }
    Body::stream(Endless)
}

#[tokio::test]
async fn an_early_response_ends_the_request_and_its_connection() {
    let mut script =
        ScriptedUpstream::start([vec![Head, reply(OK), Drain], vec![Head, reply(OK)]]).await;
    let upstream = script.upstream();
    let (feed, body) = ChannelBody::channel();
    feed.send(Ok("abc".into())).await.unwrap();
    let response = upstream
        .send(0, client(), None, request(Method::PATCH, body))
        .await;
    assert_eq!(text(response.unwrap()).await, "ok");
    assert!(feed.is_closed(), "the rest of the body is dropped");
    assert!(script.next().await.contains("transfer-encoding: chunked"));
    // Without the last chunk.
    assert_eq!(script.next().await, "3\r\nabc\r\n");
    assert_get_ok(&upstream).await;
    assert_eq!(script.accepted(), 2);
}

#[tokio::test]
async fn a_long_early_response_is_read_to_its_end_during_an_upload() {
    let reason = "x".repeat(1024 * 1024);
    let head = "HTTP/1.1 413 Too Large\r\nTransfer-Encoding: chunked\r\n\r\n";
    let response = format!("{head}100000\r\n{reason}\r\n0\r\n\r\n");
    let script =
        ScriptedUpstream::start([vec![Head, reply(response)], vec![Head, reply(OK)]]).await;
    let upstream = script.upstream();
    let (feed, body) = ChannelBody::channel();
    feed.send(Ok("abc".into())).await.unwrap();
    let response = upstream
        .send(0, client(), None, request(Method::PATCH, body))
        .await;
    let response = response.unwrap();
    assert_eq!(response.status(), 413);
    assert_eq!(text(response).await, reason);
    assert!(feed.is_closed());
    // A connection with an incomplete request is not reused.
    assert_get_ok(&upstream).await;
    assert_eq!(script.accepted(), 2);
}

#[tokio::test]
async fn an_upstream_that_closes_during_an_upload_is_an_error() {
    let script = ScriptedUpstream::start([vec![Head, Read(65_536), Close]]).await;
    let upstream = script.upstream();
    let put = request(Method::PUT, Body::full(vec![b'a'; LARGE]));
    let error = upstream.send(0, client(), None, put).await.err();
    assert!(
        matches!(error, Some(Error::Write(_) | Error::Closed(_))),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_request_whose_body_fails_is_incomplete_for_the_upstream() {
    let mut script = ScriptedUpstream::start([vec![Head, Drain]]).await;
    let upstream = script.upstream();
    let (feed, body) = ChannelBody::channel();
    let feeding = async {
        feed.send(Ok("abc".into())).await.unwrap();
        let limit = 3;
        feed.send(Err(body::Error::TooLarge { limit }))
            .await
            .unwrap();
    };
    let (sent, ()) = tokio::join!(
        upstream.send(0, client(), None, request(Method::PATCH, body)),
        feeding
    );
    assert!(matches!(
        sent.err(),
        Some(Error::Body(body::Error::TooLarge { .. }))
    ));
    script.next().await;
    let body = script.next().await;
    assert!(["", "3\r\nabc\r\n"].contains(&body.as_str()), "{body:?}");
}

#[tokio::test]
async fn a_dropped_request_closes_its_connection() {
    let mut script = ScriptedUpstream::start([vec![Head, Drain]]).await;
    let upstream = script.upstream();
    let (feed, body) = ChannelBody::channel();
    feed.send(Ok("abc".into())).await.unwrap();
    let mut sending = Box::pin(upstream.send(0, client(), None, request(Method::PATCH, body)));
    tokio::select! {
        _ = &mut sending => panic!("the upstream does not respond"),
        _ = script.next() => {}
    }
    drop(sending);
    assert_eq!(script.next().await, "3\r\nabc\r\n");
}

#[tokio::test]
async fn a_dropped_response_closes_its_connection() {
    let partial = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok";
    let mut script = ScriptedUpstream::start([vec![Head, reply(partial), Drain]]).await;
    let upstream = script.upstream();
    let mut response = upstream.send(0, client(), None, get()).await.unwrap();
    let frame = response.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "ok");
    script.next().await;
    drop(response);
    assert_eq!(script.next().await, "");
}

#[tokio::test]
async fn an_incomplete_response_is_an_error() {
    let responses = [
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n",
    ];
    for cut in responses {
        let script = ScriptedUpstream::start([vec![Head, reply(cut), Close]]).await;
        let upstream = script.upstream();
        let mut body = upstream
            .send(0, client(), None, get())
            .await
            .unwrap()
            .into_body();
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "ok");
        let error = body.frame().await.unwrap().err();
        assert!(matches!(error, Some(body::Error::Upstream(_))), "{cut:?}");
        assert!(body.frame().await.is_none());
        assert!(!http_body::Body::is_end_stream(&body));
    }
}

#[tokio::test]
async fn after_a_failed_write_the_end_of_an_unframed_body_is_an_error() {
    // The upstream rejects an upload and closes. Nothing declares how long the response should be.
    let rejection = "HTTP/1.1 400 Bad Request\r\n\r\nno";
    let script = ScriptedUpstream::start([vec![Head, Read(65_536), reply(rejection), Close]]).await;
    let upstream = script.upstream();
    let response = upstream
        .send(0, client(), None, request(Method::PATCH, endless()))
        .await;
    let response = response.unwrap();
    assert_eq!(response.status(), 400);
    assert!(response.into_body().collect().await.is_err());
}
