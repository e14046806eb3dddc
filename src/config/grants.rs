//! From the `[[site.route.grant]]` tables of a route to [`Grants`].
//!
//! Called by `routes`. Whether the users that are named exist is not known here: that takes the password
//! files, which `snapshot` opens.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::nearest::nearest;
use super::problem::{Position, Problem, quote};
use super::sites::SiteParser;
use super::table::{Spanned, Table};
use super::units;
use super::{Auth, RouteGrants};
use crate::access::{Grant, Grants, MalformedPattern, Pattern, Subjects};
use crate::registry::Action;

mod groups;
mod reach;

pub(super) use groups::Groups;
use groups::is_user;

impl SiteParser<'_, '_> {
    /// Nothing when no grant is written: then every verified user may do everything.
    pub(super) fn granted(
        &self,
        route: &Table<'_>,
        auth: Option<&Auth>,
        path: Option<&str>,
        is_registry: bool,
    ) -> Option<RouteGrants> {
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
            Some(Auth::Basic { .. } | Auth::Token { .. }) | None => {}
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
        let mut reading = GrantParser {
            groups: self.groups,
            is_basic: matches!(auth, Some(Auth::Basic { .. })),
            path: path.filter(|_| is_registry),
            named: BTreeMap::new(),
            homes: Vec::new(),
        };
        let grants = Grants::new(tables.iter().filter_map(|table| reading.grant(table)));
        report_covered(&tables, &grants);
        Some(RouteGrants {
            grants: Arc::new(grants),
            named: reading.named.into_values().collect(),
            homes: reading.homes,
        })
    }
}

struct GrantParser<'a> {
    groups: &'a Groups,
    is_basic: bool,
    path: Option<&'a str>,
    homes: Vec<(Spanned<String>, Subjects)>,
    /// By their place, once each.
    named: BTreeMap<Position, Spanned<String>>,
}

impl GrantParser<'_> {
    fn grant(&mut self, table: &Table<'_>) -> Option<Grant> {
        let to = list(table, "to", "to = [\"@users\"]");
        let repositories = list(table, "repositories", "repositories = [\"team/**\"]");
        let actions = list(table, "actions", "actions = [\"pull\"]");
        let mut subjects = Subjects::default();
        for who in to? {
            self.subject(table, &mut subjects, who);
        }
        let patterns = repositories?;
        let patterns = patterns
            .into_iter()
            .filter_map(|text| self.pattern(table, text, &subjects));
        let patterns = patterns.collect();
        let actions = actions?;
        let actions = actions.iter().filter_map(|word| self.action(table, word));
        Some(Grant {
            patterns,
            actions: actions.collect(),
            subjects,
            line: table.place().line,
        })
    }

    fn pattern(
        &mut self,
        table: &Table<'_>,
        text: Spanned<String>,
        subjects: &Subjects,
    ) -> Option<Pattern> {
        let pattern = pattern(table, &text)?;
        if let Some(path) = self.path {
            reach::check_pattern(table, path, &text, &pattern);
        }
        if pattern.is_of_user() {
            self.homes.push((text, subjects.clone()));
        }
        Some(pattern)
    }

    fn action(&self, table: &Table<'_>, word: &Spanned<String>) -> Option<Action> {
        let action = action(table, word)?;
        if let (Action::Catalog, Some(path)) = (action, self.path) {
            reach::check_catalog(table, path, word);
        }
        Some(action)
    }

    fn subject(&mut self, table: &Table<'_>, subjects: &mut Subjects, who: Spanned<String>) {
        let Some(group) = who.strip_prefix('@') else {
            if is_user(table, &who) {
                subjects.users.insert(who.value.clone());
                self.named.insert(who.place, who);
            }
            return;
        };
        match group {
            "users" => subjects.verified = true,
            "network" => subjects.network = true,
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
                None if self.groups.is_unread(group) => {}
                None => table.report(unknown_group(&who, group, self.groups)),
            },
        }
    }
}

fn anonymous_with_basic(who: &Spanned<String>) -> Problem {
    Problem::error(who.place, "\"@anonymous\" with mode = \"basic\"")
        .because(
            "docker decides once, by its first request to /v2/, which has no password: told to log in, it never pulls \
             without a login, and let in, it never sends a password",
        )
        .fix("write mode = \"token\", or grant it to \"@users\"")
}

fn unknown_group(who: &Spanned<String>, group: &str, groups: &Groups) -> Problem {
    let problem = Problem::error(who.place, format!("there is no group {}", quote(who)));
    let meant = nearest(group, groups.names());
    problem.fix(meant.map_or_else(
        || "name its users in the table groups, at the top of the file".to_owned(),
        |meant| format!("did you mean {}?", quote(&format!("@{meant}"))),
    ))
}

/// A list with something in it.
fn list(table: &Table<'_>, key: &'static str, example: &str) -> Option<Vec<Spanned<String>>> {
    let list = table.required(key, example).strings(key)?;
    if list.is_written_empty() {
        let what = format!("{} is empty", table.dotted(key));
        table.report(
            Problem::error(list.place, what)
                .because("the grant would give nothing")
                .fix(format!("write {example}, or remove the grant")),
        );
    }
    Some(list.value.into_items())
}

fn pattern(table: &Table<'_>, text: &Spanned<String>) -> Option<Pattern> {
    let pattern = match Pattern::parse(text) {
        Ok(pattern) => pattern,
        Err(fault) => {
            let what = format!("{} is no pattern: {fault}", quote(text));
            table.report(Problem::error(text.place, what).fix(match fault {
                MalformedPattern::Empty => {
                    "write components with one slash between them, as in \"team/app\""
                }
                MalformedPattern::Star => {
                    "write \"*\" for one whole component, \"**\" for one or more"
                }
                MalformedPattern::Placeholder => "write \"{user}\" alone between the slashes",
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
        table.report(warning.fix(if helps {
            units::write(&lower)
        } else {
            "write a name that a repository can have, as in \"team/app\"".to_owned()
        }));
    }
    Some(pattern)
}

fn action(table: &Table<'_>, word: &Spanned<String>) -> Option<Action> {
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
    for (wide, narrow) in grants.shadowed() {
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

#[cfg(test)]
mod tests;
