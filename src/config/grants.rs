//! The `groups` table and the `[[site.route.grant]]` tables: which users may perform which actions on which repositories.
//!
//! Called by `sites`, which reads the groups once, and by `routes`. Whether the named users exist is checked by `snapshot`, which
//! opens the password files.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::auth::Auth;
use super::document::Spanned;
use super::form::{Items, Key, List, NamedValues};
use super::keys::{self, grant, route};
use super::nearest::nearest;
use super::problem::{Position, Problem, quote};
use super::table::Table;
use super::value;
use crate::access::{Grant, Grants, MalformedPattern, Pattern, Subjects};
use crate::htpasswd::is_invisible;
use crate::registry::{Action, is_name};

/// The grants of a route.
#[derive(Clone, Debug)]
pub struct RouteGrants {
    /// The grants. Their groups are replaced by the users in them.
    pub grants: Arc<Grants>,
    /// Every user that a grant names, or that is in a group of a grant.
    pub named_users: Vec<Spanned<String>>,
    /// Every pattern with `{user}`, and the subjects of its grant.
    pub user_patterns: Vec<(Spanned<String>, Subjects)>,
}

/// The route of the grants, as far as they are checked against it.
#[derive(Clone, Debug)]
pub(crate) struct GrantedRoute {
    /// How clients log in; `None` if that is not known, which was reported.
    pub(crate) auth: Option<Auth>,
    /// The path; `None` if it is not known, which was reported.
    pub(crate) path: Option<String>,
    /// Whether repositories are below the path.
    pub(crate) is_registry: bool,
}

impl GrantedRoute {
    /// The path of a route with repositories below it.
    fn registry_path(&self) -> Option<&str> {
        self.path.as_deref().filter(|_| self.is_registry)
    }

    /// Checks that grants can have an effect on the route. `place` is the position of the first grant.
    pub(crate) fn check(&self, table: &Table<'_>, place: Position) {
        let report = |what: &str, why: &str, fix: &str| {
            table.report(Problem::error(place, what).because(why).fix(fix));
        };
        match &self.auth {
            Some(Auth::LeftToUpstream) => report(
                "grants with mode = \"upstream\"",
                "the upstream authenticates clients, and the proxy does not know their users",
                "give the rights in the upstream, or write mode = \"basic\"",
            ),
            Some(Auth::Open) => report(
                "grants with mode = \"none\"",
                "no client is authenticated, so all clients have the same rights",
                "write mode = \"basic\" with a password file, or remove the grants",
            ),
            Some(Auth::Basic { .. } | Auth::Token { .. }) | None => {}
        }
        if !self.is_registry {
            report(
                "grants on a route that is no registry",
                "a grant is about repositories, which are below /v2/",
                "move them to the route of /v2/, or remove them",
            );
        }
    }
}

/// Reads the grants in a table of a route; `None` if there are none.
pub(crate) fn read(
    table: &Table<'_>,
    groups: &Groups,
    route: &GrantedRoute,
) -> Option<RouteGrants> {
    let place = table.place_of(&route::GRANT)?;
    let tables = table.tables(&route::GRANT);
    let place = tables.first().map_or(place, Table::place);
    route.check(table, place);
    if tables.is_empty() {
        table.report(
            Problem::error(place, "site.route.grant is empty")
                .because("no user would be allowed anything")
                .fix("write [[site.route.grant]] with to, repositories and actions, or nothing"),
        );
    }
    Some(parse(&tables, groups, route, None))
}

/// Parses the tables of the grants. `grant_file` is given if the tables are in a file of their own.
pub(crate) fn parse(
    tables: &[Table<'_>],
    groups: &Groups,
    route: &GrantedRoute,
    grant_file: Option<&GrantFileContext>,
) -> RouteGrants {
    let mut parser = GrantParser {
        groups,
        grant_file,
        route,
        named_users: BTreeMap::new(),
        user_patterns: Vec::new(),
    };
    let grants = Grants::new(tables.iter().filter_map(|table| parser.grant(table)));
    warn_of_shadowed(tables, &grants);
    RouteGrants {
        grants: Arc::new(grants),
        named_users: parser.named_users.into_values().collect(),
        user_patterns: parser.user_patterns,
    }
}

/// What the grants of a file of their own need in addition to their tables.
#[derive(Clone, Debug)]
pub(crate) struct GrantFileContext {
    /// The path of the file.
    pub(crate) file: Arc<Path>,
    /// The users of each group of the configuration.
    pub(crate) config_groups: BTreeMap<String, Vec<String>>,
}

/// Reads the grants of one route, and collects what `snapshot` checks against the password file.
struct GrantParser<'a> {
    groups: &'a Groups,
    grant_file: Option<&'a GrantFileContext>,
    route: &'a GrantedRoute,
    /// The named users, by position and name, so that a user of a group is listed once. A member of a group of another file has the
    /// position at which the group is named.
    named_users: BTreeMap<(Position, String), Spanned<String>>,
    user_patterns: Vec<(Spanned<String>, Subjects)>,
}

impl GrantParser<'_> {
    fn grant(&mut self, table: &Table<'_>) -> Option<Grant> {
        let to = required_list(table, &grant::TO, "to = [\"@users\"]");
        let repositories =
            required_list(table, &grant::REPOSITORIES, "repositories = [\"team/**\"]");
        let actions = required_list(table, &grant::ACTIONS, "actions = [\"pull\"]");
        let mut subjects = Subjects::default();
        for subject in to?.items {
            self.add_subject(table, &mut subjects, subject);
        }
        let patterns = repositories?.items.into_iter();
        let patterns = patterns.filter_map(|text| self.pattern(table, text, &subjects));
        let patterns = patterns.collect();
        let actions = actions?;
        let actions = actions
            .items
            .iter()
            .filter_map(|word| self.action(table, word));
        Some(Grant {
            patterns,
            actions: actions.collect(),
            subjects,
            line: table.place().line,
            file: self.grant_file.map(|context| Arc::clone(&context.file)),
        })
    }

    fn add_subject(
        &mut self,
        table: &Table<'_>,
        subjects: &mut Subjects,
        subject: Spanned<String>,
    ) {
        let Some(group) = subject.strip_prefix('@') else {
            if is_user(table, &subject) {
                self.add_user(subjects, subject);
            }
            return;
        };
        match group {
            "users" => subjects.verified = true,
            "network" => subjects.network = true,
            "anonymous" => {
                subjects.anyone = true;
                if matches!(self.route.auth, Some(Auth::Basic { .. })) {
                    table.report(anonymous_with_basic(&subject));
                }
            }
            _ => match self.users_of(group, subject.place) {
                Some(users) => {
                    for user in users {
                        self.add_user(subjects, user);
                    }
                }
                None if self.groups.is_rejected(group) || !table.is_complete() => {}
                None => {
                    let of_config = self.grant_file.into_iter();
                    let of_config = of_config.flat_map(|context| context.config_groups.keys());
                    let names = self.groups.names().chain(of_config.map(String::as_str));
                    table.report(unknown_group(&subject, group, names));
                }
            },
        }
    }

    fn add_user(&mut self, subjects: &mut Subjects, user: Spanned<String>) {
        subjects.users.insert(user.value.clone());
        self.named_users
            .insert((user.place, user.value.clone()), user);
    }

    /// The users of a group; `place` is where the group is named.
    fn users_of(&self, group: &str, place: Position) -> Option<Vec<Spanned<String>>> {
        if let Some(users) = self.groups.users_of(group) {
            return Some(users.to_vec());
        }
        let users = self.grant_file?.config_groups.get(group)?.iter();
        let users = users.map(|user| Spanned {
            value: user.clone(),
            place,
        });
        Some(users.collect())
    }

    fn pattern(
        &mut self,
        table: &Table<'_>,
        text: Spanned<String>,
        subjects: &Subjects,
    ) -> Option<Pattern> {
        let pattern = parse_pattern(table, &text)?;
        if !pattern.can_match() {
            table.report(pattern_without_match(&text));
        } else if let Some(path) = self.route.registry_path() {
            check_pattern_reach(table, path, &text, &pattern);
        }
        if pattern.is_of_user() {
            self.user_patterns.push((text, subjects.clone()));
        }
        Some(pattern)
    }

    fn action(&self, table: &Table<'_>, word: &Spanned<String>) -> Option<Action> {
        let actions = [Action::Pull, Action::Push, Action::Delete, Action::Catalog];
        let parsed = value::word(word, &actions.map(|action| (action.as_str(), action)));
        let parsed = parsed.map_err(|error| {
            let what = format!("{}: {error}", table.path_of(&grant::ACTIONS));
            let remedy = action_meant(word).map_or_else(
                || error.remedy(),
                |meant| format!("did you mean {}?", quote(meant)),
            );
            table.report(Problem::error(word.place, what).fix(remedy));
        });
        let action = parsed.ok()?;
        if let (Action::Catalog, Some(path)) = (action, self.route.registry_path()) {
            check_catalog_reach(table, path, word);
        }
        Some(action)
    }
}

/// The action that a word of another system stands for.
fn action_meant(word: &str) -> Option<&'static str> {
    let action = match word {
        "read" | "get" | "download" => Action::Pull,
        // A push includes a pull. To delete and to list are rights of their own, which the operator has to write.
        "*" | "all" | "any" | "write" | "upload" | "create" | "read-write" => Action::Push,
        "remove" => Action::Delete,
        "list" => Action::Catalog,
        _ => return None,
    };
    Some(action.as_str())
}

/// Reads a list that must have an element.
fn required_list(
    table: &Table<'_>,
    key: &Key<List<String>>,
    example: &str,
) -> Option<Items<String>> {
    table.require(key, example);
    let list = table.get(key)?;
    if list.is_written_empty() {
        let what = format!("{} is empty", table.path_of(key));
        table.report(
            Problem::error(list.place, what)
                .because("the grant would give nothing")
                .fix(format!("write {example}, or remove the grant")),
        );
    }
    Some(list.value)
}

fn anonymous_with_basic(subject: &Spanned<String>) -> Problem {
    Problem::error(subject.place, "\"@anonymous\" with mode = \"basic\"")
        .because(
            "docker decides by its first request to /v2/, which has no password: if it gets a challenge, it never pulls \
             without a login, and if it gets none, it never sends a password",
        )
        .fix("write mode = \"token\", or grant it to \"@users\"")
}

fn unknown_group<'a>(
    subject: &Spanned<String>,
    group: &str,
    known: impl Iterator<Item = &'a str>,
) -> Problem {
    let what = format!("there is no group {}", quote(subject));
    let fix = match nearest(group, known) {
        Some(meant) => format!("did you mean {}?", quote(&format!("@{meant}"))),
        None => "name its users in the table groups, at the top of the file".to_owned(),
    };
    Problem::error(subject.place, what).fix(fix)
}

fn parse_pattern(table: &Table<'_>, text: &Spanned<String>) -> Option<Pattern> {
    let parsed = Pattern::parse(text).map_err(|error| {
        let what = format!("{} is no pattern: {error}", quote(text));
        table.report(Problem::error(text.place, what).fix(match error {
            MalformedPattern::Empty => {
                "write components with one slash between them, as in \"team/app\""
            }
            MalformedPattern::Star => "write \"*\" for one whole component, \"**\" for one or more",
            MalformedPattern::Placeholder => "write \"{user}\" alone between the slashes",
        }));
    });
    parsed.ok()
}

fn pattern_without_match(text: &Spanned<String>) -> Problem {
    let lower = text.to_ascii_lowercase();
    let is_lower_valid = Pattern::parse(&lower).is_ok_and(|lower| lower.can_match());
    let fix = if is_lower_valid {
        value::write(&lower)
    } else {
        "write a name that a repository can have, as in \"team/app\"".to_owned()
    };
    let what = format!("no repository is ever matched by {}", quote(text));
    Problem::warning(text.place, what)
        .because(
            "names have at most 255 bytes, in components of lower case letters and digits, separated by one \".\", \
             \"_\" or \"__\" or by \"-\"",
        )
        .fix(fix)
}

/// Warns of a pattern whose repositories are all served by another route.
fn check_pattern_reach(table: &Table<'_>, path: &str, text: &Spanned<String>, pattern: &Pattern) {
    let name = path.trim_end_matches('/').strip_prefix("/v2/");
    let Some(name) = name.filter(|name| is_name(name)) else {
        return;
    };
    let components: Vec<_> = name.split('/').collect();
    if pattern.may_match_under(&components) {
        return;
    }
    let what = format!("no repository that {} matches is below {path}", quote(text));
    table.report(
        Problem::warning(text.place, what)
            .because("requests for it take another route")
            .fix(format!(
                "write a pattern of whole names, as in \"{name}/**\", or move the grant"
            )),
    );
}

/// Warns of the right to the list of repositories on a route that does not serve it.
fn check_catalog_reach(table: &Table<'_>, path: &str, word: &Spanned<String>) {
    if matches!(path.trim_end_matches('/'), "" | "/v2" | "/v2/_catalog") {
        return;
    }
    let what = format!("\"catalog\" is granted below {path}");
    table.report(
        Problem::warning(word.place, what)
            .because("the list of repositories is at /v2/_catalog, and takes another route")
            .fix("grant it at the route of /v2/"),
    );
}

/// Warns of grants that give nothing in addition to another one.
fn warn_of_shadowed(tables: &[Table<'_>], grants: &Grants) {
    for (wide, narrow) in grants.shadowed() {
        let mut tables = tables.iter();
        let Some(table) = tables.find(|table| table.place().line == narrow.line) else {
            continue;
        };
        let what = format!(
            "all rights of this grant are given by the one in line {}, too",
            wide.line
        );
        table.report(Problem::warning(table.place(), what).fix("remove one of them"));
    }
}

/// The `groups` table.
pub(crate) struct Groups {
    /// The groups with their users. `None` if the value of `groups` is no table.
    table: Option<NamedValues<Items<String>>>,
}

impl Groups {
    /// Reads the table, and checks the names of the groups and of their users.
    pub(crate) fn read(root: &Table<'_>) -> Self {
        if root.place_of(&keys::GROUPS).is_none() {
            let (values, rejected) = (Vec::new(), Vec::new());
            return Self {
                table: Some(NamedValues { values, rejected }),
            };
        }
        let mut table = root.get(&keys::GROUPS).map(|groups| groups.value);
        for (name, users) in table.iter_mut().flat_map(|table| &mut table.values) {
            check_group_name(root, name);
            if users.is_written_empty() {
                let what = format!("the group {} has no users", quote(name));
                root.report(
                    Problem::warning(users.place, what)
                        .because("what is granted to it is granted to no user")
                        .fix("name users in it, or remove it"),
                );
            }
            users.value.items.retain(|user| is_user(root, user));
        }
        Self { table }
    }

    /// The groups for the grants of a file of their own, without positions.
    pub(crate) fn members(&self) -> BTreeMap<String, Vec<String>> {
        let groups = self.table.iter().flat_map(|table| &table.values);
        let members = groups.map(|(name, users)| {
            let users = users.items.iter().map(|user| user.value.clone());
            (name.value.clone(), users.collect())
        });
        members.collect()
    }

    /// Reports every group of a grant file that has the name of a group of the configuration.
    pub(crate) fn report_repeated(&self, root: &Table<'_>, grant_file: &GrantFileContext) {
        for (name, _) in self.table.iter().flat_map(|table| &table.values) {
            if grant_file.config_groups.contains_key(name.as_str()) {
                let what = format!("the configuration has a group {}, too", quote(name));
                root.report(
                    Problem::error(name.place, what)
                        .because("one name would mean different users in different files")
                        .fix("remove it here or there, or choose another name"),
                );
            }
        }
    }

    fn users_of(&self, name: &str) -> Option<&[Spanned<String>]> {
        let mut groups = self.table.iter().flat_map(|table| &table.values);
        groups
            .find(|(group, _)| group.value == name)
            .map(|(_, users)| users.items.as_slice())
    }

    /// Whether the group is written, but was rejected. Then its problem is reported already.
    fn is_rejected(&self, name: &str) -> bool {
        let table = self.table.as_ref();
        table.is_none_or(|table| table.rejected.iter().any(|rejected| rejected == name))
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let groups = self.table.iter().flat_map(|table| &table.values);
        groups.map(|(name, _)| name.as_str()).chain(RESERVED_GROUPS)
    }
}

/// The groups that always exist.
const RESERVED_GROUPS: [&str; 3] = ["users", "anonymous", "network"];

fn check_group_name(root: &Table<'_>, name: &Spanned<String>) {
    if RESERVED_GROUPS.contains(&name.as_str()) {
        let what = format!("the group name {} is reserved", quote(name));
        root.report(
            Problem::error(name.place, what)
                .because(
                    "@users is every verified user, @anonymous is every client, @network is every client from a network \
                     that needs no password",
                )
                .fix("choose another name"),
        );
    }
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || !name.chars().all(is_allowed) {
        let what = format!("{} is no group name", quote(name));
        root.report(
            Problem::error(name.place, what).fix("use letters, digits, \".\", \"_\" and \"-\""),
        );
    }
}

/// Whether a password file can have the user; reports a name that it cannot have. Bytes that are not UTF-8 are shown as U+FFFD, so
/// a name with this character would be the name of several users.
fn is_user(table: &Table<'_>, user: &Spanned<String>) -> bool {
    if user.starts_with('@') {
        let what = format!("{} is in a group", quote(user));
        table.report(
            Problem::error(user.place, what)
                .because("a group contains users only, so that its list shows all of them")
                .fix("name the users of that group one by one"),
        );
        return false;
    }
    if user.is_empty() || user.contains([':', '\u{fffd}']) || user.contains(char::is_control) {
        let what = format!("{} is no user name", quote(user));
        table.report(
            Problem::error(user.place, what)
                .because("no line of a password file can have it")
                .fix("write a name as it is before the \":\" in the password file"),
        );
        return false;
    }
    if user.contains(is_invisible) {
        let what = format!("{} contains a character that cannot be seen", quote(user));
        let visible: String = user.chars().filter(|c| !is_invisible(*c)).collect();
        table.report(
            Problem::warning(user.place, what)
                .because("the character is part of the name, so the name differs from the one that it looks like")
                .fix(format!(
                    "{}, unless the password file has the same name",
                    value::write(visible)
                )),
        );
    }
    true
}

#[cfg(test)]
mod tests;
