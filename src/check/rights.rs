//! Who may do what, asked of a configuration instead of a running gate: `check --who … --may …`.
//!
//! Called by `cli`. Each site is asked, at the route that a request for the repository would take; the judgement is
//! the one of [`Access`], and the place of the grant is said along with it.

use std::fmt::Write as _;
use std::path::Path;

use crate::access::{Access, Grants, Principal};
use crate::config::problem::quote;
use crate::config::{self, Auth, Config};
use crate::htpasswd;
use crate::registry::{Action, is_name};
use crate::site::{self, Site};
use crate::snapshot::Snapshot;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessQuery {
    /// Nothing for someone who has not logged in.
    user: Option<String>,
    /// From a network that is enough alone.
    network: bool,
    action: Action,
    repository: String,
    /// Of one site only.
    host: Option<String>,
}

/// Why it cannot be answered.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// A group, or nothing.
    #[error("{} is neither a user's name nor @anonymous or @network", quote(.0))]
    Who(String),
    /// No word for an action.
    #[error("there is no action {}; the actions are pull, push, delete and catalog", quote(.0))]
    Action(String),
    /// Not in the registry's grammar.
    #[error("no repository can be called {}", quote(.0))]
    Repository(String),
    /// No site has it.
    #[error("no site has the host {}", quote(.0))]
    Host(String),
}

/// What came out, for a person and for a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessReport {
    /// One a site.
    pub lines: Vec<String>,
    /// Every site that decides itself says yes, and there is one.
    pub is_yes: bool,
}

impl AccessQuery {
    /// From the words of the command line.
    pub fn new(
        who: &str,
        action: &str,
        repository: &str,
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
        let meant = actions.into_iter().find(|known| known.as_str() == action);
        if !is_name(repository) {
            return Err(QueryError::Repository(repository.to_owned()));
        }
        Ok(Self {
            user,
            network: who == "@network",
            action: meant.ok_or_else(|| QueryError::Action(action.to_owned()))?,
            repository: repository.to_owned(),
            host: host.map(str::to_ascii_lowercase),
        })
    }

    /// Answers for every site, or for the one of the host; `file` is where the configuration stands.
    pub fn answer(
        &self,
        config: &Config,
        snapshot: &Snapshot,
        file: &Path,
    ) -> Result<AccessReport, QueryError> {
        let sites = &snapshot.service.sites;
        let wanted = match &self.host {
            Some(host) => Some(
                &sites
                    .find(host)
                    .ok_or_else(|| QueryError::Host(host.clone()))?
                    .name,
            ),
            None => None,
        };
        let names = config.sites.iter().filter_map(|site| site.hosts.first());
        let asked = names.filter(|name| wanted.is_none_or(|wanted| wanted == *name));
        let mut answer = AccessReport {
            lines: Vec::new(),
            is_yes: true,
        };
        let mut decided = false;
        for (name, site) in asked.filter_map(|name| Some((name, sites.find(name)?))) {
            let (verdict, words) = self.of_site(config, site, file);
            answer.lines.push(format!("{name}: {words}"));
            decided |= verdict.is_some();
            answer.is_yes &= verdict != Some(false);
        }
        answer.is_yes &= decided;
        Ok(answer)
    }

    /// Nothing where the upstream decides.
    fn of_site(&self, config: &Config, site: &Site, file: &Path) -> (Option<bool>, String) {
        let path = match self.action {
            Action::Catalog => "/v2/_catalog".to_owned(),
            _ => format!("/v2/{}/", self.repository),
        };
        let Some(route) = site.route(&path).filter(|route| route.registry) else {
            return no("no route of a registry leads there");
        };
        let Some(written) = written(config, site, route) else {
            return no("no route of a registry leads there");
        };
        if self.network && !written.admission.suffices_alone {
            return no("no network is enough there without a password");
        }
        let (verdict, mut words) = self.of_route(written, &route.access, file);
        if verdict == Some(true) && !written.admission.allows_all() {
            words.push_str("; from a network that is let in there");
        }
        (verdict, words)
    }

    fn of_route(
        &self,
        written: &config::Route,
        access: &Access,
        file: &Path,
    ) -> (Option<bool>, String) {
        let given = self.given(access, file);
        let (passwords, who) = match (&written.auth, &self.user) {
            (Auth::LeftToUpstream, _) => return (None, "the upstream decides".to_owned()),
            (Auth::Open, _) => return yes("nobody is asked who he is"),
            (Auth::Basic { .. }, None) if !self.network => {
                return no("nobody comes in without a password");
            }
            (Auth::Basic { .. } | Auth::Token { .. }, None) => return given,
            (Auth::Basic { htpasswd, .. } | Auth::Token { htpasswd, .. }, Some(who)) => {
                (htpasswd, who)
            }
        };
        let users = htpasswd::load(passwords).map(|loaded| loaded.users);
        if users.is_ok_and(|users| users.find(who.as_bytes()).is_some()) {
            return given;
        }
        let mut words = format!("{who} stands in no usable line of {}", passwords.display());
        if let (Some(true), reason) = given {
            let _ = write!(words, "; with a password there it would be {reason}");
        }
        no(&words)
    }

    fn given(&self, access: &Access, file: &Path) -> (Option<bool>, String) {
        let who = self.who();
        match access {
            Access::Everyone => yes("nobody is asked who he is"),
            Access::Verified if !who.is_known() => no("nobody comes in without a password"),
            Access::Verified if who.user.is_none() => {
                yes("there are no grants, and its networks are enough")
            }
            Access::Verified => yes("there are no grants, and every user may do everything"),
            Access::Granted(grants) => {
                if grants.allows(who, self.action, Some(&self.repository)) {
                    return yes(&format!("by the grant in {}", self.places(grants, file)));
                }
                let mut words = "no grant gives it".to_owned();
                let others = grants.effective(who, &self.repository);
                if !others.is_empty() {
                    let _ = write!(words, "; given there is {others}");
                }
                no(&words)
            }
        }
    }

    fn who(&self) -> Principal<'_> {
        Principal {
            user: self.user.as_deref(),
            network: self.network,
        }
    }

    /// `proxy.toml:12, proxy.toml:20`
    fn places(&self, grants: &Grants, file: &Path) -> String {
        let who = self.who();
        let lines: Vec<_> = match self.action {
            Action::Catalog => grants
                .for_principal(who)
                .filter(|grant| grant.actions.contains(Action::Catalog))
                .map(|grant| grant.line)
                .collect(),
            _ => grants
                .matching(who, self.action, &self.repository)
                .map(|grant| grant.line)
                .collect(),
        };
        let places = lines
            .iter()
            .map(|line| format!("{}:{line}", file.display()));
        places.collect::<Vec<_>>().join(", ")
    }
}

fn written<'a>(config: &'a Config, site: &Site, route: &site::Route) -> Option<&'a config::Route> {
    let mut sites = config.sites.iter();
    let site = sites.find(|known| known.hosts.first() == Some(&site.name))?;
    let mut routes = site.routes.iter();
    routes.find(|known| known.path == route.path)
}

fn yes(reason: &str) -> (Option<bool>, String) {
    (Some(true), format!("yes, {reason}"))
}

fn no(reason: &str) -> (Option<bool>, String) {
    (Some(false), format!("no, {reason}"))
}
