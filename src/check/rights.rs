//! `check --who … --may …`: whether a user may perform an action, evaluated from the configuration, without a running proxy.
//!
//! The query is evaluated for each site, on the route that a request for the repository would match. The decision is that of
//! [`Access`], which also decides requests; this module adds the position of the grants in the file.

use std::fmt::{self, Write as _};
use std::path::Path;

use crate::access::{Access, Grants, Principal};
use crate::config::problem::{Problems, quote};
use crate::config::{self, Auth, Config};
use crate::htpasswd;
use crate::registry::{Action, is_name};
use crate::site::{self, Site};
use crate::snapshot::Snapshot;

/// A query: may this client perform this action on this repository?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessQuery {
    /// `None` for an anonymous client.
    user: Option<String>,
    /// The client is in a network that needs no password (`satisfy = "any"`).
    is_in_network: bool,
    action: Action,
    /// `None` for `catalog`, whose requests name no repository.
    repository: Option<String>,
    /// Restricts the query to the site of this host.
    host: Option<String>,
}

/// Why a query cannot be evaluated.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The name of a group, or an empty name.
    #[error("{} is neither a user's name nor @anonymous or @network", quote(.0))]
    Who(String),
    /// An unknown action.
    #[error("there is no action {}; the actions are pull, push, delete and catalog", quote(.0))]
    Action(String),
    /// An action that needs a repository, without one.
    #[error("{0} needs a repository: --may {0} team/app")]
    NoRepository(&'static str),
    /// Not a repository name of the registry's grammar.
    #[error("no repository can have the name {}", quote(.0))]
    Repository(String),
    /// A host of no site.
    #[error("no site has the host {}", quote(.0))]
    Host(String),
}

/// The result of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessReport {
    /// One line per site, for people.
    pub lines: Vec<String>,
    /// Whether every site that decides itself allows the action, and at least one site does.
    pub is_allowed: bool,
}

/// The result of a query for one site.
struct SiteVerdict {
    decision: Decision,
    reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Allowed,
    Denied,
    /// `mode = "upstream"`: the proxy does not decide.
    LeftToUpstream,
}

impl SiteVerdict {
    fn allowed(reason: impl Into<String>) -> Self {
        Self {
            decision: Decision::Allowed,
            reason: reason.into(),
        }
    }

    fn denied(reason: impl Into<String>) -> Self {
        Self {
            decision: Decision::Denied,
            reason: reason.into(),
        }
    }
}

impl fmt::Display for SiteVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.decision {
            Decision::Allowed => write!(f, "yes, {}", self.reason),
            Decision::Denied => write!(f, "no, {}", self.reason),
            Decision::LeftToUpstream => f.write_str(&self.reason),
        }
    }
}

impl AccessQuery {
    /// Parses the arguments of the command line.
    ///
    /// # Errors
    /// Returns an error for an argument that names nothing.
    pub fn new(
        who: &str,
        action: &str,
        repository: Option<&str>,
        host: Option<&str>,
    ) -> Result<Self, QueryError> {
        let user = match who {
            "@anonymous" | "@network" => None,
            _ if who.is_empty() || who.starts_with('@') => {
                return Err(QueryError::Who(who.to_owned()));
            }
            _ => Some(who.to_owned()),
        };
        let actions = [Action::Pull, Action::Push, Action::Delete, Action::Catalog];
        let known_action = actions.into_iter().find(|known| known.as_str() == action);
        let known_action = known_action.ok_or_else(|| QueryError::Action(action.to_owned()))?;
        match repository {
            Some(repository) if !is_name(repository) => {
                return Err(QueryError::Repository(repository.to_owned()));
            }
            None if known_action != Action::Catalog => {
                return Err(QueryError::NoRepository(known_action.as_str()));
            }
            _ => {}
        }
        Ok(Self {
            user,
            is_in_network: who == "@network",
            action: known_action,
            repository: repository.map(str::to_owned),
            host: host.map(str::to_ascii_lowercase),
        })
    }

    /// Evaluates the query for every site, or for the site of the host. `problems` has the paths of the configuration file and
    /// of the files that it includes, for the positions of grants.
    ///
    /// # Errors
    /// Returns an error if no site has the host.
    pub fn evaluate(
        &self,
        config: &Config,
        snapshot: &Snapshot,
        problems: &Problems,
    ) -> Result<AccessReport, QueryError> {
        let sites = &snapshot.service.sites;
        let only = match &self.host {
            Some(host) => Some(
                &sites
                    .find(host)
                    .ok_or_else(|| QueryError::Host(host.clone()))?
                    .name,
            ),
            None => None,
        };
        let names = config.sites.iter().map(|site| &site.name);
        let names = names.filter(|name| only.is_none_or(|only| only == *name));
        let mut lines = Vec::new();
        let mut decisions = Vec::new();
        let by_name = |name: &String| sites.all().find(|site| site.name == *name);
        for (name, site) in names.filter_map(|name| Some((name, by_name(name)?))) {
            let verdict = self.evaluate_site(config, site, problems);
            lines.push(format!("{name}: {verdict}"));
            decisions.push(verdict.decision);
        }
        Ok(AccessReport {
            lines,
            is_allowed: decisions.contains(&Decision::Allowed)
                && !decisions.contains(&Decision::Denied),
        })
    }

    fn evaluate_site(&self, config: &Config, site: &Site, problems: &Problems) -> SiteVerdict {
        let path = match (self.action, &self.repository) {
            (Action::Catalog, _) | (_, None) => "/v2/_catalog".to_owned(),
            (_, Some(repository)) => format!("/v2/{repository}/"),
        };
        let route = site.route(&path).filter(|route| route.is_registry);
        let Some((route, settings)) =
            route.and_then(|route| Some((route, route_settings(config, site, route)?)))
        else {
            return SiteVerdict::denied("no route to a registry matches");
        };
        // A site is in one file, so the grants of a route that have no file of their own are in the file of its upstream.
        let file = problems.file_of(Some(settings.upstream.place));
        let mut verdict = self.evaluate_route(settings, &route.access, file);
        if verdict.decision == Decision::Allowed && !settings.network_policy.allows_all() {
            verdict
                .reason
                .push_str("; only from the networks that the route allows");
        }
        verdict
    }

    fn evaluate_route(
        &self,
        settings: &config::Route,
        access: &Access,
        file: &Path,
    ) -> SiteVerdict {
        let (htpasswd, user) = match (&settings.auth, &self.user) {
            (Auth::LeftToUpstream, _) => {
                return SiteVerdict {
                    decision: Decision::LeftToUpstream,
                    reason: "the upstream decides".to_owned(),
                };
            }
            (Auth::Open, _) => return SiteVerdict::allowed(NO_PASSWORD),
            (Auth::Basic { .. } | Auth::Token { .. }, None)
                if self.is_in_network && !settings.network_policy.suffices_alone =>
            {
                return SiteVerdict::denied("the route requires a password from every network");
            }
            (Auth::Basic { .. }, None) if !self.is_in_network => {
                return SiteVerdict::denied(PASSWORD_REQUIRED);
            }
            (Auth::Basic { .. } | Auth::Token { .. }, None) => {
                return self.evaluate_access(access, file);
            }
            (Auth::Basic { htpasswd, .. } | Auth::Token { htpasswd, .. }, Some(user)) => {
                (htpasswd, user)
            }
        };
        let by_grants = self.evaluate_access(access, file);
        let users = htpasswd::load(htpasswd).map(|loaded| loaded.users);
        if users.is_ok_and(|users| users.find(user.as_bytes()).is_some()) {
            return by_grants;
        }
        let mut reason = format!("{user} has no usable line in {}", htpasswd.display());
        if by_grants.decision == Decision::Allowed {
            let _ = write!(reason, "; with a line there, the result is: {by_grants}");
        }
        SiteVerdict::denied(reason)
    }

    /// Evaluates the grants of a route, as if the login had succeeded.
    fn evaluate_access(&self, access: &Access, file: &Path) -> SiteVerdict {
        let principal = self.principal();
        match access {
            Access::Everyone => SiteVerdict::allowed(NO_PASSWORD),
            Access::Verified if !principal.is_known() => SiteVerdict::denied(PASSWORD_REQUIRED),
            Access::Verified if principal.user.is_none() => {
                SiteVerdict::allowed("the route has no grants, and its networks need no password")
            }
            Access::Verified => {
                SiteVerdict::allowed("the route has no grants, so every user may do everything")
            }
            Access::Granted(grants) => {
                let grants = grants.current();
                if grants.allows(principal, self.action, self.repository.as_deref()) {
                    let positions = self.positions(&grants, file);
                    return SiteVerdict::allowed(format!("by the grant in {positions}"));
                }
                let mut reason = "no grant allows it".to_owned();
                if let Some(repository) = &self.repository {
                    let allowed = grants.effective(principal, repository);
                    if !allowed.is_empty() {
                        let _ = write!(reason, "; the grants allow {allowed} there");
                    }
                }
                SiteVerdict::denied(reason)
            }
        }
    }

    fn principal(&self) -> Principal<'_> {
        Principal {
            user: self.user.as_deref(),
            network: self.is_in_network,
        }
    }

    /// The positions of the grants that allow the action: `proxy.toml:12, proxy.toml:20`.
    fn positions(&self, grants: &Grants, file: &Path) -> String {
        let principal = self.principal();
        let allowing: Vec<_> = match (self.action, &self.repository) {
            (Action::Catalog, _) | (_, None) => grants
                .for_principal(principal)
                .filter(|grant| grant.actions.contains(Action::Catalog))
                .collect(),
            (_, Some(repository)) => grants
                .matching(principal, self.action, repository)
                .collect(),
        };
        let positions = allowing.iter().map(|grant| {
            let file = grant.file.as_deref().unwrap_or(file);
            format!("{}:{}", file.display(), grant.line)
        });
        positions.collect::<Vec<_>>().join(", ")
    }
}

/// The settings from which this route of this site was built.
fn route_settings<'a>(
    config: &'a Config,
    site: &Site,
    route: &site::Route,
) -> Option<&'a config::Route> {
    let mut sites = config.sites.iter();
    let site = sites.find(|known| known.name == site.name)?;
    let mut routes = site.routes.iter();
    routes.find(|known| known.path == route.path)
}

const NO_PASSWORD: &str = "the route requires no password";
const PASSWORD_REQUIRED: &str = "the route requires a password";
