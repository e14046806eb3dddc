//! `server_name` as `site.hosts`.
//!
//! Called by `site`.

use crate::config::address::host_pattern;

use crate::import::nginx::tree::Directive;

/// The names of a server block.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Hosts {
    /// As they stand in `site.hosts`, each once.
    pub(super) names: Vec<String>,
    /// Whether a `*` of any depth became one of one label.
    pub(super) has_wildcard: bool,
    /// What no pattern of the gate says.
    pub(super) lost: Vec<String>,
}

pub(super) fn of(server: &Directive) -> Hosts {
    let mut hosts = Hosts::default();
    for name in server.all("server_name").flat_map(|names| &names.args) {
        // `_` and nothing are names that no client sends.
        if name == "_" || name == "--" || name.is_empty() {
            continue;
        }
        let patterns = match name.strip_prefix('.') {
            Some(parent) => vec![parent.to_owned(), format!("*.{parent}")],
            None => vec![name.trim_end_matches('.').to_ascii_lowercase()],
        };
        for pattern in patterns {
            hosts.add(&pattern, name);
        }
    }
    hosts
}

impl Hosts {
    fn add(&mut self, pattern: &str, written: &str) {
        let pattern = match host_pattern(pattern) {
            Ok(pattern) if pattern.to_string() != "*" => pattern.to_string(),
            _ => {
                self.lost.push(written.to_owned());
                return;
            }
        };
        self.has_wildcard |= pattern.starts_with("*.");
        if !self.names.contains(&pattern) {
            self.names.push(pattern);
        }
    }
}
