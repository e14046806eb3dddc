//! Grants that reach nothing from where they stand: warned of, as their author meant something.
//!
//! Called by `grants` for each table of a route whose path is known.

use super::super::problem::{Problem, quote};
use super::super::table::{Spanned, Table};
use crate::access::Pattern;
use crate::registry::is_name;

/// Warns of a pattern of repositories that take another route.
pub(super) fn check_pattern(
    table: &Table<'_>,
    path: &str,
    text: &Spanned<String>,
    pattern: &Pattern,
) {
    let name = path.trim_end_matches('/').strip_prefix("/v2/");
    let Some(name) = name.filter(|name| is_name(name)) else {
        return;
    };
    let components: Vec<_> = name.split('/').collect();
    if !pattern.can_match() || pattern.may_match_under(&components) {
        return;
    }
    let what = format!(
        "no repository that {} matches lies below {path}",
        quote(text)
    );
    table.report(
        Problem::warning(text.place, what)
            .because("requests for it take another route")
            .fix(format!(
                "write a pattern of whole names, as in \"{name}/**\", or move the grant"
            )),
    );
}

/// Warns of a right to a list that nobody asks for here.
pub(super) fn check_catalog(table: &Table<'_>, path: &str, word: &Spanned<String>) {
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
