//! The locations of a server block as the routes of a site, by their usual meaning.
//!
//! A route is a path prefix on a segment boundary, so it may match other requests than its location. `compare` finds these requests and
//! closes the routes where nginx would not forward them.

use std::collections::HashMap;

use crate::config::redirect_location;
use crate::site::is_path_prefix;

use crate::import::nginx::access;
use crate::import::nginx::access::DENY_ALL;
use crate::import::nginx::context::Context;
use crate::import::nginx::headers;
use crate::import::nginx::if_blocks;
use crate::import::nginx::location;
use crate::import::nginx::location::{Location, Paths, is_file_protection};
use crate::import::nginx::location_search::LocationNode;
use crate::import::nginx::method_access;
use crate::import::nginx::nginx_model::NginxModel;
use crate::import::nginx::output::{Line, Route, RouteAction, Value};
use crate::import::nginx::parser::{Directive, SourcePos};
use crate::import::nginx::placeholders;
use crate::import::nginx::remarks::BUILT_IN;
use crate::import::nginx::scope::Scope;
use crate::import::nginx::server_block::ServerBlock;
use crate::import::nginx::units;
use crate::import::nginx::upstream;

/// Translates all locations of a server block, in their order.
pub(crate) fn all<'a>(
    context: &mut Context<'_>,
    model: &NginxModel<'a>,
    server: &ServerBlock<'a>,
) -> Vec<Route> {
    let mut locations = location::read(server.directive.inner(), &server.scope);
    follow_try_files(&mut locations);
    let order: Vec<_> = locations.iter().map(|l| l.directive.at).collect();
    // Of two locations for one path, nginx tries regular expressions first, /v2/ has more paths than /v2, and an exact
    // location has one.
    locations.sort_by_key(|location| match &location.paths {
        Paths::Prefixes(_) => 0,
        Paths::Prefix(path) if path.ends_with('/') => 1,
        Paths::Prefix(_) => 2,
        _ => 3,
    });
    let mut routes: Vec<Route> = Vec::new();
    for location in &locations {
        match location.paths {
            Paths::Internal => {
                let label = location.directive.label();
                let at = location.directive.at;
                context.unsupported_as(INTERNAL, at, label);
            }
            Paths::Pattern => warn_of_pattern(context, location.directive),
            _ => {}
        }
        for route in location_routes(context, model, server.directive.at, location) {
            add(context, &mut routes, route);
        }
    }
    split_for_websockets(context, &locations, &mut routes);
    routes.sort_by_key(|route| order.iter().position(|at| *at == route.at));
    without_redundant(routes)
}

/// Adds a route, unless there is one for the same path that does more.
fn add(context: &mut Context<'_>, routes: &mut Vec<Route>, route: Route) {
    let mut same = routes.iter_mut();
    let Some(known) = same.find(|known| known.has_path(&route.path)) else {
        routes.push(route);
        return;
    };
    if matches!(known.action, RouteAction::NotSupported(_)) {
        *known = route;
    } else if !matches!(route.action, RouteAction::NotSupported(_)) {
        let what = format!(
            "location {} is left out: another location is the route for {}",
            route.location, route.path
        );
        context.warn(route.at, what);
    }
}

/// Makes a route of its own for `/v2/` if nginx passes WebSockets in `location /`: they pass on routes that are no registry.
fn split_for_websockets(
    context: &mut Context<'_>,
    locations: &[Location<'_>],
    routes: &mut Vec<Route>,
) {
    let has_websockets = |route: &Route| {
        let mut at = locations.iter().filter(|l| l.directive.at == route.at);
        at.any(|location| headers::passes_websockets(&location.effective))
    };
    let has_registry = routes
        .iter()
        .any(|route| is_path_prefix(&route.path, "/v2"));
    let mut registries = Vec::new();
    for route in routes.iter_mut() {
        if is_path_prefix(&route.path, "/v2") || !has_websockets(route) {
            continue;
        }
        let whole = route.clone();
        let RouteAction::Forward { lines, grants } = &mut route.action else {
            continue;
        };
        if lines.iter().any(|line| line.key == "registry") {
            continue;
        }
        if !grants.is_empty() {
            let what = "WebSockets do not pass on this route, because it has grants";
            context.warn(route.at, what);
            continue;
        }
        let line = Line::new("registry", Value::Flag(false));
        lines.insert(
            1,
            line.with_comment("for the WebSockets, which nginx passes here"),
        );
        if route.path == "/" && !has_registry {
            registries.push(Route {
                path: "/v2/".to_owned(),
                comment: Some("a registry has no WebSockets".to_owned()),
                ..whole
            });
        }
    }
    registries.append(routes);
    *routes = registries;
}

fn warn_of_pattern(context: &mut Context<'_>, location: &Directive) {
    let label = location.label();
    let what = if is_file_protection(location) {
        format!(
            "{label} is left out: tidegate serves no files, and forwards such paths to the upstream"
        )
    } else {
        format!(
            "{label} is left out: a route is a prefix; its requests take the route of their path, unless it is closed"
        )
    };
    context.warn(location.at, what);
}

/// `try_files $uri @name`: without files, every request that passes the location goes on to the named location.
fn follow_try_files(locations: &mut [Location<'_>]) {
    let named: HashMap<_, _> = locations
        .iter()
        .filter(|location| location.directive.first().starts_with('@'))
        .map(|location| (location.directive.first(), location.directive.inner()))
        .collect();
    for location in locations {
        let own = location.scope.own();
        let decides = ["return", "if", "limit_except", "proxy_pass"];
        let Some(files) = own.iter().find(|d| d.name == "try_files") else {
            continue;
        };
        let target = files.args.last().and_then(|name| named.get(name.as_str()));
        if let Some(block) = target
            && !own.iter().any(|d| decides.contains(&d.name.as_str()))
        {
            location.effective = location.scope.inner(block);
        }
    }
}

/// The routes of a location: one for each prefix.
fn location_routes<'a>(
    context: &mut Context<'_>,
    model: &NginxModel<'a>,
    server: SourcePos,
    location: &Location<'a>,
) -> Vec<Route> {
    let (paths, comment) = match &location.paths {
        Paths::Prefix(path) => (vec![path.clone()], prefix_comment(path)),
        Paths::Exact(path) => (
            vec![path.clone()],
            Some("nginx meant this path alone; a route also matches all paths below it".to_owned()),
        ),
        Paths::Prefixes(paths) => (paths.clone(), Some("from a regular expression".to_owned())),
        Paths::Pattern | Paths::Internal => return Vec::new(),
    };
    let has_nested = location.directive.all("location").next().is_some();
    if has_nested && !has_handler(location) {
        return Vec::new();
    }
    let routes = paths.into_iter().map(|path| Route {
        at: location.directive.at,
        location: location.directive.args.join(" "),
        action: action(context, model, server, location, &path),
        path,
        comment: comment.clone(),
    });
    routes.collect()
}

/// Whether the location itself handles requests.
fn has_handler(location: &Location<'_>) -> bool {
    let mut own = location.effective.own().iter();
    own.any(|d| d.name == "return" || d.name.ends_with("_pass"))
}

fn action<'a>(
    context: &mut Context<'_>,
    model: &NginxModel<'a>,
    server: SourcePos,
    location: &Location<'a>,
    path: &str,
) -> RouteAction {
    let scope = &location.effective;
    let at = location.directive.at;
    if let Some(response) = scope.own().iter().find(|d| d.name == "return") {
        return static_response(context, response, path);
    }
    if_blocks::note(context, scope.own());
    let pass = scope.own().iter().find(|d| d.name == "proxy_pass");
    let by_method = match pass {
        Some(_) => {
            let node = LocationNode::alone(location.directive, location.scope.clone());
            method_access::read(model, server, &node, path)
        }
        None => Ok(None),
    };
    let warnings = context.remarks.warning_count();
    let access = by_method.map_err(str::to_owned);
    let access =
        access.and_then(|by_method| access::access(context, scope, path, by_method.as_ref()));
    let access = match access {
        Ok(access) => access,
        Err(why) if why == DENY_ALL => return RouteAction::respond(403, Some(why)),
        Err(why) => {
            context.remarks.forget_warnings(warnings, |_| true);
            context.warn(
                at,
                format!("the route is closed, because its access control has no key ({why}): write upstream and auth in place of respond when you know who may use it"),
            );
            return RouteAction::respond(403, Some(format!("closed: {why}")));
        }
    };
    let Some(pass) = pass else {
        return RouteAction::NotSupported(without_upstream(context, location));
    };
    let has_prefix = matches!(location.paths, Paths::Prefix(_));
    match upstream::upstream(
        context,
        pass,
        scope,
        path,
        has_prefix && access.grants.is_empty(),
    ) {
        Err(why) => {
            context.remarks.forget_warnings(warnings, |_| true);
            let what = format!("the location is left out: {why}");
            context.warn(pass.at, &what);
            RouteAction::NotSupported(why)
        }
        Ok(upstream) => {
            let mut lines = vec![upstream.line];
            if upstream.has_path {
                lines.push(Line::new("registry", Value::Flag(false)).with_comment(
                    "the path of the upstream differs: tidegate does not read the requests as those of a registry",
                ));
                if !headers::passes_websockets(scope) {
                    let line = Line::new("websocket", Value::Flag(false));
                    lines.push(line.with_comment("nginx passes no WebSockets here"));
                }
            }
            lines.extend(access.lines);
            lines.extend(max_body(context, scope, at));
            lines.extend(headers::headers(context, scope, path, access.has_users));
            RouteAction::Forward {
                lines,
                grants: access.grants,
            }
        }
    }
}

/// Translates a `return`.
fn static_response(context: &mut Context<'_>, response: &Directive, path: &str) -> RouteAction {
    let target = response.args.last().map_or("", String::as_str);
    let has_text = response.args.len() > 1;
    let text = || {
        let text = placeholders::translate(target, placeholders::in_response);
        text.filter(|text| !text.is_empty())
    };
    // A URL alone is a 302.
    let status = response.first().parse::<u16>().unwrap_or(302);
    match status {
        444 => RouteAction::respond(403, Some("nginx closed the connection".to_owned())),
        // A challenge that cannot be met would make clients ask for passwords in vain.
        401 | 407 => RouteAction::respond(403, Some(format!("{status} in nginx"))),
        200..=299 | 400..=599 => {
            match text().filter(|_| has_text && !matches!(status, 204 | 205)) {
                Some(text) => RouteAction::Respond {
                    status,
                    content: Some(("text", text)),
                    comment: None,
                },
                None => {
                    let comment = has_text.then(|| "without the text that nginx sent".to_owned());
                    RouteAction::respond(status, comment)
                }
            }
        }
        301 | 302 | 303 | 307 | 308 => {
            if target.trim_end_matches('/') == path.trim_end_matches('/') {
                context.unsupported(BUILT_IN, response);
                return RouteAction::NotSupported("nginx redirects here".to_owned());
            }
            match text().filter(|location| redirect_location(location).is_ok()) {
                Some(location) => RouteAction::Respond {
                    status,
                    content: Some(("location", location)),
                    comment: None,
                },
                None => {
                    let what = "the destination of this redirect has a value that tidegate does not know; left out";
                    context.warn(response.at, what);
                    RouteAction::NotSupported("nginx redirects here".to_owned())
                }
            }
        }
        _ => {
            let what = "tidegate does not send this status by itself; left out";
            context.warn(response.at, what);
            RouteAction::NotSupported("nginx responds here".to_owned())
        }
    }
}

/// Why a location without `proxy_pass` has no route that forwards.
fn without_upstream(context: &mut Context<'_>, location: &Location<'_>) -> String {
    let other = [
        "fastcgi_pass",
        "uwsgi_pass",
        "scgi_pass",
        "grpc_pass",
        "memcached_pass",
    ];
    let own = location.effective.own();
    if own.iter().any(|d| other.contains(&d.name.as_str())) {
        let what = "the upstream does not speak HTTP";
        context.warn(location.directive.at, what);
        return what.to_owned();
    }
    context.unsupported_as(FILES, location.directive.at, location.directive.label());
    "nginx serves files here".to_owned()
}

fn max_body(context: &mut Context<'_>, scope: &Scope<'_>, at: SourcePos) -> Option<Line> {
    let Some(written) = scope.get("client_max_body_size") else {
        context.unsupported_as(
            UNLIMITED,
            at,
            "no client_max_body_size, whose default in nginx is 1 MiB",
        );
        return None;
    };
    match units::parse_size(written.first()) {
        Some(0) => {
            context.unsupported_as(UNLIMITED, written.at, "client_max_body_size 0");
            None
        }
        Some(size) => Some(Line::text("max_body", units::format_size(size))),
        None => {
            context.warn(
                written.at,
                "client_max_body_size is not a size; the result has no limit",
            );
            None
        }
    }
}

fn prefix_comment(path: &str) -> Option<String> {
    let ends = path.ends_with('/');
    (!ends).then(|| format!("ends with a segment: not {path}x"))
}

/// Removes the routes that respond with 404 where no other route would forward the request.
fn without_redundant(routes: Vec<Route>) -> Vec<Route> {
    let forwarding = routes.iter().filter(|route| route.is_forwarding());
    let forwarding: Vec<String> = forwarding.map(|route| route.path.clone()).collect();
    let is_inside = |path: &str| forwarding.iter().any(|outer| is_path_prefix(path, outer));
    let mut needed: Vec<Route> = routes
        .into_iter()
        .filter(|route| match route.action {
            RouteAction::NotSupported(_)
            | RouteAction::Respond {
                status: 404,
                content: None,
                ..
            } => is_inside(&route.path),
            RouteAction::Forward { .. } | RouteAction::Respond { .. } | RouteAction::Files(_) => {
                true
            }
        })
        .collect();
    for route in &mut needed {
        if let RouteAction::NotSupported(why) = &route.action {
            route.action = RouteAction::respond(404, Some(why.clone()));
        }
    }
    needed
}

const FILES: &str = "tidegate serves no files and no pages";
const UNLIMITED: &str = "bodies have no limit without max_body";
const INTERNAL: &str = "locations that no client reaches directly";
