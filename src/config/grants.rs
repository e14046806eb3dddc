//! From the `groups` table and the `[[site.route.grant]]` tables to [`Grants`].
//!
//! Called by `sites` and `routes`. Whether the users that are named exist is not known here: that takes the password
//! files, which `snapshot` opens.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::nearest::nearest;
use super::problem::{Problem, quote};
use super::sites::Reader;
use super::table::{Chosen, Placed, Table};
use super::units;
use super::{Auth, Granted};
use crate::access::{Grant, Grants, Malformed, Pattern, Subjects};
use crate::registry::Action;

/// The users behind each `@NAME`.
pub(super) struct Groups {
    list: Chosen<Vec<Placed<String>>>,
}

impl Groups {
    pub(super) fn read(root: &Table<'_>) -> Self {
        let mut list = root.lists("groups").unwrap_or_default();
        for (name, users) in &mut list {
            check_group_name(root, name);
            if users.is_empty() {
                let what = format!("nobody is in the group {}", quote(name));
                let warning = Problem::warning(users.place, what);
                root.report(warning.because("what is granted to it is granted to nobody"));
            }
            users.value.retain(|user| is_user(root, user));
        }
        Self { list }
    }

    fn find(&self, name: &str) -> Option<&[Placed<String>]> {
        let mut groups = self.list.iter();
        groups
            .find(|(known, _)| known.value == name)
            .map(|(_, users)| users.value.as_slice())
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let own = self.list.iter().map(|(name, _)| name.as_str());
        own.chain(RESERVED)
    }
}

fn check_group_name(root: &Table<'_>, name: &Placed<String>) {
    if RESERVED.contains(&name.as_str()) {
        let what = format!("the group name {} is reserved", quote(name));
        root.report(
            Problem::error(name.place, what)
                .because("@users is every verified user, @anonymous is anyone")
                .fix("choose another name"),
        );
    }
    let is_inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || !name.chars().all(is_inner) {
        let what = format!("{} is no group name", quote(name));
        root.report(
            Problem::error(name.place, what).fix("use letters, digits, \".\", \"_\" and \"-\""),
        );
    }
}

/// A name that can stand in a password file; reports what cannot. U+FFFD is what bytes that are no UTF-8 are shown as,
/// so a name with one would be the name of several users.
fn is_user(table: &Table<'_>, user: &Placed<String>) -> bool {
    let problem = if user.starts_with('@') {
        let what = format!("{} stands in a group", quote(user));
        Problem::error(user.place, what)
            .because("a group holds users only, so that one look shows who is in it")
            .fix("name the users of that group one by one")
    } else if user.is_empty() || user.contains([':', '\u{fffd}']) || user.contains(char::is_control)
    {
        let what = format!("{} is no user name", quote(user));
        Problem::error(user.place, what)
            .because("no line of a password file can have it")
            .fix("write a name as it stands before the \":\" in the password file")
    } else {
        return true;
    };
    table.report(problem);
    false
}

impl Reader<'_, '_> {
    /// Nothing when no grant is written: then every verified user may do everything.
    pub(super) fn granted(
        &self,
        route: &Table<'_>,
        auth: Option<&Auth>,
        is_registry: bool,
    ) -> Option<Granted> {
        let place = route.place_of("grant")?;
        let tables = route.tables("grant");
        let report = |what: &str, why: &str, fix: &str| {
            let problem = Problem::error(tables.first().map_or(place, Table::place), what);
            route.report(problem.because(why).fix(fix));
        };
        match auth {
            Some(Auth::LeftToUpstream) => report(
                "grants with mode = \"upstream\"",
                "the upstream knows who is asking, the gate does not",
                "give the rights in the upstream, or write mode = \"basic\"",
            ),
            Some(Auth::Open) => report(
                "grants with mode = \"none\"",
                "nobody is asked who he is, so nobody could be told apart",
                "write mode = \"basic\" with a password file, or remove the grants",
            ),
            Some(Auth::Basic { .. }) | None => {}
        }
        if !is_registry {
            report(
                "grants on a route that is no registry",
                "a grant is about repositories, which are below /v2/",
                "move them to the route of /v2/, or remove them",
            );
        }
        if tables.is_empty() {
            let fix = "write [[site.route.grant]] with to, repositories and actions, or nothing";
            report(
                "site.route.grant is empty",
                "nobody would be allowed anything",
                fix,
            );
        }
        let mut reading = Reading {
            groups: self.groups,
            is_basic: matches!(auth, Some(Auth::Basic { .. })),
            named: BTreeMap::new(),
        };
        let grants = Grants::new(tables.iter().filter_map(|table| reading.grant(table)));
        report_covered(&tables, &grants);
        Some(Granted {
            grants: Arc::new(grants),
            named: reading.named.into_values().collect(),
        })
    }
}

struct Reading<'a> {
    groups: &'a Groups,
    is_basic: bool,
    /// By their place, once each.
    named: BTreeMap<super::problem::Place, Placed<String>>,
}

impl Reading<'_> {
    fn grant(&mut self, table: &Table<'_>) -> Option<Grant> {
        let to = list(table, "to", "to = [\"@users\"]");
        let repositories = list(table, "repositories", "repositories = [\"team/**\"]");
        let actions = list(table, "actions", "actions = [\"pull\"]");
        let mut subjects = Subjects::default();
        for who in to? {
            self.subject(table, &mut subjects, who);
        }
        let patterns = repositories?;
        let patterns = patterns.iter().filter_map(|text| pattern(table, text));
        let actions = actions?;
        let actions = actions.iter().filter_map(|word| action(table, word));
        Some(Grant {
            subjects,
            patterns: patterns.collect(),
            actions: actions.collect(),
            line: table.place().line,
        })
    }

    fn subject(&mut self, table: &Table<'_>, subjects: &mut Subjects, who: Placed<String>) {
        let Some(group) = who.strip_prefix('@') else {
            if is_user(table, &who) {
                subjects.users.insert(who.value.clone());
                self.named.insert(who.place, who);
            }
            return;
        };
        match group {
            "users" => subjects.verified = true,
            "anonymous" => {
                subjects.anyone = true;
                if self.is_basic {
                    table.report(anonymous_with_basic(&who));
                }
            }
            _ => match self.groups.find(group) {
                Some(users) => {
                    for user in users {
                        subjects.users.insert(user.value.clone());
                        self.named.insert(user.place, user.clone());
                    }
                }
                None => table.report(unknown_group(&who, group, self.groups)),
            },
        }
    }
}

fn anonymous_with_basic(who: &Placed<String>) -> Problem {
    Problem::error(who.place, "\"@anonymous\" with mode = \"basic\"")
        .because(
            "docker decides once, by its first request to /v2/, which has no password: told to log in, it never pulls \
             without a login, and let in, it never sends a password",
        )
        .fix("write mode = \"token\", or grant it to \"@users\"")
}

fn unknown_group(who: &Placed<String>, group: &str, groups: &Groups) -> Problem {
    let problem = Problem::error(who.place, format!("there is no group {}", quote(who)));
    let meant = nearest(group, groups.names());
    problem.fix(meant.map_or_else(
        || "name its users in the table groups, at the top of the file".to_owned(),
        |meant| format!("did you mean {}?", quote(&format!("@{meant}"))),
    ))
}

/// A list with something in it.
fn list(table: &Table<'_>, key: &'static str, example: &str) -> Option<Vec<Placed<String>>> {
    let list = table.required(key, example).strings(key)?;
    if list.is_empty() {
        let what = format!("{} is empty", table.dotted(key));
        table.report(
            Problem::error(list.place, what)
                .because("the grant would give nothing")
                .fix(format!("write {example}, or remove the grant")),
        );
    }
    Some(list.value)
}

fn pattern(table: &Table<'_>, text: &Placed<String>) -> Option<Pattern> {
    let pattern = match Pattern::parse(text) {
        Ok(pattern) => pattern,
        Err(fault) => {
            let what = format!("{} is no pattern: {fault}", quote(text));
            table.report(Problem::error(text.place, what).fix(match fault {
                Malformed::Empty => {
                    "write components with one slash between them, as in \"team/app\""
                }
                Malformed::Star => "write \"*\" for one whole component, \"**\" for one or more",
                Malformed::Placeholder => "write \"{user}\" alone between the slashes",
            }));
            return None;
        }
    };
    if !pattern.can_match() {
        let what = format!("no repository is ever matched by {}", quote(text));
        let warning = Problem::warning(text.place, what).because(
            "names have at most 255 bytes, in components of lower case letters and digits, separated by one \".\", \
             \"_\" or \"__\" or by \"-\"",
        );
        let lower = text.to_ascii_lowercase();
        let helps = Pattern::parse(&lower).is_ok_and(|lower| lower.can_match());
        let remedy = helps.then(|| format!("write {}", quote(&lower)));
        table.report(Problem { remedy, ..warning });
    }
    Some(pattern)
}

fn action(table: &Table<'_>, word: &Placed<String>) -> Option<Action> {
    let actions = [Action::Pull, Action::Push, Action::Delete, Action::Catalog];
    let read = units::word(word, &actions.map(|action| (action.as_str(), action)));
    let Err(error) = read else {
        return read.ok();
    };
    let what = format!("{}: {error}", table.dotted("actions"));
    table.report(Problem {
        remedy: error.remedy(),
        ..Problem::error(word.place, what)
    });
    None
}

fn report_covered(tables: &[Table<'_>], grants: &Grants) {
    for (wide, narrow) in grants.covered() {
        let mut all = tables.iter();
        let Some(table) = all.find(|table| table.place().line == narrow.line) else {
            continue;
        };
        let what = format!(
            "all that this grant gives is given by the one in line {}",
            wide.line
        );
        table.report(Problem::warning(table.place(), what).fix("remove one of them"));
    }
}

/// What no group may be called.
const RESERVED: [&str; 2] = ["users", "anonymous"];

#[cfg(test)]
mod tests;
