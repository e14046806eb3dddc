//! The result of the translation: a `proxy.toml` as data, and its text.
//!
//! Whatever the nginx files hold, the text is valid TOML: strings are escaped, and comments hold no control characters.

use std::fmt::{self, Display, Write as _};
use std::net::SocketAddr;

use crate::config::toml_string;

use crate::import::nginx::parser::SourcePos;
use crate::import::nginx::remarks::{Remarks, file_and_line};

/// The `proxy.toml` as data.
#[derive(Debug, Default)]
pub(crate) struct OutputConfig {
    pub(crate) listen: Vec<Line>,
    pub(crate) log: Vec<Line>,
    pub(crate) tls: Vec<Line>,
    pub(crate) limits: Vec<Line>,
    pub(crate) sites: Vec<Site>,
}

impl OutputConfig {
    /// Removes the sites without a host, and the addresses at which no site is left.
    pub(crate) fn remove_unused(&mut self) {
        self.sites.retain(|site| !site.hosts.is_empty());
        if self.sites.iter().any(|site| site.listen.is_empty()) {
            return;
        }
        let used: Vec<&String> = self.sites.iter().flat_map(|site| &site.listen).collect();
        self.listen.retain_mut(|line| {
            if !matches!(line.key, "https" | "behind_proxy") {
                return true;
            }
            let Value::List(addresses) = &mut line.value else {
                return true;
            };
            addresses.retain(|address| used.contains(&address));
            !addresses.is_empty()
        });
    }
}

/// A `[[site]]`.
#[derive(Debug)]
pub(crate) struct Site {
    /// The position of the server block.
    pub(crate) at: SourcePos,
    /// The patterns of `site.hosts`.
    pub(crate) hosts: Vec<String>,
    /// The comment after the hosts.
    pub(crate) hosts_comment: String,
    /// The addresses of nginx at which the site is reached, each with the address of tidegate that takes its place.
    pub(crate) addresses: Vec<(SocketAddr, SocketAddr)>,
    /// The value of `site.listen`; empty for all addresses.
    pub(crate) listen: Vec<String>,
    pub(crate) lines: Vec<Line>,
    pub(crate) routes: Vec<Route>,
}

/// A `[[site.route]]`.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    /// The position of the location.
    pub(crate) at: SourcePos,
    /// The arguments of the location.
    pub(crate) location: String,
    pub(crate) path: String,
    /// The comment after the path.
    pub(crate) comment: Option<String>,
    pub(crate) action: RouteAction,
}

/// What a route does with a request.
#[derive(Clone, Debug)]
pub(crate) enum RouteAction {
    /// Forwards it to an upstream.
    Forward {
        lines: Vec<Line>,
        grants: Vec<Grant>,
    },
    /// Responds itself.
    Respond {
        status: u16,
        /// The key and the value of a location or a text.
        content: Option<(&'static str, String)>,
        comment: Option<String>,
    },
    /// Serves the files of an ACME client in this directory.
    Files(String),
    /// Does something that tidegate does not do, with the reason. The route is written only inside of a route that forwards.
    NotSupported(String),
}

impl Route {
    /// Whether the route stands for a path, with or without a slash at its end.
    pub(crate) fn has_path(&self, path: &str) -> bool {
        self.path.trim_end_matches('/') == path.trim_end_matches('/')
    }

    pub(crate) fn is_forwarding(&self) -> bool {
        matches!(self.action, RouteAction::Forward { .. })
    }
}

impl RouteAction {
    /// A response with a status alone.
    pub(crate) fn respond(status: u16, comment: Option<String>) -> Self {
        Self::Respond {
            status,
            content: None,
            comment,
        }
    }
}

/// A `[[site.route.grant]]`.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    pub(crate) to: &'static str,
    pub(crate) actions: &'static [&'static str],
}

/// `key = value # comment`.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) key: &'static str,
    pub(crate) value: Value,
    pub(crate) comment: Option<String>,
}

/// A TOML value.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Text(String),
    Flag(bool),
    List(Vec<String>),
    Table(Vec<(String, Self)>),
}

impl Line {
    pub(crate) fn new(key: &'static str, value: Value) -> Self {
        Self {
            key,
            value,
            comment: None,
        }
    }

    pub(crate) fn text(key: &'static str, text: impl Into<String>) -> Self {
        Self::new(key, Value::Text(text.into()))
    }

    pub(crate) fn list(key: &'static str, list: Vec<String>) -> Self {
        Self::new(key, Value::List(list))
    }

    /// Adds a comment to the line; an empty text adds none.
    pub(crate) fn with_comment(mut self, comment: impl Into<String>) -> Self {
        let comment = comment.into();
        self.comment = (!comment.is_empty()).then_some(comment);
        self
    }
}

impl Value {
    pub(crate) fn table<const N: usize>(entries: [(&str, &str); N]) -> Self {
        let entries = entries.map(|(key, text)| (key.to_owned(), Self::Text(text.to_owned())));
        Self::Table(entries.to_vec())
    }
}

/// Writes the file.
pub(crate) fn write(output: &OutputConfig, remarks: &Remarks, files: &[String]) -> String {
    let mut text = String::new();
    let warnings = remarks.warnings(files);
    comment(
        &mut text,
        "proxy.toml, written by tidegate import nginx from",
    );
    for file in unique(files) {
        comment(&mut text, &format!("  {file}"));
    }
    comment(&mut text, "");
    for line in REVIEW {
        comment(&mut text, line);
    }
    if !warnings.is_empty() {
        comment(&mut text, "");
        comment(&mut text, "Warnings:");
        for warning in &warnings {
            comment(&mut text, &format!("- {warning}"));
        }
    }
    if !remarks.stricter.is_empty() {
        comment(&mut text, "");
        comment(&mut text, STRICTER);
        for difference in &remarks.stricter {
            comment(&mut text, &format!("- {difference}"));
        }
    }
    write_tables(&mut text, output, files);
    write_unsupported(&mut text, remarks, files);
    text
}

/// Writes the tables alone, without the comments around them.
pub(crate) fn write_tables(text: &mut String, output: &OutputConfig, files: &[String]) {
    for (name, lines) in [
        ("listen", &output.listen),
        ("log", &output.log),
        ("tls", &output.tls),
        ("limits", &output.limits),
    ] {
        if !lines.is_empty() {
            push(text, format_args!("\n[{name}]\n"));
            write_lines(text, lines);
        }
    }
    for site in &output.sites {
        write_site(text, site, files);
    }
}

/// The comments that ask for a review of every route, because the translation is not proved to be complete.
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

const STRICTER: &str =
    "Stricter here: nginx forwards these requests, and tidegate does not. Its response:";

fn write_site(text: &mut String, site: &Site, files: &[String]) {
    text.push('\n');
    comment(text, &format!("server, {}", file_and_line(files, site.at)));
    text.push_str("[[site]]\n");
    let hosts = Line::list("hosts", site.hosts.clone());
    write_lines(text, &[hosts.with_comment(&*site.hosts_comment)]);
    if !site.listen.is_empty() {
        write_lines(text, &[Line::list("listen", site.listen.clone())]);
    }
    write_lines(text, &site.lines);
    for route in &site.routes {
        write_route(text, route, files);
    }
}

fn write_route(text: &mut String, route: &Route, files: &[String]) {
    text.push('\n');
    let origin = format!(
        "location {}, {}",
        route.location,
        file_and_line(files, route.at)
    );
    comment(text, &origin);
    text.push_str("[[site.route]]\n");
    let path = Line::text("path", &*route.path);
    write_lines(
        text,
        &[path.with_comment(route.comment.clone().unwrap_or_default())],
    );
    match &route.action {
        RouteAction::Forward { lines, grants } => {
            write_lines(text, lines);
            for grant in grants {
                write_grant(text, grant);
            }
        }
        RouteAction::Respond {
            status,
            content,
            comment,
        } => {
            match content {
                Some((key, value)) => {
                    let value = toml_string(value);
                    push(
                        text,
                        format_args!("respond = {{ status = {status}, {key} = {value} }}"),
                    );
                }
                None => push(text, format_args!("respond = {status}")),
            }
            write_comment(text, comment.as_deref());
        }
        RouteAction::Files(directory) => {
            let directory = toml_string(directory);
            push(text, format_args!("respond = {{ files = {directory} }}\n"));
        }
        RouteAction::NotSupported(why) => {
            text.push_str("respond = 404");
            write_comment(text, Some(why));
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
        write_comment(text, line.comment.as_deref());
    }
}

fn write_unsupported(text: &mut String, remarks: &Remarks, files: &[String]) {
    let groups = remarks.unsupported_groups(files);
    if groups.is_empty() {
        return;
    }
    text.push('\n');
    comment(text, "Directives without a key, and the reason:");
    for (why, list) in groups {
        comment(text, "");
        comment(text, &format!("{why}:"));
        for directive in list {
            comment(text, &format!("  {directive}"));
        }
    }
}

/// Ends a line, with a comment if there is one.
fn write_comment(text: &mut String, comment: Option<&str>) {
    if let Some(comment) = comment {
        push(text, format_args!(" # {}", Comment(comment)));
    }
    text.push('\n');
}

/// Writes a line that is a comment.
fn comment(text: &mut String, words: &str) {
    let line = format!("# {}", Comment(words));
    text.push_str(line.trim_end());
    text.push('\n');
}

/// Appends formatted text. Writing to a string cannot fail.
fn push(text: &mut String, what: fmt::Arguments<'_>) {
    let _ = text.write_fmt(what);
}

/// Each file once: a snippet is read once for each place that includes it.
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
            Self::Text(text) => f.write_str(&toml_string(text)),
            Self::Flag(flag) => flag.fmt(f),
            Self::List(list) => {
                let list: Vec<_> = list.iter().map(|text| toml_string(text)).collect();
                write!(f, "[{}]", list.join(", "))
            }
            Self::Table(table) => {
                let entry = |(key, value): &(String, Self)| format!("{} = {value}", toml_key(key));
                let entries: Vec<_> = table.iter().map(entry).collect();
                write!(f, "{{ {} }}", entries.join(", "))
            }
        }
    }
}

/// A key: bare where TOML permits it, quoted for example for the name of a header field.
fn toml_key(key: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    if !key.is_empty() && key.bytes().all(is_bare) {
        return key.to_owned();
    }
    toml_string(key)
}

/// The text of a comment. Control characters and characters that reorder the text around them are escaped.
struct Comment<'a>(&'a str);

impl Display for Comment<'_> {
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
