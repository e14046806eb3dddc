//! Which status, code and words each reason gets.
//!
//! Called by `refusal`. Matched without a wildcard: a new reason does not compile until it stands here.

use http::StatusCode;

use super::{Refusal, Verdict};
use crate::access::Denied;
use crate::auth;
use crate::body;
use crate::forward;
use crate::registry::Invalid;
use crate::registry::catalog::Fault;
use crate::registry::errors::Code;
use crate::target;
use crate::upstream;

impl Refusal {
    pub(super) fn verdict(&self) -> Verdict {
        match self {
            Self::Target(error) => of_target(error),
            Self::NoSite => Verdict::new(421, Code::Unsupported, self),
            Self::OtherTrust => Verdict::new(421, Code::Unsupported, self),
            Self::NoRoute => Verdict::new(404, Code::Unsupported, self),
            Self::Closed(status) => of_closed(*status),
            Self::TargetTooLong => Verdict::new(414, Code::Unsupported, self),
            Self::TooManyFields => Verdict::new(431, Code::Unsupported, self),
            Self::Auth(error) => of_auth(error),
            Self::Denied(Denied::Anonymous) => Verdict::unauthorized(),
            Self::Denied(Denied::Scope) => {
                Verdict::unauthorized().token_error("insufficient_scope")
            }
            Self::Denied(error @ Denied::Forbidden) => Verdict::new(403, Code::Denied, error),
            Self::Invalid(invalid) => of_invalid(invalid),
            Self::Catalog(fault) => of_catalog(*fault),
            Self::Method => Verdict::new(405, Code::Unsupported, self)
                .allow("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
            Self::TokenMethod => Verdict::new(405, Code::Unsupported, self).allow("GET, POST"),
            Self::Form(error) => of_body(error),
            Self::Crowded => Verdict::new(503, Code::Unavailable, self).retry_after(2),
            Self::TransferCoding => Verdict::new(501, Code::Unsupported, self),
            Self::Expectation => Verdict::new(417, Code::Unsupported, self),
            Self::TooLarge(_) => Verdict::new(413, Code::SizeInvalid, self),
            Self::PlainHttp => Verdict::new(400, Code::Unsupported, self),
            Self::Forward(forward::Error::Upstream(error)) => of_upstream(error),
            Self::Forward(error @ forward::Error::Form) => {
                Verdict::new(415, Code::Unsupported, error)
            }
            Self::Forward(error @ forward::Error::Target) => {
                Verdict::new(400, Code::Unsupported, error)
            }
        }
    }
}

fn of_target(error: &target::Error) -> Verdict {
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
    Verdict::new(status, Code::Unsupported, error)
}

/// A closed path looks as one that is not there, when it says that it is not there.
fn of_closed(status: StatusCode) -> Verdict {
    let code = match status.as_u16() {
        403 => Code::Denied,
        413 => Code::SizeInvalid,
        429 => Code::TooManyRequests,
        500.. => Code::Unavailable,
        _ => Code::Unsupported,
    };
    let message = match status {
        StatusCode::NOT_FOUND => Refusal::NoRoute.to_string(),
        _ => status.canonical_reason().unwrap_or("closed").to_lowercase(),
    };
    Verdict::new(status.as_u16(), code, message)
}

fn of_auth(error: &auth::Error) -> Verdict {
    match error {
        auth::Error::Wrong | auth::Error::Unusable => Verdict::unauthorized(),
        auth::Error::Login | auth::Error::UnusableLogin => {
            Verdict::new(401, Code::Unauthorized, auth::Error::Login)
        }
        auth::Error::Token => Verdict::unauthorized().token_error("invalid_token"),
        auth::Error::Network => Verdict::new(403, Code::Denied, error),
        auth::Error::Malformed(_) => Verdict::new(400, Code::Unsupported, error),
        auth::Error::Twice => Verdict::new(400, Code::Unauthorized, error),
        auth::Error::TooMany { after } => {
            let seconds = u32::try_from(after.as_secs()).unwrap_or(u32::MAX);
            Verdict::new(429, Code::TooManyRequests, error).retry_after(seconds.saturating_add(1))
        }
        auth::Error::Busy => Verdict::new(503, Code::Unavailable, error).retry_after(2),
    }
}

fn of_invalid(invalid: &Invalid) -> Verdict {
    let verdict = Verdict {
        status: invalid.status(),
        code: invalid.code(),
        message: invalid.to_string(),
        retry_after: None,
        allow: None,
        token_error: None,
    };
    match invalid {
        Invalid::Method { allow } => verdict.allow(allow),
        Invalid::Name(_)
        | Invalid::Tag
        | Invalid::Digest
        | Invalid::Query(_)
        | Invalid::UnknownManifest
        | Invalid::TooManyTags
        | Invalid::PageSize
        | Invalid::Path(_)
        | Invalid::NotFound => verdict,
    }
}

fn of_catalog(fault: Fault) -> Verdict {
    match fault {
        Fault::Missing => Verdict::new(404, Code::Unsupported, fault),
        Fault::Unreadable => Verdict::new(502, Code::Unavailable, fault),
        Fault::TooLong => Verdict::new(503, Code::Unavailable, fault).retry_after(60),
    }
}

fn of_upstream(error: &upstream::Error) -> Verdict {
    use upstream::Error as E;
    match error {
        E::Connect(_)
        | E::ConnectTimeout(_)
        | E::Tls(_)
        | E::Closed(_)
        | E::Malformed(_)
        | E::Write(_) => Verdict::new(
            502,
            Code::Unavailable,
            "the registry behind this gate is not available; try again later",
        ),
        E::Silent(_) => Verdict::new(
            504,
            Code::Unavailable,
            "the registry behind this gate did not answer in time",
        ),
        E::Busy | E::Exhausted(_) => Verdict::new(
            503,
            Code::Unavailable,
            "the registry behind this gate is busy; try again later",
        )
        .retry_after(1),
        E::Body(error) => of_body(error),
    }
}

fn of_body(error: &body::Error) -> Verdict {
    match error {
        body::Error::TooLarge { .. } => Verdict::new(413, Code::SizeInvalid, error),
        body::Error::Idle(_) | body::Error::Slow(_) => Verdict::new(408, Code::Unsupported, error),
        body::Error::Client(_)
        | body::Error::Reset
        | body::Error::Upstream(_)
        | body::Error::Silent(_)
        | body::Error::Displaced => Verdict::new(400, Code::Unsupported, error),
    }
}
