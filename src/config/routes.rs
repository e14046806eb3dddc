//! From a `[[site.route]]` table to a [`Route`].
//!
//! Called by `sites` alone.

use http::{HeaderName, HeaderValue};

use super::problem::Problem;
use super::sites::Reader;
use super::table::{Placed, Table};
use super::units;
use super::{Auth, Route};
use crate::forward::HeaderEdits;
use crate::forward::headers::{Edits, is_reserved};
use crate::registry::is_registry_path;

impl Reader<'_, '_> {
    pub(super) fn route(
        &self,
        route: &Table<'_>,
        site_auth: Option<&Auth>,
        has_site_auth: bool,
    ) -> Option<Route> {
        route
            .required("path", "path = \"/v2/\"")
            .required("upstream", "upstream = \"http://127.0.0.1:5000\"");
        let path = route.parse("path", units::path_prefix);
        let upstream = self.upstream(route);
        let registry = route.boolean_or("registry", true);
        let own = route.table("auth");
        let auth = match &own {
            Some(table) => self.auth(table),
            None => site_auth.cloned(),
        };
        if own.is_none() && !has_site_auth {
            route.required(
                "auth",
                "auth = { mode = \"basic\", htpasswd = \"htpasswd\" }, here or in the site",
            );
        }
        if let (Some(path), Some(Auth::Token { .. })) = (&path, &auth) {
            check_token(route, path, registry);
        }
        let max_body = route.size_or_bytes("max_body").map_or(0, |size| size.value);
        let edits = HeaderEdits {
            request: edits(route, "request_headers"),
            response: edits(route, "response_headers"),
        };
        let granted = self.granted(
            route,
            auth.as_ref(),
            registry && may_be_registry(path.as_ref()),
        );
        Some(Route {
            path: path?.value,
            registry,
            auth: auth?,
            upstream: upstream?,
            max_body: (max_body > 0).then_some(max_body),
            edits,
            granted,
        })
    }
}

/// Tokens are for repositories, and docker asks for all of them where `/v2/` is.
fn check_token(route: &Table<'_>, path: &Placed<String>, registry: bool) {
    if !registry {
        let what = "a route that is no registry has mode = \"token\"";
        route.report(
            Problem::error(route.place_of("registry"), what)
                .because("tokens are for repositories; nothing else could be reached with one")
                .fix("write mode = \"basic\""),
        );
    }
    if !matches!(path.trim_end_matches('/'), "" | "/v2") {
        let what = format!("the route {} has tokens of its own", path.value);
        route.report(
            Problem::warning(path.place, what)
                .because("docker, podman and skopeo ask at /v2/ for tokens, which are worth nothing here")
                .fix("serve all of /v2/ by one route"),
        );
    }
}

/// Whether `/v2/`, or a part of it, is below the path. One that is wrong has its own problem.
fn may_be_registry(path: Option<&Placed<String>>) -> bool {
    path.is_none_or(|path| path.trim_end_matches('/').is_empty() || is_registry_path(path))
}

fn edits(route: &Table<'_>, key: &'static str) -> Edits {
    let mut edits = Edits::new();
    for (name, value) in route.pairs(key).unwrap_or_default() {
        let header = HeaderName::from_bytes(name.as_bytes()).ok();
        match header {
            None => route.report(Problem::error(
                name.place,
                format!("{:?} is no header name", name.value),
            )),
            Some(header) if is_reserved(&header) => route.report(
                Problem::error(name.place, format!("{header} cannot be set or removed"))
                    .because("the gate vouches for it, or it frames the message"),
            ),
            Some(header) if value.is_empty() => edits.push((header, None)),
            Some(header) => match HeaderValue::from_str(&value) {
                Ok(value) => edits.push((header, Some(value))),
                Err(_) => route.report(Problem::error(
                    value.place,
                    format!("the value of {header} cannot stand in a header"),
                )),
            },
        }
    }
    edits
}
