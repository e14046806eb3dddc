//! How the endpoints of an upstream are, for whoever watches the gate.
//!
//! Called by what shows it; nothing is decided by it.

use std::sync::Arc;

use http::response;
#[cfg(test)]
use tokio::time::Instant;

use super::health::{Outage, Status};
use super::node::EndpointNode;
use super::{Endpoint, EndpointSettings, Error, Upstream};

/// How an endpoint is at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Equal for what is one: routes share endpoints.
    pub node: usize,
    /// Its URL.
    pub name: String,
    /// Whether it responds.
    pub status: Status,
    /// Requests under way and waiting.
    pub busy: usize,
}

impl Upstream {
    /// The outages of all endpoints, when none of them is left: requests then fail, unless one comes back while they wait.
    pub fn outage(&self) -> Option<Vec<(String, Outage)>> {
        let down = self.states().map(|state| match state.status {
            Status::Down(outage) => Some((state.name, outage)),
            Status::Up | Status::Unchecked => None,
        });
        down.collect()
    }

    /// Tests of the admin listener have no registry that could respond.
    #[cfg(test)]
    pub fn assume_it_responds(&self) {
        for node in &self.nodes {
            node.health().checked(Instant::now(), Ok(()));
        }
    }

    /// How each endpoint is, in the order of the configuration.
    pub fn states(&self) -> impl Iterator<Item = State> {
        self.nodes.iter().map(|node| State {
            node: Arc::as_ptr(node) as usize,
            name: node.endpoint().to_string(),
            status: node.health().status(),
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
    EndpointNode::new(endpoint.clone(), settings.clone(), 0, None)
        .probe()
        .await
}
