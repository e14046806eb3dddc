//! All reasons for which the proxy responds in place of the upstream, and the response for each.
//!
//! `service` collects the errors of all stages as a [`Rejection`], and turns it into a response here. The matches
//! over [`Rejection`] and over the errors in it have no wildcard, so that a new reason does not compile before it has
//! a status, an error code, and a label for the metrics.

use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};

use crate::access::Denied;
use crate::auth;
use crate::body::{self, Body, TEXT, full_response};
use crate::forward::{self, WebSocketError};
use crate::metrics::RejectionReason;
use crate::net::host::HostPort;
use crate::registry::RegistryError;
use crate::registry::catalog::CatalogError;
use crate::registry::errors::ErrorCode;
use crate::target;
use crate::upstream;

mod error_response;

pub use error_response::ResponseFormat;
use error_response::{ErrorResponse, VALID_LOGIN};

/// Why the proxy responds itself.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    /// The request target or the host is malformed, or they name different sites.
    #[error(transparent)]
    Target(#[from] target::Error),
    /// No site has this host.
    #[error("no such host here")]
    UnknownSite,
    /// The TLS handshake of the connection asked for a client certificate of other authorities than the site does.
    #[error(
        "this connection was opened for a site that takes other client certificates; open a new one for this name"
    )]
    OtherClientCa,
    /// There is nothing at the path.
    #[error("nothing here")]
    NoRoute,
    /// No route of the site matches the path. The text is the message for the log, of a bounded length; the response is that of
    /// [`Self::NoRoute`].
    #[error("nothing here")]
    Unrouted(String),
    /// The configuration has this status for the path (`route.respond`).
    #[error("the path is closed with {0}")]
    StaticStatus(StatusCode),
    /// The configuration has this error status and this text for the path (`route.respond`).
    #[error("the path is closed with {0}")]
    StaticText(StatusCode, String),
    /// Path and query are longer than `limits.target_size`.
    #[error("the request target is too long")]
    TargetTooLong,
    /// There are more header fields than `limits.head_fields`.
    #[error("too many header fields")]
    TooManyHeaderFields,
    /// The client is not authenticated.
    #[error(transparent)]
    Auth(#[from] auth::Error),
    /// The identity may not perform the operation.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The request is no operation of the registry API.
    #[error(transparent)]
    Invalid(#[from] RegistryError),
    /// The proxy cannot read the catalog of the upstream.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A reverse proxy does not forward this method.
    #[error("method not allowed")]
    MethodNotAllowed,
    /// The token endpoint does not have this method.
    #[error("tokens are requested by GET or POST")]
    TokenMethod,
    /// The form of a token request did not arrive, or is too large.
    #[error(transparent)]
    TokenForm(#[from] body::Error),
    /// The concurrency limit for this kind of request is reached, in total or for the client network.
    #[error("too many such requests are in progress; try again later")]
    ConcurrencyLimit,
    /// `Transfer-Encoding` is not exactly one `chunked`.
    #[error("unknown transfer coding")]
    TransferCoding,
    /// `Expect` is not `100-continue`.
    #[error("unknown expectation")]
    Expectation,
    /// `Content-Length` is larger than the route's `max_body`.
    #[error("the body is larger than {0} bytes")]
    BodyTooLarge(u64),
    /// The request asks for another protocol than a WebSocket, or its handshake is malformed or not allowed.
    #[error(transparent)]
    WebSocket(#[from] WebSocketError),
    /// A request for a registry arrived over plain HTTP.
    #[error("this registry is served over https only")]
    PlainHttp,
    /// A peer that is not in `listen.trusted_proxies` connected to an address of `listen.behind_proxy`.
    #[error("this address serves trusted proxies only")]
    UntrustedPeer,
    /// An operator has ended the transfer (`tidegate cut`).
    #[error("an operator has ended this transfer")]
    Cut,
    /// The upstream did not respond.
    #[error(transparent)]
    Forward(#[from] forward::Error),
}

impl Rejection {
    /// The response to the client.
    pub fn to_response(&self, format: &ResponseFormat) -> Response<Body> {
        let mut error = self.error_response();
        if self.reason() == RejectionReason::Host {
            error.message = self.client_message(format);
        }
        let mut headers = HeaderMap::new();
        if let Some(seconds) = error.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(methods) = error.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(methods));
        }
        if let (StatusCode::UNAUTHORIZED, Some(challenge)) = (error.status, &format.challenge)
            && let Some(challenge) = challenge.value(error.token_error)
        {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        // A retry on this connection would fail again. HTTP/2 has only the status to say so.
        if matches!(self, Self::OtherClientCa) && format.is_http1 {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        // RFC 6455 section 4.4, RFC 9110 section 15.5.22.
        if matches!(self, Self::WebSocket(WebSocketError::Version)) {
            for (name, value) in [
                (header::SEC_WEBSOCKET_VERSION, "13"),
                (header::UPGRADE, "websocket"),
                (header::CONNECTION, "upgrade"),
            ] {
                headers.insert(name, HeaderValue::from_static(value));
            }
        }
        let (media_type, body) = match self {
            // The registry API has a format of its own for errors, in which the text is the message.
            Self::StaticText(_, text) if !format.is_registry => {
                let no_sniff = HeaderValue::from_static("nosniff");
                headers.insert(header::X_CONTENT_TYPE_OPTIONS, no_sniff);
                (TEXT, text.clone().into_bytes())
            }
            _ => error.body(format),
        };
        let mut response = full_response(error.status, media_type, body, format.is_head);
        response.headers_mut().extend(headers);
        response
    }

    /// The reason in words, for the access log and the status page. Unlike the response, it says what the configuration
    /// lacks: the host that no site has, or the path for which the site has no route.
    pub fn message(&self, format: &ResponseFormat) -> String {
        match (self, &format.requested_host) {
            (Self::UnknownSite, Some(host)) => format!(
                "no site has the host {} on this address; add it to site.hosts",
                HostPort::parse(host).map_or_else(|| host.clone(), |parsed| parsed.host)
            ),
            (Self::Unrouted(message), _) => message.clone(),
            _ => self.client_message(format),
        }
    }

    /// The reason in words, for the client. If something is wrong with the requested host, the message names that host.
    fn client_message(&self, format: &ResponseFormat) -> String {
        match &format.requested_host {
            Some(host) if self.reason() == RejectionReason::Host => format!("{self}: {host}"),
            _ => self.to_string(),
        }
    }

    /// Whether the upstream caused the rejection. An operator has to know of such a fault.
    pub fn is_upstream_fault(&self) -> bool {
        match self {
            Self::Forward(forward::Error::Upstream(error)) => {
                !matches!(error, upstream::Error::Body(_))
            }
            Self::Catalog(CatalogError::Unreadable) => true,
            _ => false,
        }
    }

    /// The label under which the metrics count the rejection.
    pub fn reason(&self) -> RejectionReason {
        use RejectionReason as Reason;
        match self {
            Self::Target(target::Error::ForeignAuthority)
            | Self::UnknownSite
            | Self::OtherClientCa => Reason::Host,
            Self::NoRoute
            | Self::Unrouted(_)
            | Self::StaticStatus(_)
            | Self::StaticText(..)
            | Self::Catalog(CatalogError::Missing) => Reason::Path,
            Self::Target(
                target::Error::Form
                | target::Error::NoHost
                | target::Error::SeveralHosts
                | target::Error::Host
                | target::Error::Contradiction
                | target::Error::Path(_)
                | target::Error::Query(_),
            )
            | Self::Invalid(_)
            | Self::MethodNotAllowed
            | Self::TokenMethod
            | Self::TransferCoding
            | Self::Expectation
            | Self::WebSocket(
                WebSocketError::Protocol
                | WebSocketError::Method
                | WebSocketError::Body
                | WebSocketError::Version
                | WebSocketError::Key,
            )
            | Self::Forward(forward::Error::Form | forward::Error::Target) => Reason::Malformed,
            Self::TargetTooLong | Self::TooManyHeaderFields | Self::BodyTooLarge(_) => {
                Reason::TooLarge
            }
            Self::Auth(error) => auth_reason(error),
            Self::Denied(Denied::Anonymous) => Reason::NoCredentials,
            Self::Denied(Denied::Scope | Denied::Forbidden)
            | Self::WebSocket(WebSocketError::Origin) => Reason::Forbidden,
            Self::Catalog(CatalogError::Unreadable) => Reason::UpstreamBroken,
            Self::Catalog(CatalogError::TooLong) | Self::ConcurrencyLimit => Reason::Busy,
            Self::PlainHttp => Reason::PlainHttp,
            Self::UntrustedPeer => Reason::Network,
            Self::Cut => Reason::Cut,
            Self::TokenForm(error) => body_reason(error),
            Self::Forward(forward::Error::Upstream(error)) => upstream_reason(error),
        }
    }

    /// The status, the error code and the message of the response.
    fn error_response(&self) -> ErrorResponse {
        match self {
            Self::Target(error) => target_response(error),
            Self::UnknownSite => ErrorResponse::new(421, ErrorCode::Unsupported, self),
            Self::OtherClientCa => ErrorResponse::new(421, ErrorCode::Unsupported, self),
            Self::NoRoute | Self::Unrouted(_) => {
                ErrorResponse::new(404, ErrorCode::Unsupported, self)
            }
            Self::StaticStatus(status) => static_status_response(*status),
            Self::StaticText(status, text) => {
                let mut response = static_status_response(*status);
                response.message.clone_from(text);
                response
            }
            Self::TargetTooLong => ErrorResponse::new(414, ErrorCode::Unsupported, self),
            Self::TooManyHeaderFields => ErrorResponse::new(431, ErrorCode::Unsupported, self),
            Self::Auth(error) => auth_response(error),
            Self::Denied(Denied::Anonymous) => ErrorResponse::unauthorized(),
            Self::Denied(Denied::Scope) => {
                ErrorResponse::unauthorized().token_error("insufficient_scope")
            }
            Self::Denied(error @ Denied::Forbidden) => {
                ErrorResponse::denied(error, "no grant gives this right")
            }
            Self::Invalid(error) => registry_response(error),
            Self::Catalog(error) => catalog_response(*error),
            Self::MethodNotAllowed => ErrorResponse::new(405, ErrorCode::Unsupported, self)
                .allow("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
            Self::TokenMethod => {
                ErrorResponse::new(405, ErrorCode::Unsupported, self).allow("GET, POST")
            }
            Self::TokenForm(error) => body_response(error),
            Self::ConcurrencyLimit => {
                ErrorResponse::new(503, ErrorCode::Unavailable, self).retry_after(2)
            }
            Self::TransferCoding => ErrorResponse::new(501, ErrorCode::Unsupported, self),
            Self::Expectation => ErrorResponse::new(417, ErrorCode::Unsupported, self),
            Self::BodyTooLarge(_) => ErrorResponse::new(413, ErrorCode::SizeInvalid, self),
            Self::WebSocket(error) => websocket_response(*error),
            Self::PlainHttp => ErrorResponse::new(400, ErrorCode::Unsupported, self),
            Self::UntrustedPeer => ErrorResponse::denied(self, "the peer is no trusted proxy"),
            // A client would repeat the request after a 5xx.
            Self::Cut => ErrorResponse::denied(self, TRANSFER_ENDED),
            Self::Forward(forward::Error::Upstream(error)) => upstream_response(error),
            Self::Forward(error @ forward::Error::Form) => {
                ErrorResponse::new(415, ErrorCode::Unsupported, error)
            }
            Self::Forward(error @ forward::Error::Target) => {
                ErrorResponse::new(400, ErrorCode::Unsupported, error)
            }
        }
    }
}

fn auth_reason(error: &auth::Error) -> RejectionReason {
    match error {
        auth::Error::Wrong
        | auth::Error::Login
        | auth::Error::Unusable
        | auth::Error::UnusableLogin => RejectionReason::WrongPassword,
        auth::Error::Token => RejectionReason::InvalidToken,
        auth::Error::Network => RejectionReason::Network,
        auth::Error::Malformed(_) | auth::Error::Twice => RejectionReason::Malformed,
        auth::Error::TooMany { .. } => RejectionReason::Throttled,
        auth::Error::Busy => RejectionReason::Busy,
    }
}

fn upstream_reason(error: &upstream::Error) -> RejectionReason {
    use upstream::Error as E;
    match error {
        E::Connect(_) | E::ConnectTimeout(_) | E::Tls(_) => RejectionReason::UpstreamUnreachable,
        E::Closed(_) | E::Malformed(_) | E::Write(_) => RejectionReason::UpstreamBroken,
        E::Silent(_) => RejectionReason::UpstreamTimeout,
        E::Busy | E::Exhausted(_) => RejectionReason::UpstreamBusy,
        E::Body(error) => body_reason(error),
    }
}

fn body_reason(error: &body::Error) -> RejectionReason {
    match error {
        _ if error.is_client_gone() => RejectionReason::ClientGone,
        body::Error::TooLarge { .. } => RejectionReason::TooLarge,
        body::Error::Idle(_) | body::Error::Slow(_) | body::Error::Displaced => {
            RejectionReason::Slow
        }
        body::Error::Cut => RejectionReason::Cut,
        body::Error::Client(_) | body::Error::Reset => RejectionReason::Malformed,
        body::Error::Upstream(_) | body::Error::Silent(_) => RejectionReason::UpstreamBroken,
    }
}

fn target_response(error: &target::Error) -> ErrorResponse {
    let status = match error {
        target::Error::ForeignAuthority => 421,
        target::Error::Form
        | target::Error::NoHost
        | target::Error::SeveralHosts
        | target::Error::Host
        | target::Error::Contradiction
        | target::Error::Path(_)
        | target::Error::Query(_) => 400,
    };
    ErrorResponse::new(status, ErrorCode::Unsupported, error)
}

/// A path with `respond = 404` gets the same response as a path without a route, so that the response does not reveal
/// the configuration.
fn static_status_response(status: StatusCode) -> ErrorResponse {
    let code = match status.as_u16() {
        403 => ErrorCode::Denied,
        413 => ErrorCode::SizeInvalid,
        429 => ErrorCode::TooManyRequests,
        500.. => ErrorCode::Unavailable,
        _ => ErrorCode::Unsupported,
    };
    let message = match status {
        StatusCode::NOT_FOUND => Rejection::NoRoute.to_string(),
        _ => status.canonical_reason().unwrap_or("closed").to_lowercase(),
    };
    let response = ErrorResponse::new(status.as_u16(), code, message);
    match status {
        StatusCode::FORBIDDEN => response.detail("the path is closed to every client"),
        _ => response,
    }
}

fn auth_response(error: &auth::Error) -> ErrorResponse {
    match error {
        auth::Error::Wrong | auth::Error::Unusable => ErrorResponse::unauthorized(),
        auth::Error::Login | auth::Error::UnusableLogin => {
            let error = auth::Error::Login;
            ErrorResponse::new(401, ErrorCode::Unauthorized, error).detail(VALID_LOGIN)
        }
        auth::Error::Token => ErrorResponse::unauthorized().token_error("invalid_token"),
        auth::Error::Network => ErrorResponse::denied(error, "the client's network is not allowed"),
        auth::Error::Malformed(_) => ErrorResponse::new(400, ErrorCode::Unsupported, error),
        auth::Error::Twice => ErrorResponse::new(400, ErrorCode::Unauthorized, error),
        auth::Error::TooMany { after } => {
            let seconds = u32::try_from(after.as_secs()).unwrap_or(u32::MAX);
            ErrorResponse::new(429, ErrorCode::TooManyRequests, error)
                .retry_after(seconds.saturating_add(1))
        }
        auth::Error::Busy => ErrorResponse::new(503, ErrorCode::Unavailable, error).retry_after(2),
    }
}

fn registry_response(error: &RegistryError) -> ErrorResponse {
    let response = ErrorResponse::new(error.status().as_u16(), error.code(), error);
    match error {
        RegistryError::Method { allow } => response.allow(allow),
        RegistryError::Name(_)
        | RegistryError::Tag
        | RegistryError::Digest
        | RegistryError::Query(_)
        | RegistryError::UnknownManifest
        | RegistryError::TooManyTags
        | RegistryError::PageSize
        | RegistryError::Path(_)
        | RegistryError::NotFound => response,
    }
}

fn catalog_response(error: CatalogError) -> ErrorResponse {
    match error {
        CatalogError::Missing => ErrorResponse::new(404, ErrorCode::Unsupported, error),
        CatalogError::Unreadable => ErrorResponse::new(502, ErrorCode::Unavailable, error),
        CatalogError::TooLong => {
            ErrorResponse::new(503, ErrorCode::Unavailable, error).retry_after(60)
        }
    }
}

fn websocket_response(error: WebSocketError) -> ErrorResponse {
    let (status, code) = match error {
        WebSocketError::Protocol => (501, ErrorCode::Unsupported),
        WebSocketError::Method | WebSocketError::Body | WebSocketError::Key => {
            (400, ErrorCode::Unsupported)
        }
        WebSocketError::Version => (426, ErrorCode::Unsupported),
        WebSocketError::Origin => (403, ErrorCode::Denied),
    };
    ErrorResponse::new(status, code, error)
}

/// The messages name no address of the upstream, and no cause: both are in the log.
fn upstream_response(error: &upstream::Error) -> ErrorResponse {
    use upstream::Error as E;
    match error {
        E::Connect(_)
        | E::ConnectTimeout(_)
        | E::Tls(_)
        | E::Closed(_)
        | E::Malformed(_)
        | E::Write(_) => ErrorResponse::new(
            502,
            ErrorCode::Unavailable,
            "the registry behind this proxy is not available; try again later",
        ),
        E::Silent(_) => ErrorResponse::new(
            504,
            ErrorCode::Unavailable,
            "the registry behind this proxy did not respond in time",
        ),
        E::Busy | E::Exhausted(_) => ErrorResponse::new(
            503,
            ErrorCode::Unavailable,
            "the registry behind this proxy is busy; try again later",
        )
        .retry_after(1),
        E::Body(error) => body_response(error),
    }
}

fn body_response(error: &body::Error) -> ErrorResponse {
    match error {
        body::Error::TooLarge { .. } => ErrorResponse::new(413, ErrorCode::SizeInvalid, error),
        body::Error::Idle(_) | body::Error::Slow(_) => {
            ErrorResponse::new(408, ErrorCode::Unsupported, error)
        }
        body::Error::Cut => ErrorResponse::denied(error, TRANSFER_ENDED),
        body::Error::Client(_)
        | body::Error::Reset
        | body::Error::Upstream(_)
        | body::Error::Silent(_)
        | body::Error::Displaced => ErrorResponse::new(400, ErrorCode::Unsupported, error),
    }
}

/// The `detail` of the response to a request that an operator has ended.
const TRANSFER_ENDED: &str = "the transfer was ended";

#[cfg(test)]
mod tests {
    use super::*;

    /// The message and the `detail` of the OCI error.
    fn oci_error(rejection: &Rejection) -> (String, String) {
        let (_, body) = rejection.error_response().body(&ResponseFormat {
            is_registry: true,
            ..ResponseFormat::default()
        });
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let error = &body["errors"][0];
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        (text(&error["message"]), text(&error["detail"]["reason"]))
    }

    #[test]
    fn only_a_missing_right_is_reported_as_a_missing_grant() {
        let text = || "the operator's text".to_owned();
        for (rejection, reason) in [
            (Denied::Forbidden.into(), "no grant gives this right"),
            (
                auth::Error::Network.into(),
                "the client's network is not allowed",
            ),
            (Rejection::UntrustedPeer, "the peer is no trusted proxy"),
            (Rejection::Cut, "the transfer was ended"),
            (
                Rejection::TokenForm(body::Error::Cut),
                "the transfer was ended",
            ),
            (
                Rejection::StaticStatus(StatusCode::FORBIDDEN),
                "the path is closed to every client",
            ),
            (
                Rejection::StaticText(StatusCode::FORBIDDEN, text()),
                "the path is closed to every client",
            ),
        ] {
            assert_eq!(rejection.error_response().status, StatusCode::FORBIDDEN);
            assert_eq!(oci_error(&rejection).1, reason, "{rejection:?}");
        }
    }
}
