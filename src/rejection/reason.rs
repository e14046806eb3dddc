//! The reason of a refusal as a metric has it: one of a few words.
//!
//! Called by `service` for each refusal. Matched without a wildcard, as the answers are.

use crate::access::Denied;
use crate::auth;
use crate::body;
use crate::forward;
use crate::metrics::Reason;
use crate::registry::catalog::CatalogError;
use crate::rejection::Rejection;
use crate::target;
use crate::upstream;

impl Rejection {
    /// What it counts as.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Target(target::Error::ForeignAuthority) | Self::NoSite | Self::OtherTrust => {
                Reason::Host
            }
            Self::NoRoute | Self::Closed(_) | Self::Catalog(CatalogError::Missing) => Reason::Path,
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
            | Self::Method
            | Self::TokenMethod
            | Self::TransferCoding
            | Self::Expectation
            | Self::Forward(forward::Error::Form | forward::Error::Target) => Reason::Malformed,
            Self::TargetTooLong | Self::TooManyFields | Self::TooLarge(_) => Reason::TooLarge,
            Self::Auth(error) => of_auth(error),
            Self::Denied(Denied::Anonymous) => Reason::NoCredentials,
            Self::Denied(Denied::Scope | Denied::Forbidden) => Reason::Forbidden,
            Self::Catalog(CatalogError::Unreadable) => Reason::UpstreamBroken,
            Self::Catalog(CatalogError::TooLong) | Self::Crowded => Reason::Busy,
            Self::PlainHttp => Reason::PlainHttp,
            Self::Form(error) => of_body(error),
            Self::Forward(forward::Error::Upstream(error)) => of_upstream(error),
        }
    }
}

fn of_auth(error: &auth::Error) -> Reason {
    match error {
        auth::Error::Wrong
        | auth::Error::Login
        | auth::Error::Unusable
        | auth::Error::UnusableLogin => Reason::WrongPassword,
        auth::Error::Token => Reason::InvalidToken,
        auth::Error::Network => Reason::Network,
        auth::Error::Malformed(_) | auth::Error::Twice => Reason::Malformed,
        auth::Error::TooMany { .. } => Reason::Throttled,
        auth::Error::Busy => Reason::Busy,
    }
}

fn of_upstream(error: &upstream::Error) -> Reason {
    use upstream::Error as E;
    match error {
        E::Connect(_) | E::ConnectTimeout(_) | E::Tls(_) => Reason::UpstreamUnreachable,
        E::Closed(_) | E::Malformed(_) | E::Write(_) => Reason::UpstreamBroken,
        E::Silent(_) => Reason::UpstreamSilent,
        E::Busy | E::Exhausted(_) => Reason::UpstreamBusy,
        E::Body(error) => of_body(error),
    }
}

fn of_body(error: &body::Error) -> Reason {
    match error {
        _ if error.is_client_gone() => Reason::ClientGone,
        body::Error::TooLarge { .. } => Reason::TooLarge,
        body::Error::Idle(_) | body::Error::Slow(_) | body::Error::Displaced => Reason::Slow,
        body::Error::Client(_) | body::Error::Reset => Reason::Malformed,
        body::Error::Upstream(_) | body::Error::Silent(_) => Reason::UpstreamBroken,
    }
}
