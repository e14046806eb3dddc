//! What every request has from its first moment to its last: an id, a line in the log, and the manner of
//! a refusal. Over TLS or not, a request is opened and closed here.

use std::sync::Arc;

use http::header::{self, HeaderValue};
use http::{Method, Response, Version, request};

use super::Service;
use crate::access_log::{Record, RequestId};
use crate::activity::ActivityTracker;
use crate::body::{Body, UploadState};
use crate::connection::ConnectionInfo;
use crate::forwarded::{ClientInfo, REQUEST_ID, set_api_version};
use crate::net::addr::ClientAddr;
use crate::net::cidr::Networks;
use crate::registry::is_registry_path;
use crate::rejection::{Rejection, ResponseFormat};
use crate::site::CorsResponse;

/// A request that is being answered.
pub(super) struct RequestScope {
    pub(super) id: RequestId,
    pub(super) record: Box<Record>,
    pub(super) manner: ResponseFormat,
    /// With whom the route shares its answers.
    pub(super) sharing: Option<CorsResponse>,
}

impl RequestScope {
    pub(super) fn new(
        service: &Service,
        connection: &ConnectionInfo,
        client: ClientAddr,
        received: &Arc<UploadState>,
        parts: &request::Parts,
    ) -> Self {
        let log = service.access_log.as_ref();
        let received = Arc::clone(received);
        let mut record = Record::begin(log, client, received, &service.elsewhere, parts);
        record.peer(connection.peer, client);
        let tls = connection.tls.as_ref();
        if let Some(certificate) = tls.and_then(|tls| tls.certificate.as_ref()) {
            record.certificate(certificate.subject());
        }
        Self {
            id: record.id(),
            record,
            manner: manner_of(parts),
            sharing: None,
        }
    }

    /// The gate's own answer; an operator hears of what is the upstream's fault.
    pub(super) fn refuse(
        &mut self,
        refusal: &Rejection,
        board: &ActivityTracker,
    ) -> Response<Body> {
        let why = refusal.in_words(&self.manner);
        self.record.refused(why, refusal.reason(), board);
        if refusal.is_upstream_fault() {
            let cause = std::error::Error::source(refusal).map(ToString::to_string);
            tracing::warn!(error = %refusal, cause, "the upstream gave no answer");
        }
        refusal.answer(&self.manner)
    }

    /// No site serves the request: the response, the access log and the status page name the host that it asks for.
    pub(super) fn no_site(&mut self, parts: &request::Parts) {
        let host = requested_host(parts);
        self.record
            .requested_host(host.as_deref().unwrap_or_default());
        self.manner.requested_host = host;
    }

    /// What every answer carries; its log line is written when the last byte is out.
    pub(super) fn close(mut self, mut response: Response<Body>) -> Response<Body> {
        response.headers_mut().insert(REQUEST_ID, self.id.value());
        if self.manner.registry {
            set_api_version(response.headers_mut());
        }
        if let Some(sharing) = self.sharing.take() {
            sharing.apply(response.headers_mut());
        }
        self.record.status(response.status());
        response.map(|body| body.observed(self.record))
    }
}

/// The connection's client, or the client that a trusted proxy names.
///
/// Behind a PROXY header that names no client, the other end of the connection is unknown: `X-Forwarded-For` and
/// `X-Forwarded-Proto` may be anyone's, also when the balancer itself is one of the trusted proxies.
pub(super) fn asker(
    connection: &ConnectionInfo,
    parts: &request::Parts,
    trusted: &Networks,
) -> ClientInfo {
    let scheme = if connection.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let none = Networks::default();
    let trusted = if connection.is_client_named {
        trusted
    } else {
        &none
    };
    let (client, field) = (connection.client, &connection.client_field);
    ClientInfo::new(client, field, scheme, &parts.headers, trusted)
}

/// The host as the request writes it, on one line and of a bounded length. The request may be malformed, so nothing is
/// assumed of these bytes; of several Host fields the first one is shown.
fn requested_host(parts: &request::Parts) -> Option<String> {
    let authority = parts
        .uri
        .authority()
        .map(|authority| authority.as_str().as_bytes());
    let field = parts.headers.get(header::HOST).map(HeaderValue::as_bytes);
    let host = match parts.version {
        Version::HTTP_2 => authority.or(field),
        _ => field.or(authority),
    };
    let mut text = host?.escape_ascii().to_string();
    if text.len() > HOST_LENGTH {
        text.truncate(HOST_LENGTH);
        text.push_str("...");
    }
    Some(text)
}

/// A host name has 253 characters at most (RFC 1035 section 2.3.4), and a port five.
const HOST_LENGTH: usize = 260;

fn manner_of(parts: &request::Parts) -> ResponseFormat {
    let html = |value: &HeaderValue| {
        value
            .to_str()
            .is_ok_and(|accept| accept.contains("text/html"))
    };
    ResponseFormat {
        registry: is_registry_path(parts.uri.path()),
        head: parts.method == Method::HEAD,
        http1: parts.version < Version::HTTP_2,
        html: parts.headers.get_all(header::ACCEPT).iter().any(html),
        challenge: None,
        requested_host: None,
    }
}
