//! The guard of an active request.
//!
//! `serve` creates it for each request. It ends in `response`, when the response is complete, or in `tunnel`, when the tunnel is.

use std::rc::Rc;
use std::sync::Arc;

use super::state::ConnectionState;
use crate::body::{AbortReason, UploadState};

/// One active request. The request is over when this value is dropped.
pub(crate) struct RequestGuard {
    state: Rc<ConnectionState>,
    upload: Arc<UploadState>,
}

impl RequestGuard {
    pub(crate) fn new(state: &Rc<ConnectionState>, upload: &Arc<UploadState>) -> Self {
        state.begin_request();
        Self {
            state: Rc::clone(state),
            upload: Arc::clone(upload),
        }
    }

    /// Records why the request is aborted, if the proxy decided it.
    pub(crate) fn record_abort_reason(&self) {
        if let Some(reason) = self.state.abort_reason() {
            self.upload.record_abort(reason);
        }
    }

    /// Records this reason for the abort of the request. The first reason stays.
    pub(crate) fn record_abort(&self, reason: AbortReason) {
        self.upload.record_abort(reason);
    }

    /// The state of the connection.
    pub(crate) fn connection(&self) -> &ConnectionState {
        &self.state
    }

    /// Whether the request body is incomplete.
    pub(crate) fn has_unread_body(&self) -> bool {
        !self.upload.is_ended()
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        // If the request was rejected before its body was read, no body type records the end, so record it here.
        self.upload.close();
        self.state.end_request(self.has_unread_body());
    }
}
