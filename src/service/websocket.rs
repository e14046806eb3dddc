//! Decides whether a request may open a WebSocket.
//!
//! Called by `service` for a request that its client may send.

use http::{header, request};

use crate::forward::{ExternalOrigin, WebSocketError, WebSocketHandshake};
use crate::site::Route;

/// The WebSocket handshake of a request. `None` for any other request, and on a route without WebSockets: there, a request is
/// forwarded without `Upgrade`.
pub(super) fn read_handshake(
    route: &Route,
    parts: &request::Parts,
    external: ExternalOrigin<'_>,
) -> Result<Option<WebSocketHandshake>, WebSocketError> {
    if !route.websocket {
        return Ok(None);
    }
    let handshake = WebSocketHandshake::read(parts)?;
    if handshake.is_some() && !route.forward.keeps_authorization() {
        check_origin(route, parts, external)?;
    }
    Ok(handshake)
}

/// Rejects a handshake that a page of another origin sends from within a browser. The browser adds the password that the user has
/// typed for this site, and no other mechanism protects WebSockets from foreign pages (RFC 6455 section 10.2). A client that
/// is no browser sends no `Origin`. Where the upstream authenticates, it also decides about origins.
fn check_origin(
    route: &Route,
    parts: &request::Parts,
    external: ExternalOrigin<'_>,
) -> Result<(), WebSocketError> {
    let own = format!("{}://{}", external.scheme, external.authority);
    let own = own.strip_suffix(":443").unwrap_or(&own);
    let mut origins = parts.headers.get_all(header::ORIGIN).iter();
    let is_allowed =
        |origin: &[u8]| origin.eq_ignore_ascii_case(own.as_bytes()) || route.cors.names(origin);
    if origins.all(|origin| is_allowed(origin.as_bytes())) {
        Ok(())
    } else {
        Err(WebSocketError::Origin)
    }
}
