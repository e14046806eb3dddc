//! What a client sends: bounded, and counted.
//!
//! Called by `service` for the requests that it passes on or answers from a form.

use std::sync::Arc;

use http::header::{self, HeaderMap};
use http_body::Body as _;
use hyper::body::Incoming;

use super::{Service, Settings};
use crate::access_log::Record;
use crate::body::{Body, BodyEnd, Observer, RequestBody, UploadState};
use crate::metrics::ByteCounter;
use crate::rejection::Rejection;
use crate::site::Route;

impl Service {
    /// The client's body, bounded; nothing of it is read here, so no `100 Continue` has gone out.
    pub(super) fn body(
        &self,
        route: &Route,
        headers: &HeaderMap,
        (incoming, received): (Incoming, Arc<UploadState>),
        record: &Record,
    ) -> Result<Body, Rejection> {
        let announced = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if let (Some(limit), Some(announced)) = (route.max_body, announced)
            && announced > limit
        {
            return Err(Rejection::TooLarge(limit));
        }
        if incoming.is_end_stream() {
            return Ok(Body::empty());
        }
        let Settings {
            body_idle, floor, ..
        } = self.settings;
        let inbound = RequestBody::new(incoming, received, route.max_body, body_idle, floor);
        Ok(Body::stream(inbound).observed(Box::new(RequestBodyCounter(record.flow()))))
    }
}

/// Counts what comes of a client's body.
struct RequestBodyCounter(ByteCounter);

impl Observer for RequestBodyCounter {
    fn on_data(&mut self, bytes: usize) {
        self.0.received(bytes);
    }

    fn on_end(self: Box<Self>, _bytes: u64, _end: BodyEnd<'_>) {}
}
