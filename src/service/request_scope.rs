//! What every request has from its first moment to its last: an id, a line in the access log, and the format of error
//! responses.
//!
//! `service` creates a [`RequestScope`] when a request arrives, and finishes it with the response, over TLS and over
//! plain HTTP. The [`RequestRecord`] in it then travels with the response body, and its `Drop` writes the access log
//! line when the last byte is sent or the transfer is aborted.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::header::{self, HeaderValue};
use http::{Method, Response, Version, request};
use http_body::Body as _;
use hyper::body::Incoming;

use crate::access_log::{ByteCounter, RequestId, RequestRecord};
use crate::activity::ActivityTracker;
use crate::body::{Body, BodyEnd, MinRate, Observer, RequestBody, UploadState};
use crate::forwarded::{REQUEST_ID, keep_digest_out_of_index, set_api_version};
use crate::log::LogLimiter;
use crate::metrics::Operation;
use crate::registry::is_registry_path;
use crate::rejection::{Rejection, ResponseFormat};
use crate::site::CorsResponse;

/// The state of one request until its response is decided.
pub(super) struct RequestScope<'a> {
    pub(super) id: RequestId,
    pub(super) record: Box<RequestRecord>,
    pub(super) format: ResponseFormat,
    /// The CORS header fields that the response gets, if the route shares its responses with other origins.
    pub(super) cors: Option<CorsResponse>,
    /// The addresses of the upstream to which the request is forwarded, as they are written.
    pub(super) upstream: &'a [String],
    activity: &'a Arc<ActivityTracker>,
    upstream_fault_lines: &'a LogLimiter,
    /// When the request body ended; `None` for a request without a body.
    body_end: Option<Arc<OnceLock<Instant>>>,
}

impl<'a> RequestScope<'a> {
    pub(super) fn new(
        record: Box<RequestRecord>,
        activity: &'a Arc<ActivityTracker>,
        upstream_fault_lines: &'a LogLimiter,
        parts: &request::Parts,
    ) -> Self {
        Self {
            id: record.id(),
            record,
            format: response_format(parts),
            cors: None,
            upstream: &[],
            activity,
            upstream_fault_lines,
            body_end: None,
        }
    }

    /// Records that no site serves the request: the response, the access log and the status page then name the host
    /// that the request asks for.
    pub(super) fn set_requested_host(&mut self, parts: &request::Parts) {
        let host = requested_host(parts);
        self.record
            .set_requested_host(host.as_deref().unwrap_or_default());
        self.format.requested_host = host;
    }

    /// Lists the request among the active transfers, if it moves content of a repository or opens a WebSocket.
    pub(super) fn start_transfer(&mut self) {
        self.record.start_transfer(self.activity);
    }

    /// Wraps the request body so that it ends with an error if it has more than `max_body` bytes, if nothing arrives
    /// for `idle`, or if it arrives more slowly than `min_rate`; and so that its bytes are counted.
    pub(super) fn request_body(
        &mut self,
        body: Incoming,
        upload: Arc<UploadState>,
        max_body: Option<u64>,
        idle: Duration,
        min_rate: MinRate,
    ) -> Body {
        if body.is_end_stream() {
            return Body::empty();
        }
        let length = body.size_hint().exact();
        self.record.set_body_length(Operation::Push, length);
        let end = Arc::<OnceLock<Instant>>::default();
        self.body_end = Some(Arc::clone(&end));
        let body = RequestBody::new(body, upload, max_body, idle, min_rate);
        Body::stream(body).observed(Box::new(RequestBodyObserver {
            bytes: self.record.byte_counter(),
            end,
        }))
    }

    /// Records how long the upstream took for the head of its response: since the end of the request body, or since
    /// `started` for a request without a body. An upstream that responded before the end of the body took no time.
    pub(super) fn record_response_head(&mut self, started: Instant) {
        let waited = match &self.body_end {
            None => started.elapsed(),
            Some(end) => end.get().map_or(Duration::ZERO, Instant::elapsed),
        };
        self.record.set_upstream_wait(waited);
    }

    /// The proxy's own response to a request that it rejects. A fault of the upstream is logged as a warning, since an
    /// operator has to know of it.
    pub(super) fn reject(&mut self, rejection: &Rejection) -> Response<Body> {
        let message = rejection.message(&self.format);
        self.record
            .set_rejection(message, rejection.reason(), self.activity);
        if rejection.is_upstream_fault()
            && let Some(left_out) = self.upstream_fault_lines.take_line(Instant::now())
        {
            let cause = std::error::Error::source(rejection).map(ToString::to_string);
            tracing::warn!(
                upstream = self.upstream.join(","), request_id = self.id.as_str(),
                error = %rejection, cause, left_out, "a request failed at its upstream"
            );
        }
        rejection.to_response(&self.format)
    }

    /// Adds the header fields that every response has. The access log line is written when the last byte of the body is
    /// sent.
    pub(super) fn finish(mut self, mut response: Response<Body>) -> Response<Body> {
        let headers = response.headers_mut();
        headers.insert(REQUEST_ID, self.id.header_value());
        if self.format.is_registry {
            set_api_version(headers);
            keep_digest_out_of_index(headers);
        }
        if let Some(cors) = self.cors.take() {
            cors.apply(headers);
        }
        self.record.set_status(response.status());
        if response.status().is_success() {
            let length = response.body().size_hint().exact();
            self.record.set_body_length(Operation::Pull, length);
        }
        response.map(|body| body.observed(self.record))
    }
}

/// Counts the bytes of a request body, and notes when it ends.
struct RequestBodyObserver {
    bytes: ByteCounter,
    end: Arc<OnceLock<Instant>>,
}

impl Observer for RequestBodyObserver {
    fn on_data(&mut self, bytes: usize) {
        self.bytes.add_received(bytes);
    }

    fn on_end(self: Box<Self>, _bytes: u64, end: BodyEnd<'_>) {
        if matches!(end, BodyEnd::Whole) {
            let _ = self.end.set(Instant::now());
        }
    }
}

/// The host that the request names in Host or `:authority`, for the log: on one line, and of a bounded length. The request may be
/// malformed, so its bytes may be of any kind, and the first one of several Host fields is taken. In `user:password@host`, the
/// part before the `@` is left out, because the log must not contain a password.
fn requested_host(parts: &request::Parts) -> Option<String> {
    let authority = parts
        .uri
        .authority()
        .map(|authority| authority.as_str().as_bytes());
    let field = parts.headers.get(header::HOST).map(HeaderValue::as_bytes);
    let host = match parts.version {
        Version::HTTP_2 => authority.or(field),
        _ => field.or(authority),
    };
    let host = host?;
    let start = host.iter().rposition(|byte| *byte == b'@');
    let host = host.get(start.unwrap_or(0)..).unwrap_or_default();
    let mut text = host.escape_ascii().to_string();
    if text.len() > MAX_HOST_LENGTH {
        text.truncate(MAX_HOST_LENGTH);
        text.push_str("...");
    }
    Some(text)
}

/// A host name has at most 253 characters (RFC 1035 section 2.3.4), and a port has at most five digits.
const MAX_HOST_LENGTH: usize = 260;

fn response_format(parts: &request::Parts) -> ResponseFormat {
    let accepts_html = |value: &HeaderValue| {
        value
            .to_str()
            .is_ok_and(|accept| accept.contains("text/html"))
    };
    ResponseFormat {
        is_registry: is_registry_path(parts.uri.path()),
        is_head: parts.method == Method::HEAD,
        is_http1: parts.version < Version::HTTP_2,
        prefers_html: parts
            .headers
            .get_all(header::ACCEPT)
            .iter()
            .any(accepts_html),
        challenge: None,
        requested_host: None,
    }
}
