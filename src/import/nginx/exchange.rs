//! A request on its way through the model of nginx: its path, its variables, and the conditions of `if`.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::import::nginx::client_rules::{Class, ClientRules, Dependencies};
use crate::import::nginx::if_blocks::{condition_words, is_chosen_by_client, is_filter};
use crate::import::nginx::parser::{Directive, SourcePos};
use crate::import::nginx::pattern::{PatternCache, samples};
use crate::import::nginx::request::{Request, RequestProperty, split_variable, variable_name};
use crate::import::nginx::verdict::Cause;

/// A request with what nginx keeps for it.
pub(crate) struct Exchange<'r> {
    pub(crate) request: &'r Request,
    /// The current path, which `rewrite` and internal redirects change.
    pub(crate) path: String,
    /// The directive that changed the path first.
    pub(crate) changed_by: Option<Cause>,
    /// Whether the rewrite directives changed the path, so that nginx searches the location of the new one.
    pub(crate) is_changed: bool,
    /// Whether nginx executes the rewrite directives of the server before it searches a location.
    pub(crate) begins_with_server: bool,
    /// Whether `proxy_pass` replaces the text of its location; not after a `rewrite` with `break`.
    pub(crate) replaces_location: bool,
    /// Whether the request may enter `internal` locations.
    pub(crate) is_internal: bool,
    pub(crate) is_tls: bool,
    pub(crate) server_name: &'r str,
    pub(crate) verifies_certificate: bool,
    /// The variables that `set` or `map` gave a value; `None` for a value that is not known. As in nginx, a variable of a `map` keeps
    /// the value of its first use.
    variables: RefCell<HashMap<String, Option<InterpolatedText>>>,
}

/// The value of a text with variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InterpolatedText {
    pub(crate) value: String,
    /// Whether the value is the same for all requests to the server, as far as it is not the result of a condition or a `map`, which
    /// the probes vary. Other values are not compared with anything: the probes do not have all values that would matter.
    is_constant: bool,
}

/// What the values of variables depend on.
pub(crate) struct Environment<'a> {
    /// The directives of `http`.
    pub(crate) http: &'a [Directive],
    pub(crate) patterns: PatternCache,
    pub(crate) rules: ClientRules<'a>,
    pub(crate) dependencies: RefCell<Dependencies>,
    /// Whether the probes have all values that a condition or a `map` compares with a property, by the position of the directive.
    pub(crate) has_probes: RefCell<HashMap<SourcePos, bool>>,
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
            is_changed: false,
            begins_with_server: true,
            replaces_location: true,
            is_internal: false,
            is_tls,
            server_name,
            verifies_certificate,
            variables: RefCell::default(),
        }
    }

    /// Sets a variable; `None` for a value that is not known.
    pub(crate) fn set(&self, name: &str, value: Option<InterpolatedText>) {
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

    /// Whether a condition holds; `None` if this is not known, or if the probes do not have all values that the condition compares.
    pub(crate) fn condition(&self, directive: &Directive, exchange: &Exchange<'_>) -> Option<bool> {
        let words = condition_words(directive);
        let (variable, operator, operand) = match words.as_slice() {
            [variable] => (variable, "", ""),
            [variable, operator, operand] => (variable, operator.as_str(), operand.as_str()),
            _ => return None,
        };
        if is_chosen_by_client(variable) {
            // Filters of browsers and queries are no access control; the importer warns of them.
            return is_filter(&words, self.http).then_some(false);
        }
        let is_pattern = operator.contains('~');
        let value = self.compared(directive.at, variable, exchange, 0, || {
            if is_pattern {
                return samples(operand);
            }
            let is_literal = operand == "$server_name" || !operand.contains('$');
            is_literal.then(|| vec![operand.replace("$server_name", "")])
        })?;
        let holds = match operator {
            "" => !value.is_empty() && value != "0",
            "=" | "!=" => {
                let operand = self.interpolate(operand, exchange)?;
                operand.is_constant.then_some(value == operand.value)?
            }
            "~" | "~*" | "!~" | "!~*" => {
                self.patterns
                    .is_match(operand, operator.contains('*'), &value)?
            }
            _ => return None,
        };
        Some(holds != operator.starts_with('!'))
    }

    /// The value that a directive compares; `None` if it is not known, or if the probes do not have all values with which it is
    /// compared.
    fn compared(
        &self,
        at: SourcePos,
        text: &str,
        exchange: &Exchange<'_>,
        depth: usize,
        literals: impl FnOnce() -> Option<Vec<String>>,
    ) -> Option<String> {
        let value = self.interpolate_with(text, exchange, &[], depth)?;
        if value.is_constant {
            return Some(value.value);
        }
        let property = RequestProperty::of_variable(text)?;
        // The probes are not derived from a path that a directive changed.
        if property == RequestProperty::Path && exchange.changed_by.is_some() {
            return None;
        }
        let has_probes = *self.has_probes.borrow_mut().entry(at).or_insert_with(|| {
            literals().is_some_and(|literals| property.has_probes_for(&literals))
        });
        has_probes.then_some(value.value)
    }

    /// Replaces the variables of a text; `None` if one of them is not known.
    pub(crate) fn interpolate(
        &self,
        text: &str,
        exchange: &Exchange<'_>,
    ) -> Option<InterpolatedText> {
        self.interpolate_with(text, exchange, &[], 0)
    }

    /// Replaces the variables of a text, in which `$1` to `$9` are the groups of a pattern.
    pub(crate) fn interpolate_groups(
        &self,
        text: &str,
        exchange: &Exchange<'_>,
        groups: &[String],
    ) -> Option<String> {
        let text = self.interpolate_with(text, exchange, groups, 0)?;
        Some(text.value)
    }

    fn interpolate_with(
        &self,
        text: &str,
        exchange: &Exchange<'_>,
        groups: &[String],
        depth: usize,
    ) -> Option<InterpolatedText> {
        let mut result = InterpolatedText::constant("");
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            result.value.push_str(before);
            let (name, after) = split_variable(after)?;
            match name.parse::<usize>() {
                // The groups of another directive's pattern are not followed.
                Ok(_) if groups.is_empty() => return None,
                Ok(group) => {
                    let group = groups.get(group).map_or("", String::as_str);
                    result.value.push_str(group);
                    result.is_constant = false;
                }
                Err(_) => {
                    let variable = self.variable(name, exchange, depth)?;
                    result.value.push_str(&variable.value);
                    result.is_constant &= variable.is_constant;
                }
            }
            rest = after;
        }
        result.value.push_str(rest);
        Some(result)
    }

    fn variable(
        &self,
        name: &str,
        exchange: &Exchange<'_>,
        depth: usize,
    ) -> Option<InterpolatedText> {
        if depth > MAX_MAP_DEPTH {
            return None;
        }
        if let Some(value) = exchange.variables.borrow().get(name) {
            return value.clone();
        }
        let request = exchange.request;
        let constant = InterpolatedText::constant;
        let varied = InterpolatedText::varied;
        let of_address = |text: &str| {
            self.note(|on| on.host = true);
            constant(text)
        };
        let found = match name {
            "request_method" => {
                self.note(|on| on.method = true);
                varied(request.method.as_str())
            }
            "host" | "http_host" => {
                self.note(|on| on.host = true);
                varied(&request.host)
            }
            "uri" | "document_uri" => varied(&exchange.path),
            "request_uri" => varied(&request.path),
            "remote_addr" => {
                self.note(|on| on.client_text = true);
                varied(&request.client.to_string())
            }
            "server_port" => of_address(&request.address.port().to_string()),
            "server_name" => constant(exchange.server_name),
            "scheme" => of_address(if exchange.is_tls { "https" } else { "http" }),
            "https" => of_address(if exchange.is_tls { "on" } else { "" }),
            "is_args" => constant(""),
            // A balancer in front of tidegate reports https, because tidegate serves over TLS only.
            "http_x_forwarded_proto" => constant("https"),
            "ssl_client_verify" if !exchange.verifies_certificate => return None,
            "ssl_client_verify" => {
                self.note(|on| on.certificate = true);
                let has_certificate = request.has_certificate;
                constant(if has_certificate { "SUCCESS" } else { "NONE" })
            }
            _ => {
                let value = self.mapped(name, exchange, depth);
                exchange.set(name, value.clone());
                return value;
            }
        };
        Some(found)
    }

    /// The value of a variable that a `map` or a `geo` block defines.
    fn mapped(
        &self,
        name: &str,
        exchange: &Exchange<'_>,
        depth: usize,
    ) -> Option<InterpolatedText> {
        let is_named = |arg: Option<&String>| arg.and_then(|arg| variable_name(arg)) == Some(name);
        // Of several definitions of a variable, the last one counts.
        let mut blocks = self.http.iter();
        let block = blocks.rfind(|d| d.block.is_some() && is_named(d.args.last()))?;
        if block.name == "map" {
            let source = if is_chosen_by_client(block.first()) {
                // A client need not send a value.
                String::new()
            } else {
                let literals = || map_literals(block);
                self.compared(block.at, block.first(), exchange, depth + 1, literals)?
            };
            let result = self.map_value(block, &source)?;
            return self.interpolate_with(result, exchange, &[], depth + 1);
        }
        if block.name != "geo" {
            return None;
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
            Class::Value(value) => Some(InterpolatedText::constant(&value)),
            Class::Access(_) => None,
        }
    }

    fn map_value<'m>(&self, block: &'m Directive, source: &str) -> Option<&'m str> {
        let entries = block.inner();
        let is_parameter = |entry: &Directive| MAP_PARAMETERS.contains(&entry.name.as_str());
        if entries.iter().any(is_parameter) {
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

/// Everything with which a `map` compares its source.
fn map_literals(block: &Directive) -> Option<Vec<String>> {
    let mut literals = Vec::new();
    for entry in block.inner() {
        match entry.name.strip_prefix('~') {
            Some(pattern) => literals.extend(samples(pattern.trim_start_matches('*'))?),
            None if entry.name == "default" => {}
            None => literals.push(entry.name.trim_start_matches('\\').to_owned()),
        }
    }
    Some(literals)
}

impl InterpolatedText {
    fn constant(value: &str) -> Self {
        Self {
            value: value.to_owned(),
            is_constant: true,
        }
    }

    /// A property of the request, which the probes vary.
    fn varied(value: &str) -> Self {
        Self {
            value: value.to_owned(),
            is_constant: false,
        }
    }
}

/// The maximum number of `map` blocks that depend on each other.
const MAX_MAP_DEPTH: usize = 8;
/// The entries of a `map` that the model does not follow, and an `include` of a file that could not be read.
const MAP_PARAMETERS: &[&str] = &["hostnames", "volatile", "include"];
/// The entries of a `geo` block that are no networks and that the model does not follow.
const GEO_PARAMETERS: &[&str] = &["ranges", "delete", "proxy", "proxy_recursive", "include"];
