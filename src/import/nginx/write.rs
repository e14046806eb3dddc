//! The draft as the text of a proxy.toml.
//!
//! Called by `nginx`. Whatever the nginx file held, the text is TOML: strings are escaped, and comments hold no control
//! characters.

use std::fmt::{self, Display, Write as _};

use crate::import::nginx::draft::{Grant, Line, OutputConfig, Route, RouteAction, Site, Value};
use crate::import::nginx::remarks::{Remarks, place};

/// The whole text.
pub(super) fn write(draft: &OutputConfig, remarks: &Remarks, files: &[String]) -> String {
    let mut text = String::new();
    let warnings = remarks.warnings(files);
    comment(&mut text, "proxy.toml, made by tidegate import nginx from");
    for file in unique(files) {
        comment(&mut text, &format!("  {file}"));
    }
    comment(&mut text, "");
    for line in REVIEW {
        comment(&mut text, line);
    }
    if !warnings.is_empty() {
        comment(&mut text, "");
        comment(&mut text, "These need a look:");
        for warning in &warnings {
            comment(&mut text, &format!("- {warning}"));
        }
    }
    for (name, lines) in [
        ("listen", &draft.listen),
        ("log", &draft.log),
        ("tls", &draft.tls),
        ("limits", &draft.limits),
    ] {
        if !lines.is_empty() {
            push(&mut text, format_args!("\n[{name}]\n"));
            write_lines(&mut text, lines);
        }
    }
    for site in &draft.sites {
        write_site(&mut text, site, files);
    }
    write_fallen(&mut text, remarks, files);
    text
}

/// The translation is not proved to be complete, so the file asks for a review of every route.
const REVIEW: [&str; 11] = [
    "Review each route below against the nginx configuration before it serves: a route may let in",
    "requests that nginx refused. Compare with the location that is named above each route:",
    "- who gets in: auth_basic, auth_request, satisfy, allow, deny and client certificates, also",
    "  where they stand in server, in http or in an included file;",
    "- which requests get in: limit_except, if, return, regular expressions, and the location that",
    "  nginx chose for a path;",
    "- what the registry receives: proxy_set_header, above all Authorization, and the path of",
    "  proxy_pass;",
    "- which hosts and addresses are served: server_name, default_server and listen.",
    "Then run tidegate check --live -c proxy.toml, and ask for each path without a password, with a",
    "wrong one and from an address that nginx refused.",
];

fn write_site(text: &mut String, site: &Site, files: &[String]) {
    text.push('\n');
    comment(text, &format!("server, {}", place(files, site.at)));
    text.push_str("[[site]]\n");
    write_lines(text, &site.lines);
    for route in &site.routes {
        write_route(text, route, files);
    }
}

fn write_route(text: &mut String, route: &Route, files: &[String]) {
    text.push('\n');
    let origin = format!("location {}, {}", route.location, place(files, route.at));
    comment(text, &origin);
    text.push_str("[[site.route]]\n");
    let path = Line::text("path", &*route.path);
    write_lines(
        text,
        &[path.beside(route.remark.clone().unwrap_or_default())],
    );
    match &route.what {
        RouteAction::Proxied { lines, grants } => {
            write_lines(text, lines);
            for grant in grants {
                write_grant(text, grant);
            }
        }
        RouteAction::Responds(status, remark) => {
            push(text, format_args!("respond = {status}"));
            beside(text, remark.as_deref());
        }
        // Those that are needed were made answers before.
        RouteAction::Absent(why) => {
            text.push_str("respond = 404");
            beside(text, Some(why));
        }
    }
}

fn write_grant(text: &mut String, grant: &Grant) {
    text.push_str("\n[[site.route.grant]]\n");
    let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    write_lines(
        text,
        &[
            Line::list("to", own(&[grant.to])),
            Line::list("repositories", own(&["**"])),
            Line::list("actions", own(grant.actions)),
        ],
    );
}

fn write_lines(text: &mut String, lines: &[Line]) {
    for line in lines {
        push(text, format_args!("{} = {}", line.key, line.value));
        beside(text, line.remark.as_deref());
    }
}

fn write_fallen(text: &mut String, remarks: &Remarks, files: &[String]) {
    let groups = remarks.fallen(files);
    if groups.is_empty() {
        return;
    }
    text.push('\n');
    comment(text, "Without a line of its own, and why:");
    for (why, list) in groups {
        comment(text, "");
        comment(text, &format!("{why}:"));
        for fallen in list {
            comment(text, &format!("  {fallen}"));
        }
    }
}

fn beside(text: &mut String, remark: Option<&str>) {
    if let Some(remark) = remark {
        push(text, format_args!(" # {}", Quiet(remark)));
    }
    text.push('\n');
}

fn comment(text: &mut String, words: &str) {
    let line = format!("# {}", Quiet(words));
    text.push_str(line.trim_end());
    text.push('\n');
}

/// Writing to a string does not fail.
fn push(text: &mut String, what: fmt::Arguments<'_>) {
    let _ = text.write_fmt(what);
}

/// A snippet is read once for each place that includes it.
fn unique(files: &[String]) -> Vec<&String> {
    let mut seen: Vec<&String> = Vec::new();
    for file in files {
        if !seen.contains(&file) {
            seen.push(file);
        }
    }
    seen
}

impl Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => Quoted(text).fmt(f),
            Self::Flag(flag) => flag.fmt(f),
            Self::List(list) => {
                f.write_str("[")?;
                for (number, text) in list.iter().enumerate() {
                    let gap = if number == 0 { "" } else { ", " };
                    write!(f, "{gap}{}", Quoted(text))?;
                }
                f.write_str("]")
            }
            Self::Table(table) => {
                f.write_str("{ ")?;
                for (number, (key, value)) in table.iter().enumerate() {
                    let gap = if number == 0 { "" } else { ", " };
                    write!(f, "{gap}{} = {value}", Key(key))?;
                }
                f.write_str(" }")
            }
        }
    }
}

/// Bare where it is one of the gate's own, quoted where it is a name of a header field.
struct Key<'a>(&'a str);

impl Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_bare = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        if !self.0.is_empty() && self.0.bytes().all(is_bare) {
            return f.write_str(self.0);
        }
        Quoted(self.0).fmt(f)
    }
}

/// A basic string of TOML, in which no variable of the environment is replaced.
struct Quoted<'a>(&'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        let mut before = None;
        for character in self.0.chars() {
            let follows_dollar = before.replace(character) == Some('$');
            match character {
                '{' if follows_dollar => f.write_str("${")?,
                '"' | '\\' => write!(f, "\\{character}")?,
                _ if character.is_control() => write!(f, "\\u{:04X}", u32::from(character))?,
                _ => f.write_char(character)?,
            }
        }
        f.write_char('"')
    }
}

/// One line of a comment, which holds no control characters, nor what reorders the text around it.
struct Quiet<'a>(&'a str);

impl Display for Quiet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            let is_hidden = matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
            if character.is_control() || is_hidden {
                write!(f, "{}", character.escape_unicode())?;
            } else {
                f.write_char(character)?;
            }
        }
        Ok(())
    }
}
