//! The locations of a server block as the routes of a site.
//!
//! A route is a path prefix on a segment boundary, so a location that matches other paths must not make a route that is less strict.

use std::collections::HashMap;

use crate::import::nginx::access;
use crate::import::nginx::access::DENY_ALL;
use crate::import::nginx::context::Context;
use crate::import::nginx::headers;
use crate::import::nginx::if_blocks;
use crate::import::nginx::if_blocks::IfEffect;
use crate::import::nginx::location;
use crate::import::nginx::location::{Location, Paths};
use crate::import::nginx::output::{Line, Route, RouteAction, Value};
use crate::import::nginx::parser::{Directive, SourcePos};
use crate::import::nginx::remarks::BUILT_IN;
use crate::import::nginx::scope::Scope;
use crate::import::nginx::units;
use crate::import::nginx::upstream;

/// Translates all locations of a server block, in their order. `closed` is the condition because of which the whole server
/// block is closed.
pub(crate) fn all(
    context: &mut Context<'_>,
    server: &Directive,
    scope: &Scope<'_>,
    closed: Option<&str>,
) -> Vec<Route> {
    let mut locations = location::read(server.inner(), scope);
    follow_try_files(&mut locations);
    let order: Vec<_> = locations.iter().map(|l| l.directive.at).collect();
    // Of two locations for one path, nginx tries regular expressions first, and an exact path is a single request.
    locations.sort_by_key(|location| match location.paths {
        Paths::Prefixes(_) => 0,
        Paths::Prefix(_) => 1,
        _ => 2,
    });
    let mut routes: Vec<Route> = Vec::new();
    for inner in locations.iter().filter(|l| l.paths == Paths::Internal) {
        let label = label(inner.directive);
        context.remarks
            .unsupported_as(INNER, inner.directive.at, label);
    }
    for location in &locations {
        for route in location_routes(context, location, closed) {
            add(context, &mut routes, route);
        }
    }
    for location in locations.iter().filter(|l| l.paths == Paths::Pattern) {
        warn_ambiguous(context, location, &mut routes);
    }
    routes.sort_by_key(|route| order.iter().position(|at| *at == route.at));
    check_strength(context, &mut routes);
    without_redundant(routes)
}

fn add(context: &mut Context<'_>, routes: &mut Vec<Route>, route: Route) {
    let same =
        |known: &Route| known.path.trim_end_matches('/') == route.path.trim_end_matches('/');
    if !routes.iter().any(same) {
        routes.push(route);
    } else if !matches!(route.action, RouteAction::NotSupported(_)) {
        let what = format!(
            "location {} is left out: another one is the route for {}",
            route.location, route.path
        );
        context.remarks.warn(route.at, what);
    }
}

/// A regular expression whose requests go to the routes of their prefixes now.
fn warn_ambiguous(context: &mut Context<'_>, location: &Location<'_>, routes: &mut [Route]) {
    let pattern = location.directive.args.last().map_or("", String::as_str);
    let label = label(location.directive);
    // Files that a web server must not show, and no registry has.
    let is_proxied = location.scope.own().iter().any(|d| d.name == "proxy_pass");
    if !is_proxied && (pattern.starts_with("/\\.") || pattern.starts_with("\\.")) {
        context.remarks.unsupported_as(
            "tidegate serves no files and no pages",
            location.directive.at,
            label,
        );
        return;
    }
    if !restricts(location) {
        context.remarks.warn(
            location.directive.at,
            format!("{label} is left out: a route is a prefix; its requests go where their path leads"),
        );
        return;
    }
    context.remarks.warn(
        location.directive.at,
        format!("{label} restricts what no prefix can say, so the routes around it are closed"),
    );
    let literal = literal_prefix(pattern);
    for route in routes.iter_mut() {
        let overlaps = route.path.starts_with(&literal) || literal.starts_with(&route.path);
        if overlaps && matches!(route.action, RouteAction::Forward { .. }) {
            route.action = RouteAction::Respond(403, Some(format!("closed: {label}")));
        }
    }
}

/// A location that ends elsewhere than a route does must not give anything away by that.
fn check_strength(context: &mut Context<'_>, routes: &mut Vec<Route>) {
    let all = routes.clone();
    routes.retain(|route| {
        let Some(broader) = more_general_routes(&all, route) else {
            return true;
        };
        let is_exact = route.location.starts_with('=');
        if is_exact && is_less_strict(&route.action, &broader.action) {
            let what = format!(
                "location {} is left out: it was open for this path alone, and a route would open all below it",
                route.location
            );
            context.remarks.warn(route.at, what);
            return false;
        }
        if !is_exact && !route.path.ends_with('/') && is_less_strict(&broader.action, &route.action) {
            let what = format!(
                "a path such as {}x was restricted as well; here it belongs to the route {}",
                route.path, broader.path
            );
            context.remarks.warn(route.at, what);
        }
        true
    });
}

/// The routes of a location; `closed` says why the whole server is.
fn location_routes(context: &mut Context<'_>, location: &Location<'_>, closed: Option<&str>) -> Vec<Route> {
    let (paths, comment) = match &location.paths {
        Paths::Prefix(path) => (vec![path.clone()], prefix_comment(path)),
        Paths::Exact(path) => {
            let comment = "nginx meant this path alone; a route also matches all paths below it";
            (vec![path.clone()], Some(comment.to_owned()))
        }
        Paths::Prefixes(paths) => {
            let comment = "from a regular expression".to_owned();
            (paths.clone(), Some(comment))
        }
        Paths::Pattern | Paths::Internal => return Vec::new(),
    };
    let is_container =
        handler(location).is_none() && location.directive.all("location").next().is_some();
    if is_container {
        return Vec::new();
    }
    let routes = paths.into_iter().map(|path| Route {
        at: location.directive.at,
        location: location.directive.args.join(" "),
        action: action(context, location, &path, closed),
        path,
        comment: comment.clone(),
    });
    routes.collect()
}

/// What becomes of the requests of a location.
fn action(
    context: &mut Context<'_>,
    location: &Location<'_>,
    path: &str,
    closed: Option<&str>,
) -> RouteAction {
    let own = location.scope.own();
    let at = location.directive.at;
    if let Some(answer) = own.iter().find(|d| d.name == "return") {
        return static_response(context, answer, path);
    }
    let restricts = conditions(context, own);
    if let Some(why) = closed.map(str::to_owned).or(restricts) {
        return closed_route(context, at, &why);
    }
    let access = match access::access(context, &location.scope, path) {
        Ok(access) => access,
        Err(why) if why == DENY_ALL => return RouteAction::Respond(403, Some(why)),
        Err(why) => return closed_route(context, at, &why),
    };
    let Some(pass) = own.iter().find(|d| d.name == "proxy_pass") else {
        return RouteAction::NotSupported(without_upstream(context, location));
    };
    match upstream::upstream(context, pass, &location.scope, path) {
        Err(why) => {
            let what = format!("the location is left out: {why}");
            context.remarks.warn(pass.at, &what);
            RouteAction::NotSupported(why)
        }
        Ok(upstream) => {
            let mut lines = vec![upstream];
            lines.extend(access.lines);
            lines.extend(max_body(context, &location.scope, at));
            lines.extend(headers::headers(context, &location.scope));
            RouteAction::Forward {
                lines,
                grants: access.grants,
            }
        }
    }
}

fn closed_route(context: &mut Context<'_>, at: SourcePos, why: &str) -> RouteAction {
    context.remarks.warn(
        at,
        format!("the route is closed, as its protection has no key here ({why}): put upstream and auth in place of respond when you know who may use it"),
    );
    RouteAction::Respond(403, Some(format!("closed: {why}")))
}

fn static_response(context: &mut Context<'_>, answer: &Directive, path: &str) -> RouteAction {
    match answer.first().parse::<u16>() {
        Ok(444) => RouteAction::Respond(403, Some("nginx closed the connection".to_owned())),
        // A challenge without a way to answer it would have clients ask for passwords in vain.
        Ok(status @ (401 | 407)) => {
            RouteAction::Respond(403, Some(format!("{status} in nginx")))
        }
        Ok(status @ (200..=299 | 400..=599)) => {
            let has_text = answer.args.len() > 1;
            let remark = has_text.then(|| "without the text that nginx gave".to_owned());
            RouteAction::Respond(status, remark)
        }
        _ => {
            let target = answer.args.last().map_or("", String::as_str);
            let is_slash = target.trim_end_matches('/') == path.trim_end_matches('/');
            if is_slash {
                context.remarks.unsupported(BUILT_IN, answer);
            } else {
                context.remarks.warn(
                    answer.at,
                    "tidegate does not redirect to other places; left out",
                );
            }
            RouteAction::NotSupported("it redirects".to_owned())
        }
    }
}

fn without_upstream(context: &mut Context<'_>, location: &Location<'_>) -> String {
    let other = [
        "fastcgi_pass",
        "uwsgi_pass",
        "scgi_pass",
        "grpc_pass",
        "memcached_pass",
    ];
    let own = location.scope.own();
    if own.iter().any(|d| other.contains(&d.name.as_str())) {
        let what = "it leads to a server that does not speak HTTP";
        context.remarks.warn(location.directive.at, what);
        return what.to_owned();
    }
    context.remarks
        .unsupported_as(FILES, location.directive.at, label(location.directive));
    "it serves files".to_owned()
}

fn max_body(context: &mut Context<'_>, scope: &Scope<'_>, at: SourcePos) -> Option<Line> {
    let Some(written) = scope.get("client_max_body_size") else {
        context.remarks.unsupported_as(
            UNLIMITED,
            at,
            "nothing was written, which in nginx is 1 MiB",
        );
        return None;
    };
    match units::parse_size(written.first()) {
        Some(0) => {
            context.remarks
                .unsupported_as(UNLIMITED, written.at, "client_max_body_size 0");
            None
        }
        Some(size) => Some(Line::text("max_body", units::format_size(size))),
        None => {
            context.remarks.warn(
                written.at,
                "client_max_body_size is no size; there is no limit now",
            );
            None
        }
    }
}

/// Why a block is closed by its conditions.
pub(crate) fn conditions(context: &mut Context<'_>, block: &[Directive]) -> Option<String> {
    let mut closed = None;
    for condition in block.iter().filter(|d| d.name == "if") {
        let variable = condition.first().trim_start_matches('(');
        let what = format!("if ({variable} …)");
        match if_blocks::effect(condition) {
            IfEffect::ToHttps | IfEffect::BuiltIn | IfEffect::Preflight => {
                context.remarks.unsupported_as(BUILT_IN, condition.at, what);
            }
            IfEffect::UserAgent => context.remarks.unsupported_as(OLD, condition.at, what),
            IfEffect::Certificate | IfEffect::Restricts => closed = Some(what),
            IfEffect::Changes => context.remarks.warn(
                condition.at,
                format!("{what} is left out: there are no conditions here"),
            ),
        }
    }
    closed
}

/// What a regular expression that is no prefix kept from clients, so that the rest must not give it away.
fn restricts(location: &Location<'_>) -> bool {
    let own = location.scope.own();
    let words = [
        "return",
        "if",
        "limit_except",
        "auth_basic",
        "allow",
        "deny",
        "auth_request",
    ];
    let found = own.iter().find(|d| words.contains(&d.name.as_str()));
    found.is_some_and(|d| d.first() != "off")
}

/// `try_files $uri @name`: without files all requests go to the named location, and have passed both.
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
            location.scope = location.scope.inner(block);
        }
    }
}

/// The route that takes what this one does not.
fn more_general_routes<'r>(routes: &'r [Route], of: &Route) -> Option<&'r Route> {
    let is_broader = |route: &&Route| {
        let is_shorter =
            route.path.trim_end_matches('/').len() < of.path.trim_end_matches('/').len();
        is_shorter && is_below(&of.path, &route.path)
    };
    let found = routes.iter().filter(is_broader);
    found.max_by_key(|route| route.path.len())
}

/// Whether the first lets somebody in whom the second does not, as far as keys tell.
fn is_less_strict(first: &RouteAction, second: &RouteAction) -> bool {
    match (first, second) {
        (RouteAction::Forward { .. }, RouteAction::Respond(status, _)) => {
            // Not found and gone are no restriction.
            *status >= 400 && !matches!(status, 404 | 410)
        }
        (
            RouteAction::Forward { lines, grants },
            RouteAction::Forward {
                lines: other,
                grants: other_grants,
            },
        ) => {
            let lacks = |is_there: fn(&Line) -> bool| {
                other.iter().any(is_there) && !lines.iter().any(is_there)
            };
            lacks(asks_password)
                || lacks(|line| matches!(line.key, "allow" | "deny"))
                || (grants.is_empty() && !other_grants.is_empty())
        }
        _ => false,
    }
}

fn asks_password(line: &Line) -> bool {
    let Value::Table(table) = &line.value else {
        return false;
    };
    line.key == "auth" && table.iter().any(|(key, _)| key == "htpasswd")
}

/// The path that everything begins with that an anchored pattern is for.
fn literal_prefix(pattern: &str) -> String {
    let Some(rest) = pattern.strip_prefix('^') else {
        return String::new();
    };
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_');
    let start: String = rest.chars().take_while(is_plain).collect();
    // The sign behind may be a quantifier of the last character.
    let kept = start.rfind('/').map_or(0, |at| at + 1);
    start.get(..kept).unwrap_or_default().to_owned()
}

/// Without those that answer 404 where nothing would be found anyway.
fn without_redundant(routes: Vec<Route>) -> Vec<Route> {
    let proxied: Vec<String> = routes
        .iter()
        .filter(|route| matches!(route.action, RouteAction::Forward { .. }))
        .map(|route| route.path.clone())
        .collect();
    let has_broader = |path: &str| proxied.iter().any(|broader| is_below(path, broader));
    let is_needed = |route: &Route| match route.action {
        RouteAction::NotSupported(_) | RouteAction::Respond(404, _) => has_broader(&route.path),
        RouteAction::Forward { .. } | RouteAction::Respond(..) => true,
    };
    let mut needed: Vec<Route> = routes.into_iter().filter(is_needed).collect();
    for route in &mut needed {
        if let RouteAction::NotSupported(why) = &route.action {
            route.action = RouteAction::Respond(404, Some(why.clone()));
        }
    }
    needed
}

fn is_below(path: &str, broader: &str) -> bool {
    let broader = broader.trim_end_matches('/');
    let rest = path.strip_prefix(broader);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

const INNER: &str = "locations that no client reaches by itself";

/// What answers a request that the location takes.
fn handler<'a>(location: &Location<'a>) -> Option<&'a Directive> {
    let mut own = location.scope.own().iter();
    own.find(|d| d.name == "return" || d.name.ends_with("_pass"))
}

pub(crate) fn label(location: &Directive) -> String {
    format!("location {}", location.args.join(" "))
}

fn prefix_comment(path: &str) -> Option<String> {
    let ends = path.ends_with('/');
    (!ends).then(|| format!("ends with a segment: not {path}x"))
}

const FILES: &str = "tidegate serves no files and no pages";
const UNLIMITED: &str = "bodies have no limit unless max_body says so";
const OLD: &str = "conditions on the User-Agent: docker before 1.6 and its like cannot speak to a registry anyway";
