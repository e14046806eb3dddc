//! A file with grants of a route, and groups for them: `route.grant_file`.
//!
//! `routes` reads the key. The file itself is opened by `snapshot`, at start, after a reload and whenever it changes, and its bytes
//! are parsed here, with the same checks as the grants of the configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::document::{Document, Spanned};
use super::grants::{self, GrantFileContext, GrantedRoute, Groups, RouteGrants};
use super::keys;
use super::keys::route;
use super::problem::{Problem, Problems};
use super::table::Table;
use crate::access::Grants;
use crate::net::network_policy::NetworkPolicy;

/// The path of a file with grants, and what its grants need of their route.
#[derive(Clone, Debug)]
pub struct GrantFile {
    /// The path.
    pub path: Spanned<PathBuf>,
    route: GrantedRoute,
    /// Whether some networks need no password.
    has_open_networks: bool,
    /// The grants of the route in the configuration.
    config_grants: Option<Arc<Grants>>,
    context: GrantFileContext,
}

/// Reads the key of a route; `None` if it is not written, or wrong. `base` is the folder of relative paths, and `groups` and
/// `config_grants` are the groups of the configuration and its grants for the route.
pub(crate) fn read(
    table: &Table<'_>,
    base: &Path,
    groups: &Groups,
    route: GrantedRoute,
    network_policy: &NetworkPolicy,
    config_grants: Option<&RouteGrants>,
) -> Option<GrantFile> {
    let file = table.get(&route::GRANT_FILE)?;
    route.check(table, file.place);
    let path = file.map(|path| base.join(path));
    Some(GrantFile {
        route,
        has_open_networks: network_policy.suffices_alone,
        config_grants: config_grants.map(|parsed| Arc::clone(&parsed.grants)),
        context: GrantFileContext {
            file: path.as_path().into(),
            config_groups: groups.members(),
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
        groups.report_repeated(&root, &self.context);
        let tables = root.tables(&keys::grant_file::GRANT);
        if tables.is_empty() && self.config_grants.is_none() {
            root.report(
                Problem::warning(None, "the file has no grant")
                    .because("no user is allowed anything on the route")
                    .fix("write [[grant]] with to, repositories and actions"),
            );
        }
        let mut parsed = grants::parse(&tables, &groups, &self.route, Some(&self.context));
        if parsed.grants.mentions_network() && !self.has_open_networks {
            root.report(
                Problem::error(None, "a grant to \"@network\" on a route without satisfy = \"any\"")
                    .because("\"@network\" is every client from a network that needs no password, and no network is one")
                    .fix("remove it, or add satisfy = \"any\" and allow = [\"10.0.0.0/8\"] to the route"),
            );
        }
        if let Some(config_grants) = &self.config_grants {
            let all = config_grants.iter().chain(parsed.grants.iter());
            parsed.grants = Arc::new(Grants::new(all.cloned()));
        }
        let problems = document.into_problems();
        (Some(parsed).filter(|_| !problems.has_errors()), problems)
    }
}
