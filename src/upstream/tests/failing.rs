//! Early answers, broken ends and abandoned requests.

use super::*;

/// Larger than what two sockets buffer, so that the writing has to stop.
const LARGE: usize = 64 * 1024 * 1024;

#[tokio::test]
async fn an_early_refusal_of_a_large_upload_is_relayed() {
    let reason = "x".repeat(40 * 1024);
    let head = format!(
        "HTTP/1.1 413 Too Large\r\nContent-Length: {}\r\n\r\n",
        reason.len()
    );
    // With a length and chunked; closed at once, which resets the connection under our writing.
    for is_chunked in [false, true] {
        let answer = say(format!("{head}{reason}"));
        let script = Script::start([vec![Head, Read(65_536), answer, Close]]).await;
        let upstream = script.upstream();
        let body = if is_chunked {
            endless()
        } else {
            Body::full(vec![b'a'; LARGE])
        };
        let answer = upstream
            .send(0, client(), None, request(Method::PATCH, body))
            .await;
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 413, "chunked: {is_chunked}");
        assert_eq!(text(answer).await, reason);
    }
}

/// Never at its end, never without a frame.
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
async fn an_early_answer_ends_the_request_and_its_connection() {
    let mut script = Script::start([vec![Head, say(OK), Drain], vec![Head, say(OK)]]).await;
    let upstream = script.upstream();
    let (feed, body) = Fed::body();
    feed.send(Ok("abc".into())).await.unwrap();
    let answer = upstream
        .send(0, client(), None, request(Method::PATCH, body))
        .await;
    assert_eq!(text(answer.unwrap()).await, "ok");
    assert!(feed.is_closed(), "the rest of the body is dropped");
    assert!(script.next().await.contains("transfer-encoding: chunked"));
    // Cut, not ended.
    assert_eq!(script.next().await, "3\r\nabc\r\n");
    assert_eq!(
        text(upstream.send(0, client(), None, get()).await.unwrap()).await,
        "ok"
    );
    assert_eq!(script.accepted(), 2);
}

#[tokio::test]
async fn a_long_early_answer_is_read_to_its_end_while_the_upload_stands_still() {
    let reason = "x".repeat(1024 * 1024);
    let head = "HTTP/1.1 413 Too Large\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer = format!("{head}100000\r\n{reason}\r\n0\r\n\r\n");
    let script = Script::start([vec![Head, say(answer)], vec![Head, say(OK)]]).await;
    let upstream = script.upstream();
    let (feed, body) = Fed::body();
    feed.send(Ok("abc".into())).await.unwrap();
    let answer = upstream
        .send(0, client(), None, request(Method::PATCH, body))
        .await;
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 413);
    assert_eq!(text(answer).await, reason);
    assert!(feed.is_closed());
    // The half-sent request spoils the connection.
    assert_eq!(
        text(upstream.send(0, client(), None, get()).await.unwrap()).await,
        "ok"
    );
    assert_eq!(script.accepted(), 2);
}

#[tokio::test]
async fn an_upstream_that_dies_under_an_upload_is_an_error_of_its_own() {
    let script = Script::start([vec![Head, Read(65_536), Close]]).await;
    let upstream = script.upstream();
    let put = request(Method::PUT, Body::full(vec![b'a'; LARGE]));
    let error = upstream.send(0, client(), None, put).await.err();
    assert!(
        matches!(error, Some(Error::Write(_) | Error::Closed(_))),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_client_that_breaks_off_cuts_the_request() {
    let mut script = Script::start([vec![Head, Drain]]).await;
    let upstream = script.upstream();
    let (feed, body) = Fed::body();
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
    let mut script = Script::start([vec![Head, Drain]]).await;
    let upstream = script.upstream();
    let (feed, body) = Fed::body();
    feed.send(Ok("abc".into())).await.unwrap();
    let mut sending = Box::pin(upstream.send(0, client(), None, request(Method::PATCH, body)));
    tokio::select! {
        _ = &mut sending => panic!("nobody answers"),
        _ = script.next() => {}
    }
    drop(sending);
    assert_eq!(script.next().await, "3\r\nabc\r\n");
}

#[tokio::test]
async fn a_dropped_answer_closes_its_connection() {
    let partial = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok";
    let mut script = Script::start([vec![Head, say(partial), Drain]]).await;
    let upstream = script.upstream();
    let mut answer = upstream.send(0, client(), None, get()).await.unwrap();
    let frame = answer.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "ok");
    script.next().await;
    drop(answer);
    assert_eq!(script.next().await, "");
}

#[tokio::test]
async fn a_cut_answer_breaks_the_transfer() {
    let answers = [
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n",
    ];
    for cut in answers {
        let script = Script::start([vec![Head, say(cut), Close]]).await;
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
async fn a_reset_makes_the_end_of_a_body_without_framing_doubtful() {
    // The upstream refuses an upload and closes; nothing tells how long the refusal was meant to be.
    let refusal = "HTTP/1.1 400 Bad Request\r\n\r\nno";
    let script = Script::start([vec![Head, Read(65_536), say(refusal), Close]]).await;
    let upstream = script.upstream();
    let answer = upstream
        .send(0, client(), None, request(Method::PATCH, endless()))
        .await;
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 400);
    assert!(answer.into_body().collect().await.is_err());
}
