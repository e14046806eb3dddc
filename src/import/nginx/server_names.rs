//! The names of the server blocks at one address, as `ngx_http_server_names` registers them and `ngx_hash_find_combined` finds them.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use regex::bytes::Regex;

use crate::import::nginx::pattern::PatternCache;

/// The names at one address, each with the index of its server block.
#[derive(Default)]
pub(crate) struct ServerNames {
    exact: HashMap<String, usize>,
    /// The names `*.x` and `.x`, without their first characters; with whether `x` itself matches.
    with_subdomains: HashMap<String, (usize, bool)>,
    /// The names `x.*`, without the asterisk.
    with_ends: HashMap<String, usize>,
    /// The regular expressions in their order; `None` inside if one is not understood.
    patterns: Vec<(Rc<Option<Regex>>, usize)>,
    /// The names that later ones conflict with.
    reserved: HashSet<String>,
}

impl ServerNames {
    /// Adds a name of a server block. As in nginx, a name that conflicts with an earlier one is ignored.
    pub(crate) fn add(&mut self, name: &str, server: usize, cache: &PatternCache) {
        if let Some(pattern) = name.strip_prefix('~') {
            // nginx compares names in lower case.
            self.patterns.push((cache.compiled(pattern, true), server));
            return;
        }
        let name = name.to_ascii_lowercase();
        if let Some(parent) = name.strip_prefix("*.") {
            self.add_subdomains(parent, server, false);
        } else if let Some(parent) = name.strip_prefix('.') {
            if self.reserved.insert(parent.to_owned()) {
                self.add_subdomains(parent, server, true);
            }
        } else if let Some(start) = name.strip_suffix('*') {
            self.with_ends.entry(start.to_owned()).or_insert(server);
        } else if self.reserved.insert(name.clone()) {
            self.exact.insert(name, server);
        }
    }

    fn add_subdomains(&mut self, parent: &str, server: usize, matches_itself: bool) {
        if let Entry::Vacant(entry) = self.with_subdomains.entry(parent.to_owned()) {
            entry.insert((server, matches_itself));
        }
    }

    /// The server block with this name: an exact name, the longest name with an asterisk, or the first regular expression. The flag is
    /// whether this regular expression is not understood, so that it may match or not.
    pub(crate) fn find(&self, host: &str) -> Option<(usize, bool)> {
        let known = |server: &usize| Some((*server, false));
        if let Some(server) = self.exact.get(host) {
            return known(server);
        }
        let mut parent = host;
        loop {
            if let Some((server, matches_itself)) = self.with_subdomains.get(parent)
                && (*matches_itself || parent.len() < host.len())
            {
                return known(server);
            }
            let Some((_, rest)) = parent.split_once('.') else {
                break;
            };
            parent = rest;
        }
        let dots = host.rmatch_indices('.');
        let mut starts = dots.filter_map(|(dot, _)| host.get(..=dot));
        if let Some(server) = starts.find_map(|start| self.with_ends.get(start)) {
            return known(server);
        }
        self.patterns.iter().find_map(|(pattern, server)| {
            let Some(pattern) = pattern.as_ref() else {
                return Some((*server, true));
            };
            pattern
                .is_match(host.as_bytes())
                .then_some((*server, false))
        })
    }
}
