//! Under which origin a client knows the gate, and what a challenge says there.
//!
//! Called by `service` for each request that is passed on.

use crate::auth::Challenge;
use crate::forward::{Origin, Outer};
use crate::registry::Operation;
use crate::site::{Route, Site};
use crate::target::Target;

/// What a 401 says here, for this operation.
pub(super) fn challenge(
    route: &Route,
    outer: Outer<'_>,
    operation: Option<&Operation>,
) -> Option<Challenge> {
    let authenticator = &route.authenticator;
    authenticator.challenge(outer.scheme, outer.authority, operation)
}

/// The configuration's word, or else the client's own.
pub(super) fn outer_origin<'a>(site: &'a Site, target: &'a Target, scheme: &'a str) -> Outer<'a> {
    let as_addressed = Outer {
        scheme,
        authority: target.authority(),
    };
    site.external
        .as_ref()
        .map_or(as_addressed, Origin::as_outer)
}
