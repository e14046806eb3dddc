//! One `location` as a route, or as several.
//!
//! Called by `site`. Where it leads is `upstream`'s part, who may come in `access`'s, what is set `headers`'s.

use crate::import::nginx::condition;
use crate::import::nginx::condition::IfEffect;
use crate::import::nginx::draft::{Line, Route, RouteAction};
use crate::import::nginx::fallen::BY_ITSELF;
use crate::import::nginx::location::{Location, Paths};
use crate::import::nginx::scope::Scope;
use crate::import::nginx::translate::Importer;
use crate::import::nginx::tree::Directive;
use crate::import::nginx::units;

impl<'a> Importer<'a> {
    /// The routes of a location; `closed` says why the whole server is.
    pub(super) fn routes(&mut self, location: &Location<'a>, closed: Option<&str>) -> Vec<Route> {
        let (paths, remark) = match &location.paths {
            Paths::Prefix(path) => (vec![path.clone()], prefix_remark(path)),
            Paths::Exact(path) => {
                let remark = "nginx meant this path alone; a route takes all below it, too";
                (vec![path.clone()], Some(remark.to_owned()))
            }
            Paths::Like(paths) => {
                let remark = "from a regular expression".to_owned();
                (paths.clone(), Some(remark))
            }
            Paths::Unclear | Paths::Inner => return Vec::new(),
        };
        let is_container =
            handler(location).is_none() && location.directive.all("location").next().is_some();
        if is_container {
            return Vec::new();
        }
        let routes = paths.into_iter().map(|path| Route {
            at: location.directive.at,
            location: location.directive.args.join(" "),
            what: self.what(location, &path, closed),
            path,
            remark: remark.clone(),
        });
        routes.collect()
    }

    /// What becomes of the requests of a location.
    pub(super) fn what(
        &mut self,
        location: &Location<'a>,
        path: &str,
        closed: Option<&str>,
    ) -> RouteAction {
        let own = location.scope.own();
        let at = location.directive.at;
        if let Some(answer) = own.iter().find(|d| d.name == "return") {
            return self.answer(answer, path);
        }
        let restricts = self.conditions(own);
        if let Some(why) = closed.map(str::to_owned).or(restricts) {
            return self.closed(at, &why);
        }
        let access = match self.access(&location.scope, path) {
            Ok(access) => access,
            Err(why) if why == DENIED => return RouteAction::Responds(403, Some(why)),
            Err(why) => return self.closed(at, &why),
        };
        let Some(pass) = own.iter().find(|d| d.name == "proxy_pass") else {
            return RouteAction::Absent(self.without_upstream(location));
        };
        match self.upstream(pass, &location.scope, path) {
            Err(why) => {
                let what = format!("the location is left out: {why}");
                self.remarks.warn(pass.at, &what);
                RouteAction::Absent(why)
            }
            Ok(upstream) => {
                let mut lines = vec![upstream];
                lines.extend(access.lines);
                lines.extend(self.max_body(&location.scope, at));
                lines.extend(self.headers(&location.scope));
                RouteAction::Proxied {
                    lines,
                    grants: access.grants,
                }
            }
        }
    }

    fn closed(&mut self, at: super::tree::SourcePos, why: &str) -> RouteAction {
        self.remarks.warn(
            at,
            format!("the route is closed, as its protection has no key here ({why}): put upstream and auth in place of respond when you know who may use it"),
        );
        RouteAction::Responds(403, Some(format!("closed: {why}")))
    }

    fn answer(&mut self, answer: &Directive, path: &str) -> RouteAction {
        match answer.first().parse::<u16>() {
            Ok(444) => RouteAction::Responds(403, Some("nginx closed the connection".to_owned())),
            // A challenge without a way to answer it would have clients ask for passwords in vain.
            Ok(status @ (401 | 407)) => {
                RouteAction::Responds(403, Some(format!("{status} in nginx")))
            }
            Ok(status @ (200..=299 | 400..=599)) => {
                let has_text = answer.args.len() > 1;
                let remark = has_text.then(|| "without the text that nginx gave".to_owned());
                RouteAction::Responds(status, remark)
            }
            _ => {
                let target = answer.args.last().map_or("", String::as_str);
                let is_slash = target.trim_end_matches('/') == path.trim_end_matches('/');
                if is_slash {
                    self.remarks.unsupported(BY_ITSELF, answer);
                } else {
                    self.remarks.warn(
                        answer.at,
                        "the gate does not redirect to other places; left out",
                    );
                }
                RouteAction::Absent("it redirects".to_owned())
            }
        }
    }

    fn without_upstream(&mut self, location: &Location<'a>) -> String {
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
            self.remarks.warn(location.directive.at, what);
            return what.to_owned();
        }
        self.remarks
            .unsupported_as(FILES, location.directive.at, label(location.directive));
        "it serves files".to_owned()
    }

    fn max_body(&mut self, scope: &Scope<'a>, at: super::tree::SourcePos) -> Option<Line> {
        let Some(written) = scope.one("client_max_body_size") else {
            self.remarks.unsupported_as(
                UNLIMITED,
                at,
                "nothing was written, which in nginx is 1 MiB",
            );
            return None;
        };
        match units::size(written.first()) {
            Some(0) => {
                self.remarks
                    .unsupported_as(UNLIMITED, written.at, "client_max_body_size 0");
                None
            }
            Some(size) => Some(Line::text("max_body", units::written_size(size))),
            None => {
                self.remarks.warn(
                    written.at,
                    "client_max_body_size is no size; there is no limit now",
                );
                None
            }
        }
    }

    /// Why a block is closed by its conditions.
    pub(super) fn conditions(&mut self, block: &'a [Directive]) -> Option<String> {
        let mut closed = None;
        for condition in block.iter().filter(|d| d.name == "if") {
            let variable = condition.first().trim_start_matches('(');
            let what = format!("if ({variable} …)");
            match condition::purpose(condition) {
                IfEffect::ToHttps | IfEffect::ByItself | IfEffect::Preflight => {
                    self.remarks.unsupported_as(BY_ITSELF, condition.at, what);
                }
                IfEffect::UserAgent => self.remarks.unsupported_as(OLD, condition.at, what),
                IfEffect::Certificate | IfEffect::Restricts => closed = Some(what),
                IfEffect::Changes => self.remarks.warn(
                    condition.at,
                    format!("{what} is left out: there are no conditions here"),
                ),
            }
        }
        closed
    }

    /// What a regular expression that is no prefix kept from clients, so that the rest must not give it away.
    pub(super) fn restricts(&mut self, location: &Location<'a>) -> bool {
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
}

/// What answers a request that the location takes.
fn handler<'a>(location: &Location<'a>) -> Option<&'a Directive> {
    let mut own = location.scope.own().iter();
    own.find(|d| d.name == "return" || d.name.ends_with("_pass"))
}

pub(super) fn label(location: &Directive) -> String {
    format!("location {}", location.args.join(" "))
}

fn prefix_remark(path: &str) -> Option<String> {
    let ends = path.ends_with('/');
    (!ends).then(|| format!("ends with a segment: not {path}x"))
}

const DENIED: &str = "deny all";
const FILES: &str = "the gate serves no files and no pages";
const UNLIMITED: &str = "bodies have no limit unless max_body says so";
const OLD: &str = "conditions on the User-Agent: docker before 1.6 and its like cannot speak to a registry anyway";
