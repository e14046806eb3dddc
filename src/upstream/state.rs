//! How the endpoints of an upstream are, for whoever watches the gate.
//!
//! Called by what shows it; nothing is decided by it.

use std::sync::Arc;

use http::StatusCode;

use super::node::Node;
use super::{Endpoint, EndpointSettings, Upstream};

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

/// What an endpoint answers to `GET /v2/` without credentials, or why it does not within a few seconds. It is asked for
/// this alone: nothing is pooled, and no health is noted.
///
/// # Errors
/// In words, with their cause.
pub async fn ask(endpoint: &Endpoint, settings: &EndpointSettings) -> Result<StatusCode, String> {
    Node::new(endpoint.clone(), settings.clone(), 0, None)
        .ask()
        .await
}
