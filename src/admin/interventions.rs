//! The two requests of the admin listener that change something: `POST /unblock?network=NETWORK` clears the wrong passwords that
//! were counted for a client network, and `POST /cut?id=ID` ends one transfer.
//!
//! `tidegate unblock` and `tidegate cut` send them. They work over the Unix socket only, because the permissions of its file
//! decide which users of the machine may connect; every user can reach a loopback address. Both are logged with what they did.

use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};

use super::peer::AdminPeer;
use super::response::text;
use crate::body::Body;
use crate::net::cidr::Cidr;
use crate::state::ServerState;
use crate::text::parse_decimal;

/// The path that clears wrong passwords.
pub(super) const UNBLOCK: &str = "/unblock";
/// The path that ends a transfer.
pub(super) const CUT: &str = "/cut";

/// Whether the path belongs to this module.
pub(super) fn is_intervention(path: &str) -> bool {
    matches!(path, UNBLOCK | CUT)
}

/// The error response to a request that is not allowed.
///
/// A page in an operator's browser can send a POST to a port of this machine that ssh forwards to the socket. A browser writes the
/// origin of the page into every POST (Fetch Standard, section 3.2), so a request with an `Origin` field is rejected.
pub(super) fn reject<B>(peer: AdminPeer, request: &Request<B>) -> Option<Response<Body>> {
    if peer != AdminPeer::Unix {
        return Some(text(StatusCode::FORBIDDEN, UNIX_SOCKET_ONLY));
    }
    if *request.method() != Method::POST {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "POST\n");
        let allow = HeaderValue::from_static("POST");
        response.headers_mut().insert(header::ALLOW, allow);
        return Some(response);
    }
    if request.headers().contains_key(header::ORIGIN) {
        return Some(text(StatusCode::FORBIDDEN, NO_BROWSERS));
    }
    None
}

/// Clears the wrong passwords that were counted for the client networks in `network`.
pub(super) fn unblock(state: &ServerState, query: Option<&str>) -> Response<Body> {
    let Some(network) = value_of(query, "network=") else {
        return text(
            StatusCode::BAD_REQUEST,
            "name a network: ?network=192.0.2.7\n",
        );
    };
    let network: Cidr = match network.parse() {
        Ok(network) => network,
        Err(error) => return text(StatusCode::BAD_REQUEST, format!("network: {error}\n")),
    };
    let cleared = state.snapshot().password_verifier().clear_guesses(network);
    tracing::info!(
        %network,
        guesses = cleared.guesses,
        networks = cleared.networks,
        "an operator has cleared the wrong passwords of a network"
    );
    let outcome = match (cleared.guesses, cleared.networks) {
        (0, _) => format!("{network} has no wrong passwords; nothing was cleared"),
        (guesses, networks) => format!(
            "cleared {} of {} in {network}",
            counted(guesses, "wrong password"),
            counted(networks, "client network"),
        ),
    };
    let hint = cleared.limited_group.map(|group| {
        format!("; the limit that the networks of {group} share is still reached: tidegate unblock {group}")
    });
    text(StatusCode::OK, outcome + &hint.unwrap_or_default() + "\n")
}

/// Ends the transfer with this ID.
pub(super) fn cut(state: &ServerState, query: Option<&str>) -> Response<Body> {
    let Some(id) = value_of(query, "id=").and_then(parse_decimal::<u64>) else {
        return text(StatusCode::BAD_REQUEST, "name a transfer: ?id=12\n");
    };
    let Some(transfer) = state.snapshot().service.activity.cut_transfer(id) else {
        let unknown =
            format!("there is no transfer {id}; it has ended, or /status.json lists another ID\n");
        return text(StatusCode::NOT_FOUND, unknown);
    };
    let operation = transfer.operation.as_str();
    tracing::info!(
        id,
        operation,
        repository = %transfer.repository,
        user = %transfer.user,
        client = %transfer.client,
        site = %transfer.site,
        "an operator has ended a transfer"
    );
    let user = match transfer.user.as_str() {
        "" => "an anonymous client",
        user => user,
    };
    let outcome = format!(
        "ended transfer {id}: {operation} of {} by {user} from {}\n",
        transfer.repository, transfer.client
    );
    text(StatusCode::OK, outcome)
}

/// The value of the only parameter that the query may have. Networks and numbers need no percent-encoding in a query (RFC 3986
/// section 3.4).
fn value_of<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    query?.strip_prefix(name)
}

fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

const UNIX_SOCKET_ONLY: &str =
    "this request works over the unix socket only; write admin = \"unix:PATH\" in [listen]\n";
const NO_BROWSERS: &str =
    "this request is not for web pages; use tidegate unblock or tidegate cut\n";
