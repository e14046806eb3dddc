//! Every reason for which the gate answers in the upstream's place, and the answer to each.
//!
//! `service` collects the errors of all stages as a [`Rejection`] and turns it into an answer here. The
//! table of answers is in `table`.

use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};

use crate::access::Denied;
use crate::auth;
use crate::body::{self, Body};
use crate::forward;
use crate::metrics::Reason;
use crate::registry::RegistryError;
use crate::registry::catalog::CatalogError;
use crate::registry::errors::ErrorCode;
use crate::target;
use crate::upstream;
use crate::www_authenticate::Challenge;

mod error_body;
mod reason;
mod table;

/// Why the gate answers itself.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    /// The request line or the host is malformed, or names a foreign authority.
    #[error(transparent)]
    Target(#[from] target::Error),
    /// No site has this host.
    #[error("no such host here")]
    NoSite,
    /// The connection was made under other conditions than the site has.
    #[error(
        "this connection was made for a site that takes other client certificates; make a new one for this name"
    )]
    OtherTrust,
    /// No route of the site has this path.
    #[error("nothing here")]
    NoRoute,
    /// The configuration closes this path with a status.
    #[error("the path is closed with {0}")]
    Closed(StatusCode),
    /// The path and query are longer than `limits.target_size`.
    #[error("the request target is too long")]
    TargetTooLong,
    /// There are more fields than `limits.head_fields`.
    #[error("too many header fields")]
    TooManyFields,
    /// There is no identity.
    #[error(transparent)]
    Auth(#[from] auth::Error),
    /// The identity may not.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// It is no operation of the registry API.
    #[error(transparent)]
    Invalid(#[from] RegistryError),
    /// There is no list of repositories to show.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A method that no gate forwards.
    #[error("method not allowed")]
    Method,
    /// A method by which nobody asks for a token.
    #[error("tokens are asked for by GET or POST")]
    TokenMethod,
    /// A request for a token whose form did not come, or is too long for one.
    #[error(transparent)]
    Form(#[from] body::Error),
    /// Too many are at the same thing, in all or of one client network.
    #[error("too many such requests are being answered; try again later")]
    Crowded,
    /// A transfer coding other than exactly one `chunked`.
    #[error("unknown transfer coding")]
    TransferCoding,
    /// An expectation other than `100-continue`.
    #[error("unknown expectation")]
    Expectation,
    /// The body is announced as larger than the route's `max_body`.
    #[error("the body is larger than {0} bytes")]
    TooLarge(u64),
    /// Plain HTTP where a registry is served over https only.
    #[error("this registry is served over https only")]
    PlainHttp,
    /// The upstream gave no answer.
    #[error(transparent)]
    Forward(#[from] forward::Error),
}

/// How a refusal is to be worded.
#[derive(Debug, Default)]
pub struct ResponseFormat {
    /// Under a registry's `/v2/`: OCI errors.
    pub registry: bool,
    /// The client asked by HEAD: no body.
    pub head: bool,
    /// It asked in HTTP/1, where a field can say that the connection ends.
    pub http1: bool,
    /// The client likes a page better than a line.
    pub html: bool,
    /// The route's challenge.
    pub challenge: Option<Challenge>,
    /// The host that the request names, where no site serves it: ASCII text of a bounded length.
    pub requested_host: Option<String>,
}

/// What a refusal comes to.
#[derive(Debug)]
struct ErrorResponse {
    status: StatusCode,
    code: ErrorCode,
    /// What the client reads; never the upstream's address, nor whether something hidden exists.
    message: String,
    retry_after: Option<u32>,
    allow: Option<&'static str>,
    /// What is wrong with the token that was shown (RFC 6750 section 3.1).
    token_error: Option<&'static str>,
}

impl Rejection {
    /// The answer to the client.
    pub fn answer(&self, manner: &ResponseFormat) -> Response<Body> {
        let mut verdict = self.verdict();
        if verdict.status == StatusCode::MISDIRECTED_REQUEST {
            verdict.message = self.in_words(manner);
        }
        let mut headers = HeaderMap::new();
        if let Some(seconds) = verdict.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(allow) = verdict.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if let (StatusCode::UNAUTHORIZED, Some(challenge)) = (verdict.status, &manner.challenge)
            && let Some(challenge) = challenge.value(verdict.token_error)
        {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        // On this connection it would be the same again; HTTP/2 has nothing but the status to say so.
        if matches!(self, Self::OtherTrust) && manner.http1 {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let (kind, body) = verdict.body(manner);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        let mut response = Response::new(if manner.head {
            Body::empty()
        } else {
            Body::full(body)
        });
        *response.status_mut() = verdict.status;
        *response.headers_mut() = headers;
        response
    }

    /// The reason in words, as the log and the status page have it. What is wrong with the requested host names that host,
    /// so that an operator sees which name is missing in the configuration, or which client asks for a wrong one.
    pub fn in_words(&self, manner: &ResponseFormat) -> String {
        match &manner.requested_host {
            Some(host) if self.reason() == Reason::Host => format!("{self}: {host}"),
            _ => self.to_string(),
        }
    }

    /// True when the upstream is to blame, which an operator should hear of.
    pub fn is_upstream_fault(&self) -> bool {
        match self {
            Self::Forward(forward::Error::Upstream(error)) => {
                !matches!(error, upstream::Error::Body(_))
            }
            Self::Catalog(CatalogError::Unreadable) => true,
            _ => false,
        }
    }
}
