//! What the header fields of a forwarded request and of its response depend on.

use super::url_rewrite::ExternalOrigin;
use super::websocket::WebSocketHandshake;
use crate::forwarded::ClientInfo;
use crate::target::Target;

/// What `service` knows about a request, apart from the request itself.
pub struct ForwardContext<'a> {
    /// The client and the scheme that it uses.
    pub client_info: &'a ClientInfo,
    /// The request target and the host that the client sent.
    pub target: &'a Target,
    /// The origin that URLs in the response should have.
    pub external: ExternalOrigin<'a>,
    /// Whether a host name is one of the site's.
    pub is_site: &'a (dyn Fn(&str) -> bool + Sync),
    /// The name of the verified user.
    pub user: Option<&'a str>,
    /// The handshake, if the request opens a WebSocket.
    pub websocket: Option<&'a WebSocketHandshake>,
    /// The id of the request.
    pub request_id: &'a str,
    /// The number of the worker that serves the connection.
    pub worker: usize,
}
