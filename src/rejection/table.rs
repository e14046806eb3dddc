//! Which status, code and words each reason gets.
//!
//! Called by `refusal`. Matched without a wildcard: a new reason does not compile until it stands here.

use http::StatusCode;

use crate::access::Denied;
use crate::auth;
use crate::body;
use crate::forward;
use crate::registry::RegistryError;
use crate::registry::catalog::CatalogError;
use crate::registry::errors::ErrorCode;
use crate::rejection::{ErrorResponse, Rejection};
use crate::target;
use crate::upstream;

impl Rejection {
    pub(super) fn verdict(&self) -> ErrorResponse {
        match self {
            Self::Target(error) => of_target(error),
            Self::NoSite => ErrorResponse::new(421, ErrorCode::Unsupported, self),
            Self::OtherTrust => ErrorResponse::new(421, ErrorCode::Unsupported, self),
            Self::NoRoute => ErrorResponse::new(404, ErrorCode::Unsupported, self),
            Self::Closed(status) => of_closed(*status),
            Self::TargetTooLong => ErrorResponse::new(414, ErrorCode::Unsupported, self),
            Self::TooManyFields => ErrorResponse::new(431, ErrorCode::Unsupported, self),
            Self::Auth(error) => of_auth(error),
            Self::Denied(Denied::Anonymous) => ErrorResponse::unauthorized(),
            Self::Denied(Denied::Scope) => {
                ErrorResponse::unauthorized().token_error("insufficient_scope")
            }
            Self::Denied(error @ Denied::Forbidden) => {
                ErrorResponse::new(403, ErrorCode::Denied, error)
            }
            Self::Invalid(invalid) => of_invalid(invalid),
            Self::Catalog(fault) => of_catalog(*fault),
            Self::Method => ErrorResponse::new(405, ErrorCode::Unsupported, self)
                .allow("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
            Self::TokenMethod => {
                ErrorResponse::new(405, ErrorCode::Unsupported, self).allow("GET, POST")
            }
            Self::Form(error) => of_body(error),
            Self::Crowded => ErrorResponse::new(503, ErrorCode::Unavailable, self).retry_after(2),
            Self::TransferCoding => ErrorResponse::new(501, ErrorCode::Unsupported, self),
            Self::Expectation => ErrorResponse::new(417, ErrorCode::Unsupported, self),
            Self::TooLarge(_) => ErrorResponse::new(413, ErrorCode::SizeInvalid, self),
            Self::PlainHttp => ErrorResponse::new(400, ErrorCode::Unsupported, self),
            Self::Forward(forward::Error::Upstream(error)) => of_upstream(error),
            Self::Forward(error @ forward::Error::Form) => {
                ErrorResponse::new(415, ErrorCode::Unsupported, error)
            }
            Self::Forward(error @ forward::Error::Target) => {
                ErrorResponse::new(400, ErrorCode::Unsupported, error)
            }
        }
    }
}

fn of_target(error: &target::Error) -> ErrorResponse {
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

/// A closed path looks as one that is not there, when it says that it is not there.
fn of_closed(status: StatusCode) -> ErrorResponse {
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
    ErrorResponse::new(status.as_u16(), code, message)
}

fn of_auth(error: &auth::Error) -> ErrorResponse {
    match error {
        auth::Error::Wrong | auth::Error::Unusable => ErrorResponse::unauthorized(),
        auth::Error::Login | auth::Error::UnusableLogin => {
            ErrorResponse::new(401, ErrorCode::Unauthorized, auth::Error::Login)
        }
        auth::Error::Token => ErrorResponse::unauthorized().token_error("invalid_token"),
        auth::Error::Network => ErrorResponse::new(403, ErrorCode::Denied, error),
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

fn of_invalid(invalid: &RegistryError) -> ErrorResponse {
    let verdict = ErrorResponse {
        status: invalid.status(),
        code: invalid.code(),
        message: invalid.to_string(),
        retry_after: None,
        allow: None,
        token_error: None,
    };
    match invalid {
        RegistryError::Method { allow } => verdict.allow(allow),
        RegistryError::Name(_)
        | RegistryError::Tag
        | RegistryError::Digest
        | RegistryError::Query(_)
        | RegistryError::UnknownManifest
        | RegistryError::TooManyTags
        | RegistryError::PageSize
        | RegistryError::Path(_)
        | RegistryError::NotFound => verdict,
    }
}

fn of_catalog(fault: CatalogError) -> ErrorResponse {
    match fault {
        CatalogError::Missing => ErrorResponse::new(404, ErrorCode::Unsupported, fault),
        CatalogError::Unreadable => ErrorResponse::new(502, ErrorCode::Unavailable, fault),
        CatalogError::TooLong => {
            ErrorResponse::new(503, ErrorCode::Unavailable, fault).retry_after(60)
        }
    }
}

fn of_upstream(error: &upstream::Error) -> ErrorResponse {
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
            "the registry behind this gate is not available; try again later",
        ),
        E::Silent(_) => ErrorResponse::new(
            504,
            ErrorCode::Unavailable,
            "the registry behind this gate did not answer in time",
        ),
        E::Busy | E::Exhausted(_) => ErrorResponse::new(
            503,
            ErrorCode::Unavailable,
            "the registry behind this gate is busy; try again later",
        )
        .retry_after(1),
        E::Body(error) => of_body(error),
    }
}

fn of_body(error: &body::Error) -> ErrorResponse {
    match error {
        body::Error::TooLarge { .. } => ErrorResponse::new(413, ErrorCode::SizeInvalid, error),
        body::Error::Idle(_) | body::Error::Slow(_) => {
            ErrorResponse::new(408, ErrorCode::Unsupported, error)
        }
        body::Error::Client(_)
        | body::Error::Reset
        | body::Error::Upstream(_)
        | body::Error::Silent(_)
        | body::Error::Displaced => ErrorResponse::new(400, ErrorCode::Unsupported, error),
    }
}
