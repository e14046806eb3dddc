//! `respond`: a path that leads to no upstream.
//!
//! Called by `routes`.

use super::super::problem::Problem;
use super::super::table::{Spanned, Table};
use crate::site::StaticResponse;

/// Reads what there is to read; every other key of a route would do nothing here.
pub(super) fn read(route: &Table<'_>, path: Option<Spanned<String>>) -> Option<StaticResponse> {
    let status = route.status("respond")?;
    if status.is_redirection() || matches!(status.as_u16(), 401 | 407) {
        let what = format!("respond is {}", status.as_u16());
        route.report(
            Problem::error(status.place, what)
                .because("such an answer says where to go, or what to log in with, and there is nothing to say")
                .fix("write a status such as 404 or 403"),
        );
    }
    if let Some(place) = route.place_of("upstream") {
        route.report(
            Problem::error(place, "a route has both respond and upstream")
                .because("nothing would ever reach the upstream")
                .fix("remove one of them"),
        );
    }
    for key in USELESS {
        if let Some(place) = route.place_of(key) {
            let what = format!("{key} in a route with respond");
            route.report(
                Problem::error(place, what)
                    .because("everyone gets the same answer there, without a password")
                    .fix("remove it"),
            );
        }
    }
    Some(StaticResponse {
        path: path?.value,
        status: status.value,
    })
}

const USELESS: [&str; 11] = [
    "auth",
    "grant",
    "registry",
    "max_body",
    "internal_origins",
    "request_headers",
    "response_headers",
    "allow",
    "deny",
    "satisfy",
    "cors",
];
