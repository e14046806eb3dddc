//! What a client sends: bounded, and counted.
//!
//! Called by `service` for the requests that it passes on or answers from a form.

use std::sync::Arc;

use http::header::{self, HeaderMap};
use http_body::Body as _;
use hyper::body::Incoming;

use super::{Service, Settings};
use crate::access_log::Record;
use crate::body::{Body, End, Inbound, Observer, Received};
use crate::metrics::Flow;
use crate::refusal::Refusal;
use crate::site::Route;

impl Service {
    /// The client's body, bounded; nothing of it is read here, so no `100 Continue` has gone out.
    pub(super) fn body(
        &self,
        route: &Route,
        headers: &HeaderMap,
        (incoming, received): (Incoming, Arc<Received>),
        record: &Record,
    ) -> Result<Body, Refusal> {
        let announced = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if let (Some(limit), Some(announced)) = (route.max_body, announced)
            && announced > limit
        {
            return Err(Refusal::TooLarge(limit));
        }
        if incoming.is_end_stream() {
            return Ok(Body::empty());
        }
        let Settings {
            body_idle, floor, ..
        } = self.settings;
        let inbound = Inbound::new(incoming, received, route.max_body, body_idle, floor);
        Ok(Body::stream(inbound).observed(Box::new(Inflow(record.flow()))))
    }
}

/// Counts what comes of a client's body.
struct Inflow(Flow);

impl Observer for Inflow {
    fn moved(&mut self, bytes: usize) {
        self.0.received(bytes);
    }

    fn ended(self: Box<Self>, _bytes: u64, _end: End<'_>) {}
}
