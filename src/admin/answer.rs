//! One request to the admin listener, and its answer.
//!
//! Called for each connection. The order is: who asks, by what name, with what method, for what.

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::task::spawn_blocking;

use super::host::RequestHost;
use super::ready::Readiness;
use super::{Admin, AdminPeer, numbers, page};
use crate::body::Body;
use crate::metrics::ExpositionFormat;

impl Admin {
    /// Never fails; whoever may not ask is told so.
    pub(super) async fn answer<B>(&self, asker: AdminPeer, request: &Request<B>) -> Response<Body> {
        let refused = self.refuse(asker, request);
        let mut response = match refused {
            Some(refused) => refused,
            None => match request.uri().path() {
                "/" => self.page().await,
                "/healthz" => text(StatusCode::OK, "alive\n"),
                "/readyz" => self.readiness(),
                "/metrics" => self.metrics(request.headers()).await,
                path => page::part(path).map_or_else(
                    || text(StatusCode::NOT_FOUND, PATHS),
                    |(media_type, part)| with_content_type(media_type, part),
                ),
            },
        };
        let headers = response.headers_mut();
        for (name, value) in ALWAYS {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }

    fn refuse<B>(&self, asker: AdminPeer, request: &Request<B>) -> Option<Response<Body>> {
        if !self.is_authorized(asker) {
            return Some(text(StatusCode::FORBIDDEN, STRANGER));
        }
        if asker != AdminPeer::Local
            && !self.is_known(&RequestHost::of(request.uri(), request.headers()))
        {
            return Some(text(StatusCode::MISDIRECTED_REQUEST, UNKNOWN_HOST));
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n");
            let allow = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(header::ALLOW, allow);
            return Some(response);
        }
        None
    }

    fn is_known(&self, host: &RequestHost) -> bool {
        match host {
            RequestHost::Nothing | RequestHost::Address => true,
            RequestHost::Unclear => false,
            RequestHost::Name(name) => {
                let snapshot = self.gate.snapshot();
                let mut sites = snapshot.service.sites.all();
                name == "localhost"
                    || snapshot.admin.hosts.contains(name)
                    || sites.any(|site| site.is_named(name))
            }
        }
    }

    fn readiness(&self) -> Response<Body> {
        let readiness = Readiness::of(&self.gate);
        let status = match readiness.is_ready() {
            true => StatusCode::OK,
            false => StatusCode::SERVICE_UNAVAILABLE,
        };
        text(status, readiness.to_string())
    }

    /// On a thread of its own for the same reason as the numbers.
    async fn page(&self) -> Response<Body> {
        let gate = self.gate.clone();
        match spawn_blocking(move || page::write(&gate)).await {
            Ok(written) => with_content_type("text/html; charset=utf-8", written),
            Err(failed) => {
                tracing::error!(%failed, "the status page could not be written");
                text(StatusCode::INTERNAL_SERVER_ERROR, FAILED)
            }
        }
    }

    /// On a thread for what takes long: the runtime here accepts the clients' connections.
    async fn metrics(&self, headers: &HeaderMap) -> Response<Body> {
        let accept = headers.get_all(header::ACCEPT).iter();
        let accept: Vec<_> = accept.filter_map(|value| value.to_str().ok()).collect();
        let form = ExpositionFormat::of(&accept.join(","));
        let gate = self.gate.clone();
        match spawn_blocking(move || numbers::write(&gate, form)).await {
            Ok(Ok(written)) => with_content_type(form.media_type(), written),
            Ok(Err(error)) => {
                tracing::error!(%error, "the metrics could not be written");
                text(StatusCode::INTERNAL_SERVER_ERROR, FAILED)
            }
            Err(error) => {
                tracing::error!(%error, "the metrics could not be written");
                text(StatusCode::INTERNAL_SERVER_ERROR, FAILED)
            }
        }
    }
}

fn text(status: StatusCode, words: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = with_content_type("text/plain; charset=utf-8", words);
    *response.status_mut() = status;
    response
}

fn with_content_type(media_type: &'static str, words: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::full(words));
    let media_type = HeaderValue::from_static(media_type);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, media_type);
    response
}

/// Nothing here is for a cache, a frame, a page from elsewhere, or a guess at what it is; and the page loads nothing but its
/// own parts.
const ALWAYS: [(HeaderName, &str); 6] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const STRANGER: &str = "your address may not ask here; listen.admin_allow names those that may\n";
const UNKNOWN_HOST: &str =
    "ask by an address, as localhost, by a name of a site, or by one of listen.admin_hosts\n";
const PATHS: &str = "there are /, /healthz, /readyz and /metrics\n";
const FAILED: &str = "see the gate's log\n";
