//! How the endpoints of an upstream are, for whoever watches the gate.
//!
//! Called by what shows it; nothing is decided by it.

use std::sync::Arc;

use http::response;

use super::node::Node;
use super::{Endpoint, EndpointSettings, Error, Upstream};

/// How an endpoint is at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Equal for what is one: routes share endpoints.
    pub node: usize,
    /// Its URL.
    pub name: String,
    /// It takes connections and answers checks, as far as is known.
    pub is_up: bool,
    /// Requests under way and waiting.
    pub busy: usize,
}

impl Upstream {
    /// How each endpoint is, in the order of the configuration.
    pub fn states(&self) -> impl Iterator<Item = State> {
        self.nodes.iter().map(|node| State {
            node: Arc::as_ptr(node) as usize,
            name: node.endpoint().to_string(),
            is_up: node.health().is_up(),
            busy: node.pool().busy(),
        })
    }
}

/// Sends `GET /v2/` without credentials to an endpoint and returns the head of the response, within a few seconds. The
/// connection is not pooled, and the outcome does not count as a health check.
///
/// # Errors
/// The same errors as a request through the proxy would meet.
pub async fn probe(
    endpoint: &Endpoint,
    settings: &EndpointSettings,
) -> Result<response::Parts, Error> {
    Node::new(endpoint.clone(), settings.clone(), 0, None)
        .probe()
        .await
}
