//! The table of a password file's users.
//!
//! For `htpasswd` of `cli`.

use crate::htpasswd::generate::USUAL_COST;
use crate::htpasswd::{LineInfo, ProblemKind, Scheme};

/// Line, user, scheme and strength, in columns.
pub(super) fn of(listed: &[LineInfo]) -> String {
    let head = ["line", "user", "scheme", "strength"].map(str::to_owned);
    let rows: Vec<_> = [head].into_iter().chain(listed.iter().map(row)).collect();
    let widths = [0, 1, 2].map(|column| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    });
    let [line, user, scheme] = widths;
    let lines = rows
        .iter()
        .map(|[a, b, c, d]| format!("{a:>line$}  {b:user$}  {c:scheme$}  {d}"));
    lines.collect::<Vec<_>>().join("\n")
}

fn row(listed: &LineInfo) -> [String; 4] {
    // Either there is none, or it may be a hash in the wrong place.
    let unnamed = || "-".to_owned();
    let scheme = listed.scheme.map(|scheme| scheme.to_string());
    [
        listed.line.to_string(),
        listed.user.clone().unwrap_or_else(unnamed),
        scheme.unwrap_or_else(|_| "-".to_owned()),
        strength(listed),
    ]
}

fn strength(listed: &LineInfo) -> String {
    match (listed.scheme, listed.weakness()) {
        (Err(kind @ ProblemKind::Duplicate { .. }), _) => format!("ignored: {}", why(kind)),
        (Err(kind), _) => format!("disabled: {}", why(kind)),
        (Ok(_), Some(weakness)) => format!("weak: {weakness}"),
        (Ok(Scheme::Bcrypt { cost }), None) if cost < USUAL_COST => {
            format!("fair: a cost of {USUAL_COST} or more withstands guessing longer")
        }
        (Ok(_), None) => "strong".to_owned(),
    }
}

/// Without what to do about it, which follows a semicolon and makes a table unreadable.
fn why(kind: ProblemKind) -> String {
    let sentence = kind.to_string();
    sentence.split("; ").next().unwrap_or_default().to_owned()
}
