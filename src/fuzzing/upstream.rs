//! Properties of the HTTP/1 client codec: what holds for any bytes that an upstream sends, in any segmentation.

#![allow(clippy::panic, reason = "a panic reports a finding to the fuzzer")]

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{Method, Request, Version};
use tokio::time::Instant;

use super::wire::{Wire, WireEnd, split};
use crate::body::Body;
use crate::upstream::{self, ClientWait, Http1Connection};

/// The request, and how the upstream's stream ends.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// The method is HEAD, not GET.
    pub is_head: bool,
    /// The request has a body.
    pub has_body: bool,
    /// The stream ends with a reset, not with an orderly end.
    pub ends_in_reset: bool,
}

/// Result of one exchange.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// No response, or a response that was truncated after these bytes of its body.
    Broken(Vec<u8>),
    Complete {
        body: Vec<u8>,
        /// The pool would send another request over the connection.
        is_reusable: bool,
    },
}

/// Parses `bytes` as a response: in one segment, in segments of the lengths in `cuts`, and truncated.
///
/// # Panics
/// If the codec breaks a property.
pub fn check(scenario: Scenario, bytes: &[u8], cuts: &[u8]) {
    let whole = exchange(scenario, [bytes]);
    let segmented = exchange(scenario, split(bytes, cuts));
    check_outcome(scenario, bytes, &whole);
    check_outcome(scenario, bytes, &segmented);
    match (&whole, &segmented) {
        // If the body is found malformed while the head is read, there is no response at all. If the head was read before, the
        // caller already has the first part of the body.
        (Outcome::Broken(one), Outcome::Broken(other)) => {
            assert!(
                one.starts_with(other) || other.starts_with(one),
                "{whole:?} {segmented:?}"
            );
        }
        _ => assert_eq!(whole, segmented, "the segmentation makes a difference"),
    }
    if let Outcome::Complete {
        body,
        is_reusable: true,
    } = whole
    {
        for cut in [0]
            .into_iter()
            .chain(cuts.iter().map(|at| usize::from(*at)))
        {
            let cut = cut % bytes.len().max(1);
            let from_start = bytes.get(..cut).unwrap_or_default();
            check_truncated(scenario, from_start, &body);
            let from_end = bytes.get(..bytes.len() - 1 - cut).unwrap_or_default();
            check_truncated(scenario, from_end, &body);
        }
    }
}

/// The complete bytes are one response with explicit framing, so a prefix of them must never be a complete response.
fn check_truncated(scenario: Scenario, bytes: &[u8], body: &[u8]) {
    match exchange(scenario, [bytes]) {
        Outcome::Broken(part) => assert!(body.starts_with(&part), "{part:?} of {body:?}"),
        complete @ Outcome::Complete { .. } => panic!("{complete:?} of a truncated response"),
    }
}

fn check_outcome(scenario: Scenario, bytes: &[u8], outcome: &Outcome) {
    let Outcome::Complete { body, is_reusable } = outcome else {
        return;
    };
    assert!(body.len() < bytes.len());
    assert!(body.is_empty() || !scenario.is_head);
    let head = final_head(bytes).to_ascii_lowercase();
    let fields_named = |name: &[u8]| {
        head.split(|byte| *byte == b'\n')
            .filter(|line| line.starts_with(name))
            .count()
    };
    let framings = fields_named(b"content-length:") + fields_named(b"transfer-encoding:");
    assert!(framings <= 1, "ambiguous framing was accepted");
    if *is_reusable {
        assert!(
            head.starts_with(b"http/1.1 "),
            "a connection of another version is reused: {outcome:?}"
        );
    }
    let status = head.get(9..12).unwrap_or_default();
    let has_body = !scenario.is_head && status != b"204" && status != b"304";
    if has_body && framings == 0 {
        assert!(
            !is_reusable && !scenario.ends_in_reset,
            "only an orderly end of the stream ends this body"
        );
    }
}

/// The head that follows the interim responses (1xx), without its empty line.
fn final_head(mut bytes: &[u8]) -> &[u8] {
    while let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
        let (head, rest) = bytes.split_at(end);
        if head.get(9) != Some(&b'1') {
            return head;
        }
        bytes = rest.get(4..).unwrap_or_default();
    }
    bytes
}

/// Sends the request over a stream in memory and reads the response from it.
fn exchange<'a>(scenario: Scenario, segments: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let end = if scenario.ends_in_reset {
        WireEnd::Reset
    } else {
        WireEnd::Eof
    };
    let wire = Wire::new(segments.into_iter().map(<[u8]>::to_vec), end);
    let mut request = Request::new(());
    *request.method_mut() = if scenario.is_head {
        Method::HEAD
    } else {
        Method::GET
    };
    let (parts, ()) = request.into_parts();
    let body = if scenario.has_body {
        Body::full("abc")
    } else {
        Body::empty()
    };
    let connection = Http1Connection::new(wire, Duration::from_secs(1), 64 * 1024);
    let wait = ClientWait::new(Instant::now());
    let Ok((head, mut reader)) = poll_ready(upstream::exchange(connection, &parts, body, &wait))
    else {
        return Outcome::Broken(Vec::new());
    };
    assert!(matches!(head.version, Version::HTTP_10 | Version::HTTP_11));
    let mut body = Vec::new();
    loop {
        match poll_ready(std::future::poll_fn(|cx| reader.poll_data(cx))) {
            Some(Ok(data)) => {
                assert!(!data.is_empty() && !reader.is_end_stream() || reader.is_received());
                body.extend_from_slice(&data);
            }
            Some(Err(_)) => {
                assert!(!reader.is_end_stream() && reader.take_connection().is_none());
                return Outcome::Broken(body);
            }
            None => break,
        }
    }
    assert!(reader.is_end_stream());
    // The pool closes an idle connection on which bytes arrive that no request asked for.
    let is_reusable = reader
        .take_connection()
        .is_some_and(|connection| connection.io().is_drained());
    Outcome::Complete { body, is_reusable }
}

/// The value of a future that never has to wait: every read and write of the wire is ready.
fn poll_ready<T>(future: impl Future<Output = T>) -> T {
    let mut cx = Context::from_waker(Waker::noop());
    match pin!(future).as_mut().poll(&mut cx) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the codec waits although the stream is ready"),
    }
}
