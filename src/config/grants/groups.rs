//! The `groups` table, and the names of users in it and in grants.
//!
//! Called by `sites`, which reads it once, and by `grants`.

use super::super::problem::{Problem, quote};
use super::super::table::{Chosen, List, Spanned, Table};
use super::super::units;
use crate::htpasswd::is_invisible;

/// The users behind each `@NAME`.
pub(in crate::config) struct Groups {
    list: Chosen<List<String>>,
    /// The names of the groups that could not be read, or nothing if the whole table could not be.
    unread: Option<Vec<String>>,
}

impl Groups {
    pub(in crate::config) fn read(root: &Table<'_>) -> Self {
        let names = root.names_in("groups");
        let mut list = root.lists("groups").unwrap_or_default();
        let is_read = |name: &String| list.iter().any(|(read, _)| read.value == *name);
        let unread = names.map(|names| names.into_iter().filter(|name| !is_read(name)).collect());
        for (name, users) in &mut list {
            check_group_name(root, name);
            if users.is_written_empty() {
                let what = format!("nobody is in the group {}", quote(name));
                let warning = Problem::warning(users.place, what)
                    .because("what is granted to it is granted to nobody");
                root.report(warning.fix("name users in it, or remove it"));
            }
            users.value.retain(|user| is_user(root, user));
        }
        Self { list, unread }
    }

    /// Whether the group is written and could not be read: what is wrong with it has been reported.
    pub(super) fn is_unread(&self, name: &str) -> bool {
        let mut unread = self.unread.iter().flatten();
        self.unread.is_none() || unread.any(|unread| unread == name)
    }

    pub(super) fn find(&self, name: &str) -> Option<&[Spanned<String>]> {
        let mut groups = self.list.iter();
        groups
            .find(|(known, _)| known.value == name)
            .map(|(_, users)| &*users.value)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let own = self.list.iter().map(|(name, _)| name.as_str());
        own.chain(RESERVED)
    }
}

fn check_group_name(root: &Table<'_>, name: &Spanned<String>) {
    if RESERVED.contains(&name.as_str()) {
        let what = format!("the group name {} is reserved", quote(name));
        root.report(
            Problem::error(name.place, what)
                .because("@users is every verified user, @anonymous is anyone, @network is a network that is enough")
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
pub(super) fn is_user(table: &Table<'_>, user: &Spanned<String>) -> bool {
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
        if user.contains(is_invisible) {
            let what = format!("{} holds a character that cannot be seen", quote(user));
            let meant: String = user.chars().filter(|c| !is_invisible(*c)).collect();
            table.report(
                Problem::warning(user.place, what)
                    .because("it is part of the name, so the name is another one than it looks")
                    .fix(format!(
                        "{}, unless the password file has the same name",
                        units::write(meant)
                    )),
            );
        }
        return true;
    };
    table.report(problem);
    false
}

/// What no group may be called.
const RESERVED: [&str; 3] = ["users", "anonymous", "network"];
