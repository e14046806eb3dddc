//! A file with grants of a route, and groups for them: `route.grant_file`.
//!
//! `routes` reads the key. The file itself is opened by `snapshot`, at start, after a reload and whenever it changes, and its bytes
//! are parsed here, with the same checks as the grants of the configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::auth::Auth;
use super::document::{Document, Spanned};
use super::grants::{self, Groups, Outer, RouteGrants};
use super::keys;
use super::keys::route;
use super::problem::{Problem, Problems};
use super::table::Table;
use crate::access::Grants;

/// The path of a file with grants, and what its grants need of their route.
#[derive(Clone, Debug)]
pub struct GrantFile {
    /// The path.
    pub path: Spanned<PathBuf>,
    is_basic: bool,
    /// Whether some networks need no password.
    has_open_networks: bool,
    /// The path of a route with a registry below it.
    route: Option<String>,
    /// The grants of the route in the configuration.
    own: Option<Arc<Grants>>,
    outer: Outer,
}

/// What a grant file needs of its route.
pub(crate) struct RouteFacts<'a> {
    /// The folder of relative paths.
    pub(crate) base: &'a Path,
    pub(crate) groups: &'a Groups,
    pub(crate) auth: Option<&'a Auth>,
    pub(crate) path: Option<&'a str>,
    /// Whether repositories are below the path.
    pub(crate) is_registry: bool,
    /// Whether some networks need no password.
    pub(crate) has_open_networks: bool,
    /// The grants of the route in the configuration.
    pub(crate) granted: Option<&'a RouteGrants>,
}

/// Reads the key of a route; `None` if it is not written, or wrong.
pub(crate) fn read(table: &Table<'_>, facts: &RouteFacts<'_>) -> Option<GrantFile> {
    let file = table.get(&route::GRANT_FILE)?;
    grants::check_route(table, file.place, facts.auth, facts.is_registry);
    let path = file.map(|path| facts.base.join(path));
    Some(GrantFile {
        is_basic: matches!(facts.auth, Some(Auth::Basic { .. })),
        has_open_networks: facts.has_open_networks,
        route: facts.path.filter(|_| facts.is_registry).map(str::to_owned),
        own: facts.granted.map(|granted| Arc::clone(&granted.grants)),
        outer: Outer {
            file: path.as_path().into(),
            groups: facts.groups.members(),
        },
        path,
    })
}

impl GrantFile {
    /// Parses the content of the file. The result has the grants of the configuration before those of the file. If the problems
    /// have an error, there are no grants, so that a file is used in full or not at all.
    pub fn parse(&self, bytes: &[u8]) -> (Option<RouteGrants>, Problems) {
        let document = match Document::parse(&*self.path, bytes) {
            Ok(document) => document,
            Err(problems) => return (None, problems),
        };
        let root = Table::root(&document, keys::grant_file::KEYS);
        let groups = Groups::read(&root);
        groups.report_repeated(&root, &self.outer);
        let tables = root.tables(&keys::grant_file::GRANT);
        if tables.is_empty() && self.own.is_none() {
            root.report(
                Problem::warning(None, "the file has no grant")
                    .because("no user is allowed anything on the route")
                    .fix("write [[grant]] with to, repositories and actions"),
            );
        }
        let outer = Some(&self.outer);
        let route = self.route.as_deref();
        let mut granted = grants::parse(&tables, &groups, outer, self.is_basic, route);
        if granted.grants.mentions_network() && !self.has_open_networks {
            root.report(
                Problem::error(None, "a grant to \"@network\" on a route without satisfy = \"any\"")
                    .because("\"@network\" is every client from a network that needs no password, and no network is one")
                    .fix("remove it, or add satisfy = \"any\" and allow = [\"10.0.0.0/8\"] to the route"),
            );
        }
        if let Some(own) = &self.own {
            let all = own.iter().chain(granted.grants.iter());
            granted.grants = Arc::new(Grants::new(all.cloned()));
        }
        let problems = document.into_problems();
        (Some(granted).filter(|_| !problems.has_errors()), problems)
    }
}
