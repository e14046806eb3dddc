//! Recognises files that nginx does not read as they are: templates, which another program fills in before.

use std::path::Path;

use crate::config::problem::Position;
use crate::import::nginx::parser::Directive;

/// The first mark of a template in a file, with its position. `directives` are the directives of the file, if its syntax is right.
///
/// The marks of most templates are no valid syntax, or are in values that nginx does not expand.
pub(crate) fn first_mark(
    path: &Path,
    text: &str,
    directives: Option<&[Directive]>,
) -> Option<(Position, &'static str)> {
    let has_ending = path.extension().is_some_and(|ending| {
        ENDINGS
            .iter()
            .any(|known| ending.eq_ignore_ascii_case(known))
    });
    let in_value = directives.and_then(|directives| mark_of_directives(directives, &[]));
    if in_value.is_some() || (directives.is_some() && !has_ending) {
        return in_value;
    }
    let mut lines = text.lines().zip(1_usize..);
    lines.find_map(|(line, number)| {
        let code = line.split('#').next().unwrap_or_default();
        let found = MARKS
            .iter()
            .filter_map(|mark| Some((code.find(mark)?, *mark)));
        let (at, mark) = found.min()?;
        let column = code.get(..at)?.chars().count() + 1;
        let position = Position {
            file: 0,
            line: number,
            column,
        };
        Some((position, mark))
    })
}

/// The first mark in a value that names a host, an address or a file.
fn mark_of_directives(
    directives: &[Directive],
    defined: &[&str],
) -> Option<(Position, &'static str)> {
    let mut defined = defined.to_vec();
    defined.extend(directives.iter().filter_map(|d| match d.name.as_str() {
        "set" => d.first().strip_prefix('$'),
        "map" | "geo" | "split_clients" => d.args.last()?.strip_prefix('$'),
        _ => None,
    }));
    directives.iter().find_map(|directive| {
        let is_plain = PLAIN_VALUES.contains(&directive.name.as_str());
        let mut args = directive.args.iter().filter(|_| is_plain);
        let own = args.find_map(|arg| {
            let mark = MARKS.iter().find(|mark| arg.contains(**mark)).copied();
            mark.or_else(|| is_environment(arg, &defined).then_some("${NAME}"))
        });
        let own = own.map(|mark| (directive.at.position, mark));
        own.or_else(|| mark_of_directives(directive.inner(), &defined))
    })
}

/// Whether a value has a variable in capital letters that no directive defines, as envsubst fills it in.
fn is_environment(value: &str, defined: &[&str]) -> bool {
    value.split('$').skip(1).any(|after| {
        let after = after.strip_prefix('{').unwrap_or(after);
        let is_part = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        let end = after.find(|c| !is_part(c)).unwrap_or(after.len());
        let (name, rest) = after.split_at(end);
        let is_whole = !rest.starts_with(|c: char| c.is_ascii_alphanumeric());
        name.len() > 1
            && is_whole
            && name.starts_with(|c: char| c.is_ascii_uppercase())
            && !defined.contains(&name)
    })
}

/// The marks of Jinja, Go, Helm, Mustache and ERB.
const MARKS: &[&str] = &["{{", "{%", "<%"];
/// The endings of templates.
const ENDINGS: &[&str] = &[
    "template", "tmpl", "tpl", "j2", "jinja", "jinja2", "erb", "ctmpl", "mustache", "gotmpl",
];
/// The directives whose values have variables of nginx at most.
const PLAIN_VALUES: &[&str] = &[
    "listen",
    "server_name",
    "server",
    "proxy_pass",
    "ssl_certificate",
    "ssl_certificate_key",
    "auth_basic_user_file",
    "location",
    "include",
    "client_max_body_size",
    "allow",
    "deny",
    "set_real_ip_from",
];
