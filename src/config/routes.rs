//! From a `[[site.route]]` table to a [`Route`], or to a response of the gate's own.
//!
//! Called by `sites` alone. What a route says beside where it leads and who may use it is read in the files below.

use super::problem::{Position, Problem};
use super::sites::SiteParser;
use super::table::{Spanned, Table};
use super::units;
use super::{Auth, Route};
use crate::forward::HeaderEdits;
use crate::registry::is_registry_path;
use crate::site::StaticResponse;

mod fields;
mod networks;
mod origins;
mod respond;

use fields::edits;

/// What a table came to.
pub(super) enum Lead {
    /// It leads to an upstream.
    Route(Box<Route>),
    /// The gate answers.
    Response(StaticResponse),
}

impl Lead {
    pub(super) fn path(&self) -> &str {
        match self {
            Self::Route(route) => &route.path,
            Self::Response(response) => &response.path,
        }
    }
}

impl SiteParser<'_, '_> {
    pub(super) fn lead(
        &self,
        route: &Table<'_>,
        site_auth: Option<&Auth>,
        site_place: Option<Position>,
    ) -> Option<Lead> {
        route.required("path", "path = \"/v2/\"");
        let path = route.parse("path", units::path_prefix);
        if let Some(path) = &path {
            check_case(route, path);
        }
        if route.place_of("respond").is_some() {
            return respond::read(route, path).map(Lead::Response);
        }
        route.required("upstream", "upstream = \"http://127.0.0.1:5000\"");
        let auth = self.auth_of(route, site_auth, site_place.is_some());
        let auth_place = route.place_of("auth").or(site_place);
        let mut read = self.route(route, path, auth)?;
        read.auth_place = auth_place.unwrap_or(read.auth_place);
        Some(Lead::Route(Box::new(read)))
    }

    /// The route's own, or its site's.
    fn auth_of(
        &self,
        route: &Table<'_>,
        site_auth: Option<&Auth>,
        has_site_auth: bool,
    ) -> Option<Auth> {
        let own = route.table("auth");
        if !has_site_auth {
            route.required(
                "auth",
                "auth = { mode = \"basic\", htpasswd = \"htpasswd\" }, here or in the site",
            );
        }
        match &own {
            Some(table) => self.auth(table),
            None => site_auth.cloned(),
        }
    }

    fn route(
        &self,
        route: &Table<'_>,
        path: Option<Spanned<String>>,
        auth: Option<Auth>,
    ) -> Option<Route> {
        let upstream = self.upstream(route);
        let registry = route.boolean_or("registry", true);
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
            path.as_ref().map(|path| path.value.as_str()),
            registry && may_be_registry(path.as_ref()),
        );
        let internal = origins::internal(route);
        let admission = networks::admission(route, auth.as_ref(), granted.as_ref());
        let cors = origins::cors(route);
        Some(Route {
            auth_place: route.place(),
            path: path?.value,
            registry,
            auth: auth?,
            upstream: upstream?,
            max_body: (max_body > 0).then_some(max_body),
            internal,
            edits,
            admission,
            cors,
            granted,
        })
    }
}

/// Warns of a path that is the registry's but for the case of its letter.
fn check_case(route: &Table<'_>, path: &Spanned<String>) {
    let Some(rest) = path.strip_prefix("/V2") else {
        return;
    };
    if !rest.is_empty() && !rest.starts_with('/') {
        return;
    }
    let what = format!("no registry client ever asks for {}", path.value);
    route.report(
        Problem::warning(path.place, what)
            .because("the API is below /v2/, and upper and lower case are different paths (RFC 3986 section 6.2.2.1)")
            .fix(units::write(format_args!("/v2{rest}"))),
    );
}

/// Tokens are for repositories, and docker asks for all of them where `/v2/` is.
fn check_token(route: &Table<'_>, path: &Spanned<String>, registry: bool) {
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
fn may_be_registry(path: Option<&Spanned<String>>) -> bool {
    path.is_none_or(|path| path.trim_end_matches('/').is_empty() || is_registry_path(path))
}

#[cfg(test)]
mod tests;
