//! Under which origin a client knows the gate, and what a challenge says there.
//!
//! Called by `service` for each request that is passed on.

use crate::forward::{ExternalOrigin, Origin};
use crate::registry::Operation;
use crate::site::{Route, Site};
use crate::target::Target;
use crate::www_authenticate::Challenge;

/// What a 401 says here, for this operation.
pub(super) fn challenge(
    route: &Route,
    outer: ExternalOrigin<'_>,
    operation: Option<&Operation>,
) -> Option<Challenge> {
    let authenticator = &route.authenticator;
    authenticator.challenge(outer.scheme, outer.authority, operation)
}

/// The configured `external_url`, or else the origin that the client addressed, without the colon of an empty port: a URL is
/// the same without it (RFC 3986 section 6.2.3), and not every client takes it with one.
pub(super) fn external_origin<'a>(
    site: &'a Site,
    target: &'a Target,
    scheme: &'a str,
) -> ExternalOrigin<'a> {
    let authority = target.authority();
    let as_addressed = ExternalOrigin {
        scheme,
        authority: authority.strip_suffix(':').unwrap_or(authority),
    };
    site.external
        .as_ref()
        .map_or(as_addressed, Origin::to_external)
}
