//! Decides whether a request may open a WebSocket.
//!
//! Called by `service` for a request that its client may send.

use http::{header, request};

use crate::forward::{ExternalOrigin, WebSocketError, WebSocketHandshake};
use crate::site::Route;
use crate::target::Target;

/// The WebSocket handshake of a request. `None` for any other request, and on a route without WebSockets: there, a request is
/// forwarded without `Upgrade`.
pub(super) fn read_handshake(
    route: &Route,
    parts: &request::Parts,
    target: &Target,
    external: ExternalOrigin<'_>,
) -> Result<Option<WebSocketHandshake>, WebSocketError> {
    if !route.allows_websocket {
        return Ok(None);
    }
    let handshake = WebSocketHandshake::read(parts)?;
    if handshake.is_some() && !route.forward.keeps_authorization() {
        check_origin(route, parts, target, external)?;
    }
    Ok(handshake)
}

/// Rejects a handshake that a page of another origin sends from within a browser. The browser adds the password that the user has
/// typed for this site, and no other mechanism protects WebSockets from foreign pages (RFC 6455 section 10.2). A client that
/// is no browser sends no `Origin`. Where the upstream authenticates, it also decides about origins.
///
/// The site's own pages have the host of the request, or the host of `external_url`.
fn check_origin(
    route: &Route,
    parts: &request::Parts,
    target: &Target,
    external: ExternalOrigin<'_>,
) -> Result<(), WebSocketError> {
    let is_own = |origin: &[u8]| {
        [target.authority(), external.authority]
            .into_iter()
            .any(|authority| {
                let own = format!("{}://{authority}", external.scheme);
                let own = own.strip_suffix(":443").unwrap_or(&own);
                origin.eq_ignore_ascii_case(own.as_bytes())
            })
    };
    let mut origins = parts.headers.get_all(header::ORIGIN).iter();
    let is_allowed = |origin: &[u8]| is_own(origin) || route.cors.names(origin);
    if origins.all(|origin| is_allowed(origin.as_bytes())) {
        Ok(())
    } else {
        Err(WebSocketError::Origin)
    }
}
