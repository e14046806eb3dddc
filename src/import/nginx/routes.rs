//! The routes of one site together: which stay, which are shadowed, which must not be weaker than they look.
//!
//! Called by `site`. One location is `route`'s part.

use std::collections::HashMap;

use crate::import::nginx::draft::{Line, Route, RouteAction, Value};
use crate::import::nginx::location;
use crate::import::nginx::location::{Location, Paths};
use crate::import::nginx::route::label;
use crate::import::nginx::site::Server;
use crate::import::nginx::translate::Importer;

impl<'a> Importer<'a> {
    /// Every route of a server block, in the order of its locations.
    pub(super) fn all_routes(&mut self, server: &Server<'a>, closed: Option<&str>) -> Vec<Route> {
        let mut locations = location::of(server.directive.inner(), &server.scope);
        follow_try_files(&mut locations);
        let order: Vec<_> = locations.iter().map(|l| l.directive.at).collect();
        // Where two are for the same path, nginx asks regular expressions first, and an exact path is one request.
        locations.sort_by_key(|location| match location.paths {
            Paths::Like(_) => 0,
            Paths::Prefix(_) => 1,
            _ => 2,
        });
        let mut routes: Vec<Route> = Vec::new();
        for inner in locations.iter().filter(|l| l.paths == Paths::Inner) {
            let label = label(inner.directive);
            self.remarks
                .unsupported_as(INNER, inner.directive.at, label);
        }
        for location in &locations {
            for route in self.routes(location, closed) {
                self.add(&mut routes, route);
            }
        }
        for location in locations.iter().filter(|l| l.paths == Paths::Unclear) {
            self.warn_ambiguous(location, &mut routes);
        }
        routes.sort_by_key(|route| order.iter().position(|at| *at == route.at));
        self.check_strength(&mut routes);
        without_needless(routes)
    }

    fn add(&mut self, routes: &mut Vec<Route>, route: Route) {
        let same =
            |known: &Route| known.path.trim_end_matches('/') == route.path.trim_end_matches('/');
        if !routes.iter().any(same) {
            routes.push(route);
        } else if !matches!(route.what, RouteAction::Absent(_)) {
            let what = format!(
                "location {} is left out: another one is the route for {}",
                route.location, route.path
            );
            self.remarks.warn(route.at, what);
        }
    }

    /// A regular expression whose requests go to the routes of their prefixes now.
    fn warn_ambiguous(&mut self, location: &Location<'a>, routes: &mut [Route]) {
        let pattern = location.directive.args.last().map_or("", String::as_str);
        let label = label(location.directive);
        // Files that a web server must not show, and no registry has.
        let is_proxied = location.scope.own().iter().any(|d| d.name == "proxy_pass");
        if !is_proxied && (pattern.starts_with("/\\.") || pattern.starts_with("\\.")) {
            self.remarks.unsupported_as(
                "the gate serves no files and no pages",
                location.directive.at,
                label,
            );
            return;
        }
        if !self.restricts(location) {
            self.remarks.warn(
                location.directive.at,
                format!("{label} is left out: a route is a prefix; its requests go where their path leads"),
            );
            return;
        }
        self.remarks.warn(
            location.directive.at,
            format!("{label} restricts what no prefix can say, so the routes around it are closed"),
        );
        let literal = literal_prefix(pattern);
        for route in routes.iter_mut() {
            let overlaps = route.path.starts_with(&literal) || literal.starts_with(&route.path);
            if overlaps && matches!(route.what, RouteAction::Proxied { .. }) {
                route.what = RouteAction::Responds(403, Some(format!("closed: {label}")));
            }
        }
    }

    /// A location that ends elsewhere than a route does must not give anything away by that.
    fn check_strength(&mut self, routes: &mut Vec<Route>) {
        let all = routes.clone();
        routes.retain(|route| {
            let Some(broader) = more_general_routes(&all, route) else {
                return true;
            };
            let is_exact = route.location.starts_with('=');
            if is_exact && is_less_strict(&route.what, &broader.what) {
                let what = format!(
                    "location {} is left out: it was open for this path alone, and a route would open all below it",
                    route.location
                );
                self.remarks.warn(route.at, what);
                return false;
            }
            if !is_exact && !route.path.ends_with('/') && is_less_strict(&broader.what, &route.what) {
                let what = format!(
                    "a path such as {}x was restricted as well; here it belongs to the route {}",
                    route.path, broader.path
                );
                self.remarks.warn(route.at, what);
            }
            true
        });
    }
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
            location.scope = location.scope.within(block);
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
        (RouteAction::Proxied { .. }, RouteAction::Responds(status, _)) => {
            // Not found and gone are no restriction.
            *status >= 400 && !matches!(status, 404 | 410)
        }
        (
            RouteAction::Proxied { lines, grants },
            RouteAction::Proxied {
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
fn without_needless(routes: Vec<Route>) -> Vec<Route> {
    let proxied: Vec<String> = routes
        .iter()
        .filter(|route| matches!(route.what, RouteAction::Proxied { .. }))
        .map(|route| route.path.clone())
        .collect();
    let has_broader = |path: &str| proxied.iter().any(|broader| is_below(path, broader));
    let is_needed = |route: &Route| match route.what {
        RouteAction::Absent(_) | RouteAction::Responds(404, _) => has_broader(&route.path),
        RouteAction::Proxied { .. } | RouteAction::Responds(..) => true,
    };
    let mut needed: Vec<Route> = routes.into_iter().filter(is_needed).collect();
    for route in &mut needed {
        if let RouteAction::Absent(why) = &route.what {
            route.what = RouteAction::Responds(404, Some(why.clone()));
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
