//! Requests to the admin listener: which of them are allowed, and the response to each path.
//!
//! The checks have this order: the address of the peer (403), the host in the request (421), the method (405), the path
//! (404). The paths of `interventions` have checks of their own.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use tokio::task::spawn_blocking;

use super::peer::AdminPeer;
use super::ready::Readiness;
use super::response::{text, with_content_type};
use super::{interventions, metrics, status_page};
use crate::body::{Body, JSON};
use crate::metrics::ExpositionFormat;
use crate::net::host::HostPort;
use crate::state::ServerState;

/// The response to a request of this peer. A peer that is not authorized gets a response too, which names the reason.
pub(crate) async fn respond<B>(
    state: &Arc<ServerState>,
    peer: AdminPeer,
    request: &Request<B>,
) -> Response<Body> {
    let mut response = match reject(state, peer, request) {
        Some(rejection) => rejection,
        None => match request.uri().path() {
            interventions::UNBLOCK => interventions::unblock(state, request.uri().query()),
            interventions::CUT => interventions::cut(state, request.uri().query()),
            "/" => status_page(state).await,
            "/status.json" => status_json(state).await,
            "/healthz" => text(StatusCode::OK, "alive\n"),
            "/readyz" => readiness(state),
            "/metrics" => metrics(state, request.headers()).await,
            path => status_page::asset(path).map_or_else(
                || text(StatusCode::NOT_FOUND, UNKNOWN_PATH),
                |(media_type, asset)| with_content_type(media_type, asset),
            ),
        },
    };
    let headers = response.headers_mut();
    for (name, value) in SECURITY_HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The error response to a request that is not allowed.
fn reject<B>(state: &ServerState, peer: AdminPeer, request: &Request<B>) -> Option<Response<Body>> {
    if !peer.is_authorized(state) {
        return Some(text(StatusCode::FORBIDDEN, UNAUTHORIZED));
    }
    if !RequestHost::of(request.uri(), request.headers()).is_allowed(state) {
        return Some(text(StatusCode::MISDIRECTED_REQUEST, UNKNOWN_HOST));
    }
    if interventions::is_intervention(request.uri().path()) {
        return interventions::reject(peer, request);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n");
        let allow = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(header::ALLOW, allow);
        return Some(response);
    }
    None
}

fn readiness(state: &ServerState) -> Response<Body> {
    let readiness = Readiness::of(state);
    let status = match readiness.is_ready() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    text(status, readiness.to_string())
}

/// Renders the page on a thread of the blocking pool, because this runtime also accepts the clients' connections.
async fn status_page(state: &Arc<ServerState>) -> Response<Body> {
    let state = Arc::clone(state);
    match spawn_blocking(move || status_page::render(&state)).await {
        Ok(page) => with_content_type("text/html; charset=utf-8", page),
        Err(error) => {
            tracing::error!(%error, "the status page could not be rendered");
            text(StatusCode::INTERNAL_SERVER_ERROR, INTERNAL_ERROR)
        }
    }
}

/// Renders the JSON on a thread of the blocking pool, for the same reason as the page.
async fn status_json(state: &Arc<ServerState>) -> Response<Body> {
    let state = Arc::clone(state);
    match spawn_blocking(move || status_page::json::render(&state)).await {
        Ok(json) => with_content_type(JSON, json),
        Err(error) => {
            tracing::error!(%error, "the status could not be written as JSON");
            text(StatusCode::INTERNAL_SERVER_ERROR, INTERNAL_ERROR)
        }
    }
}

/// Renders the metrics on a thread of the blocking pool, because this runtime also accepts the clients' connections.
async fn metrics(state: &Arc<ServerState>, headers: &HeaderMap) -> Response<Body> {
    let accept = headers.get_all(header::ACCEPT).iter();
    let accept: Vec<_> = accept.filter_map(|value| value.to_str().ok()).collect();
    let format = ExpositionFormat::of(&accept.join(","));
    let state = Arc::clone(state);
    let rendered = spawn_blocking(move || metrics::render(&state, format)).await;
    match rendered.map_err(|error| error.to_string()) {
        Ok(Ok(rendered)) => with_content_type(format.media_type(), rendered),
        Ok(Err(fmt::Error)) => metrics_error("the encoder failed"),
        Err(error) => metrics_error(&error),
    }
}

fn metrics_error(error: &str) -> Response<Body> {
    tracing::error!(%error, "the metrics could not be rendered");
    text(StatusCode::INTERNAL_SERVER_ERROR, INTERNAL_ERROR)
}

/// The host that a request names.
///
/// The listener accepts IP addresses and the names it knows, against DNS rebinding: a web page in an operator's browser can
/// resolve a name of its own to the address of this machine, and could then read the responses. The browser sends that
/// name as the host. This is the same over the Unix socket, because an operator may forward a port of the own machine to it (ssh -L).
#[derive(Clone, Debug, PartialEq, Eq)]
enum RequestHost {
    /// No host: an HTTP/1.0 client, which is not a browser.
    Missing,
    Address,
    /// A DNS name in lower case.
    Name(String),
    /// Several `Host` fields, or one that is no host.
    Invalid,
}

impl RequestHost {
    fn of(uri: &Uri, headers: &HeaderMap) -> Self {
        let mut fields = headers.get_all(header::HOST).iter();
        let field = fields.next();
        if fields.next().is_some() {
            return Self::Invalid;
        }
        // The authority of a target in absolute-form overrides Host (RFC 9112 section 3.2.2).
        match (uri.authority(), field.map(|field| field.to_str())) {
            (Some(authority), _) => Self::parse(authority.as_str()),
            (None, None) => Self::Missing,
            (None, Some(Ok(host))) => Self::parse(host),
            (None, Some(Err(_))) => Self::Invalid,
        }
    }

    fn parse(authority: &str) -> Self {
        match HostPort::parse(authority) {
            None => Self::Invalid,
            Some(name) if name.host.parse::<IpAddr>().is_ok() => Self::Address,
            Some(name) => Self::Name(name.host),
        }
    }

    /// Whether the listener serves requests for this host: an address, `localhost`, a name of a site, or a name in
    /// `listen.admin_hosts`.
    fn is_allowed(&self, state: &ServerState) -> bool {
        match self {
            Self::Missing | Self::Address => true,
            Self::Invalid => false,
            Self::Name(name) => {
                let snapshot = state.snapshot();
                let mut sites = snapshot.service.sites.all();
                name == "localhost"
                    || snapshot.admin.hosts.contains(name)
                    || sites.any(|site| site.is_named(name))
            }
        }
    }
}

/// Header fields of every response. They forbid caches, frames, reads from other origins and content sniffing, and let the
/// status page load its own assets only.
const SECURITY_HEADERS: [(HeaderName, &str); 6] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
                                       base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const UNAUTHORIZED: &str =
    "your address may not use this listener; add its network to listen.admin_allow\n";
const UNKNOWN_HOST: &str = "unknown host; use an IP address, localhost, a name of a site, or a name in listen.admin_hosts\n";
const UNKNOWN_PATH: &str = "unknown path; use /, /status.json, /healthz, /readyz or /metrics\n";
const INTERNAL_ERROR: &str = "internal error; see the log of tidegate\n";

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::config;
    use crate::net::addr::PeerAddr;
    use crate::net::conn_limit::ConnectionLimit;
    use crate::snapshot::{BuildMode, Snapshot};
    use crate::state::LifecyclePhase;

    /// The state of a proxy without listeners, whose upstream counts as up. `listen` has further lines of `[listen]`.
    pub(crate) fn server_state(listen: &str, phase: LifecyclePhase) -> Arc<ServerState> {
        let text = format!(
            "[listen]\nhttps = [\"127.0.0.1:0\"]\n{listen}\n[[site]]\nhosts = [\"docker.example.com\", \"*.reg.example\", \"*\"]\n\
             tls = \"self-signed\"\n[[site.route]]\npath = \"/v2/\"\nupstream = \"http://127.0.0.1:1\"\nauth = {{ mode = \"none\" }}\n"
        );
        let (config, mut problems) = config::parse(Path::new("proxy.toml"), text.as_bytes());
        let config = config.unwrap_or_else(|| panic!("{problems}"));
        let snapshot = Snapshot::build(&config, None, BuildMode::Check, &mut problems);
        let snapshot = snapshot.unwrap_or_else(|| panic!("{problems}"));
        for route in snapshot.service.sites.routes() {
            route.forward.upstream().assume_it_responds();
        }
        let state = ServerState::new(snapshot, 1, ConnectionLimit::new(1, 1), None);
        state.set_phase(phase);
        Arc::new(state)
    }

    async fn status(state: &Arc<ServerState>, peer: AdminPeer, host: &str, path: &str) -> u16 {
        let request = Request::builder().uri(path).header("host", host);
        let response = respond(state, peer, &request.body(()).unwrap()).await;
        response.status().as_u16()
    }

    fn tcp(address: &str) -> AdminPeer {
        AdminPeer::Tcp(PeerAddr::new(address.parse().unwrap()))
    }

    #[tokio::test]
    async fn peers_outside_the_allowed_networks_get_403_on_every_path() {
        let loopback_only = server_state("", LifecyclePhase::Serving);
        let networks = "admin_allow = [\"192.0.2.0/24\", \"2001:db8::7\"]";
        let with_networks = server_state(networks, LifecyclePhase::Serving);
        for (address, on_loopback_only, on_with_networks) in [
            ("127.0.0.1:1", 200, 200),
            ("127.8.9.1:1", 200, 200),
            ("[::1]:1", 200, 200),
            ("[::ffff:127.0.0.1]:1", 200, 200),
            ("192.0.2.9:1", 403, 200),
            ("[::ffff:192.0.2.9]:1", 403, 200),
            ("[2001:db8::7]:1", 403, 200),
            ("198.51.100.1:1", 403, 403),
            ("[2001:db8::8]:1", 403, 403),
        ] {
            for path in ["/", "/status.js", "/healthz", "/readyz", "/metrics"] {
                let seen = status(&loopback_only, tcp(address), "localhost", path).await;
                assert_eq!(seen, on_loopback_only, "{address} {path}");
                let seen = status(&with_networks, tcp(address), "localhost", path).await;
                assert_eq!(seen, on_with_networks, "{address} {path}");
            }
        }
        let unix = status(&loopback_only, AdminPeer::Unix, "localhost", "/metrics");
        assert_eq!(unix.await, 200);
    }

    #[tokio::test]
    async fn names_of_sites_are_allowed_but_the_site_for_any_host_allows_none() {
        let state = server_state(
            "admin_hosts = [\"Prometheus.internal\"]",
            LifecyclePhase::Serving,
        );
        for (host, expected) in [
            ("docker.example.com:9090", 200),
            ("a.reg.example", 200),
            ("prometheus.internal", 200),
            ("a.b.reg.example", 421),
            ("anything.example", 421),
            ("local host", 421),
        ] {
            // A port of another machine may be forwarded to the Unix socket.
            for peer in [tcp("127.0.0.1:1"), AdminPeer::Unix] {
                let seen = status(&state, peer, host, "/status.json").await;
                assert_eq!(seen, expected, "{host} {peer}");
            }
        }
    }

    #[tokio::test]
    async fn the_proxy_is_ready_only_while_it_serves() {
        for (phase, ready) in [
            (LifecyclePhase::Starting, 503),
            (LifecyclePhase::Serving, 200),
            (LifecyclePhase::Withdrawing, 503),
            (LifecyclePhase::Draining, 503),
        ] {
            let state = server_state("", phase);
            let peer = tcp("127.0.0.1:1");
            assert_eq!(status(&state, peer, "localhost", "/readyz").await, ready);
            assert_eq!(status(&state, peer, "localhost", "/healthz").await, 200);
        }
    }

    #[test]
    fn a_host_is_an_address_a_name_or_invalid() {
        for address in ["127.0.0.1", "127.0.0.1:9090", "[::1]", "[::1]:9090"] {
            assert_eq!(
                RequestHost::parse(address),
                RequestHost::Address,
                "{address}"
            );
        }
        for (host, name) in [
            ("localhost:9090", "localhost"),
            ("Evil.Example", "evil.example"),
            ("evil.example.:1", "evil.example"),
            // A browser sends 127.0.0.1 for this spelling of an address. In a request this text is a name.
            ("2130706433", "2130706433"),
        ] {
            assert_eq!(
                RequestHost::parse(host),
                RequestHost::Name(name.to_owned()),
                "{host}"
            );
        }
        for host in [
            "",
            "::1",
            "[::1",
            "[::1]x",
            "a b",
            "a/b",
            "user@localhost",
            "a:b",
        ] {
            assert_eq!(RequestHost::parse(host), RequestHost::Invalid, "{host}");
        }
    }

    #[test]
    fn several_host_fields_are_invalid_and_the_target_overrides_host() {
        let mut headers = HeaderMap::new();
        let origin = Uri::from_static("/metrics");
        assert_eq!(RequestHost::of(&origin, &headers), RequestHost::Missing);
        headers.append(header::HOST, "localhost".parse().unwrap());
        assert_eq!(
            RequestHost::of(&origin, &headers),
            RequestHost::Name("localhost".to_owned())
        );
        let absolute = Uri::from_static("http://evil.example/metrics");
        assert_eq!(
            RequestHost::of(&absolute, &headers),
            RequestHost::Name("evil.example".to_owned())
        );
        headers.append(header::HOST, "localhost".parse().unwrap());
        assert_eq!(RequestHost::of(&origin, &headers), RequestHost::Invalid);
    }

    proptest! {
        #[test]
        fn no_host_panics(host in ".*") {
            let _ = RequestHost::parse(&host);
        }
    }
}
