//! A request on its way through the model of nginx: its path, its variables, and the conditions of `if`.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::import::nginx::client_rules::{Class, ClientRules, Dependencies};
use crate::import::nginx::if_blocks::{condition_words, is_filter};
use crate::import::nginx::parser::Directive;
use crate::import::nginx::pattern::PatternCache;
use crate::import::nginx::request::Request;
use crate::import::nginx::verdict::Cause;

/// A request with what nginx keeps for it.
pub(crate) struct Exchange<'r> {
    pub(crate) request: &'r Request,
    /// The current path, which `rewrite` and internal redirects change.
    pub(crate) path: String,
    /// The directive that changed the path first.
    pub(crate) changed_by: Option<Cause>,
    /// Whether `proxy_pass` replaces the text of its location; not after a `rewrite` with `break`.
    pub(crate) replaces_location: bool,
    /// Whether the request may enter `internal` locations.
    pub(crate) is_internal: bool,
    pub(crate) is_tls: bool,
    pub(crate) server_name: &'r str,
    pub(crate) verifies_certificate: bool,
    /// The variables that `set` or `map` gave a value; `None` for a value that is not known. As in nginx, a variable of a `map` keeps
    /// the value of its first use.
    variables: RefCell<HashMap<String, Option<String>>>,
}

/// What the values of variables depend on.
pub(crate) struct Environment<'a> {
    /// The directives of `http`.
    pub(crate) http: &'a [Directive],
    pub(crate) patterns: PatternCache,
    pub(crate) rules: ClientRules<'a>,
    pub(crate) dependencies: RefCell<Dependencies>,
}

impl<'r> Exchange<'r> {
    pub(crate) fn new(
        request: &'r Request,
        is_tls: bool,
        server_name: &'r str,
        verifies_certificate: bool,
    ) -> Self {
        Self {
            request,
            path: request.path.clone(),
            changed_by: None,
            replaces_location: true,
            is_internal: false,
            is_tls,
            server_name,
            verifies_certificate,
            variables: RefCell::default(),
        }
    }

    /// Sets a variable; `None` for a value that is not known.
    pub(crate) fn set(&self, name: &str, value: Option<String>) {
        self.variables.borrow_mut().insert(name.to_owned(), value);
    }

    /// Executes something of which it is not known whether nginx executes it: the variables that it changes are not known afterwards.
    pub(crate) fn maybe<T>(&mut self, execute: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.variables.borrow().clone();
        let result = execute(self);
        for (name, value) in self.variables.borrow_mut().iter_mut() {
            if before.get(name) != Some(value) {
                *value = None;
            }
        }
        result
    }

    /// Changes the path because of a directive.
    pub(crate) fn change_path(&mut self, path: String, cause: Cause) {
        self.path = path;
        self.is_internal = true;
        self.changed_by.get_or_insert(cause);
    }
}

impl<'a> Environment<'a> {
    /// Notes a property that the outcome of the request depends on.
    pub(crate) fn note(&self, note: impl FnOnce(&mut Dependencies)) {
        note(&mut self.dependencies.borrow_mut());
    }

    /// Whether a condition holds; `None` if this is not known.
    pub(crate) fn condition(&self, directive: &Directive, exchange: &Exchange<'_>) -> Option<bool> {
        let words = condition_words(directive);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        if is_filter(&words) {
            // Filters of browsers and queries are no access control; the importer warns of them.
            return Some(false);
        }
        match words.as_slice() {
            [variable] => {
                let value = self.interpolate(variable, exchange)?;
                Some(!value.is_empty() && value != "0")
            }
            [variable, operator, operand] => {
                let value = self.interpolate(variable, exchange)?;
                let is_equal = || Some(value == self.interpolate(operand, exchange)?);
                let is_match = |ignores_case| self.patterns.is_match(operand, ignores_case, &value);
                match *operator {
                    "=" => is_equal(),
                    "!=" => is_equal().map(|is_equal| !is_equal),
                    "~" => is_match(false),
                    "~*" => is_match(true),
                    "!~" => is_match(false).map(|is| !is),
                    "!~*" => is_match(true).map(|is| !is),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Replaces the variables of a text; `None` if one of them is not known.
    pub(crate) fn interpolate(&self, text: &str, exchange: &Exchange<'_>) -> Option<String> {
        self.interpolate_with(text, exchange, &[], 0)
    }

    /// Replaces the variables of a text, in which `$1` to `$9` are the groups of a pattern.
    pub(crate) fn interpolate_groups(
        &self,
        text: &str,
        exchange: &Exchange<'_>,
        groups: &[String],
    ) -> Option<String> {
        self.interpolate_with(text, exchange, groups, 0)
    }

    fn interpolate_with(
        &self,
        text: &str,
        exchange: &Exchange<'_>,
        groups: &[String],
        depth: usize,
    ) -> Option<String> {
        let mut result = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            result.push_str(before);
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let is_group = after.starts_with(|c: char| c.is_ascii_digit());
            let (name, after) = match after.strip_prefix('{') {
                Some(inner) => inner.split_once('}')?,
                None if is_group => after.split_at(1),
                None => after.split_at(after.find(|c| !is_name(c)).unwrap_or(after.len())),
            };
            match name.parse::<usize>() {
                // The groups of another directive's pattern are not followed.
                Ok(_) if groups.is_empty() => return None,
                Ok(group) => result.push_str(groups.get(group).map_or("", String::as_str)),
                Err(_) => result.push_str(&self.variable(name, exchange, depth)?),
            }
            rest = after;
        }
        result.push_str(rest);
        Some(result)
    }

    fn variable(&self, name: &str, exchange: &Exchange<'_>, depth: usize) -> Option<String> {
        if depth > MAX_MAP_DEPTH {
            return None;
        }
        if let Some(value) = exchange.variables.borrow().get(name) {
            return value.clone();
        }
        let request = exchange.request;
        let scheme = |tls: &str, plain: &str| {
            self.note(|on| on.host = true);
            Some(if exchange.is_tls { tls } else { plain }.to_owned())
        };
        match name {
            "request_method" => {
                self.note(|on| on.method = true);
                Some(request.method.to_string())
            }
            "host" | "http_host" | "ssl_server_name" => {
                self.note(|on| on.host = true);
                Some(request.host.clone())
            }
            "uri" | "document_uri" => Some(exchange.path.clone()),
            "request_uri" => Some(request.path.clone()),
            "remote_addr" => {
                self.note(|on| on.client_text = true);
                Some(request.client.to_string())
            }
            "server_port" => {
                self.note(|on| on.host = true);
                Some(request.address.port().to_string())
            }
            "server_name" => Some(exchange.server_name.to_owned()),
            "scheme" => scheme("https", "http"),
            "https" => scheme("on", ""),
            "is_args" => Some(String::new()),
            // A balancer in front of tidegate reports https, because tidegate serves over TLS only.
            "http_x_forwarded_proto" => Some("https".to_owned()),
            "ssl_protocol" => Some("TLSv1.3".to_owned()),
            "ssl_client_verify" if !exchange.verifies_certificate => None,
            "ssl_client_verify" => {
                self.note(|on| on.certificate = true);
                let result = if request.has_certificate {
                    "SUCCESS"
                } else {
                    "NONE"
                };
                Some(result.to_owned())
            }
            _ => {
                let value = self.mapped(name, exchange, depth);
                exchange.set(name, value.clone());
                value
            }
        }
    }

    /// The value of a variable that a `map` or a `geo` block defines.
    fn mapped(&self, name: &str, exchange: &Exchange<'_>, depth: usize) -> Option<String> {
        let is_named =
            |arg: Option<&String>| arg.and_then(|arg| arg.strip_prefix('$')) == Some(name);
        let block = self
            .http
            .iter()
            .find(|d| matches!(d.name.as_str(), "map" | "geo") && is_named(d.args.last()))?;
        if block.name == "map" {
            let source = self.interpolate_with(block.first(), exchange, &[], depth + 1)?;
            let result = self.map_value(block, &source)?;
            return self.interpolate_with(result, exchange, &[], depth + 1);
        }
        let has_own_source = block.args.len() > 1 && block.first() != "$remote_addr";
        let is_plain = |entry: &Directive| !GEO_PARAMETERS.contains(&entry.name.as_str());
        if has_own_source || !block.inner().iter().all(is_plain) {
            return None;
        }
        let rule = self.rules.geo(block);
        self.note(|on| {
            on.rules.insert(rule);
        });
        match self.rules.class(rule, exchange.request.client) {
            Class::Value(value) => Some(value),
            Class::Access(_) => None,
        }
    }

    fn map_value<'m>(&self, block: &'m Directive, source: &str) -> Option<&'m str> {
        let entries = block.inner();
        if entries.iter().any(|entry| entry.name == "hostnames") {
            return None;
        }
        let exact = entries.iter().find(|entry| {
            let key = entry.name.strip_prefix('\\').unwrap_or(&entry.name);
            !entry.name.starts_with('~')
                && key.eq_ignore_ascii_case(source)
                && entry.name != "default"
        });
        if let Some(entry) = exact {
            return Some(entry.first());
        }
        for entry in entries {
            let Some(pattern) = entry.name.strip_prefix('~') else {
                continue;
            };
            let (pattern, ignores_case) = match pattern.strip_prefix('*') {
                Some(pattern) => (pattern, true),
                None => (pattern, false),
            };
            if self.patterns.is_match(pattern, ignores_case, source)? {
                return Some(entry.first());
            }
        }
        let default = entries.iter().find(|entry| entry.name == "default");
        Some(default.map_or("", Directive::first))
    }
}

/// The maximum number of `map` blocks that depend on each other.
const MAX_MAP_DEPTH: usize = 8;
/// The entries of a `geo` block that are no networks and that the model does not follow.
const GEO_PARAMETERS: &[&str] = &["ranges", "delete", "proxy", "proxy_recursive", "include"];
