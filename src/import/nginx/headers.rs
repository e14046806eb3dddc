//! Header fields: `proxy_set_header`, `add_header` and `proxy_hide_header` as the keys of a route.
//!
//! Values that may be secrets are neither written nor shown in a message.

use http::{HeaderName, HeaderValue, header};

use crate::config::url::external_url;
use crate::forward::headers::is_reserved;

use crate::import::nginx::context::Context;
use crate::import::nginx::output::{Line, Value};
use crate::import::nginx::parser::Directive;
use crate::import::nginx::placeholders;
use crate::import::nginx::remarks::BUILT_IN;
use crate::import::nginx::scope::Scope;

/// A table of header fields and values, as `request_headers` and `response_headers` have it.
type FieldTable = Vec<(String, Value)>;

/// Translates the header fields of a location.
///
/// `path` is the path of the route, and `has_users` is whether tidegate verifies users there.
pub(crate) fn headers(
    context: &mut Context<'_>,
    scope: &Scope<'_>,
    path: &str,
    has_users: bool,
) -> Vec<Line> {
    let mut lines = Vec::new();
    let request = request_headers(context, scope, has_users);
    if !request.is_empty() {
        lines.push(Line::new("request_headers", Value::Table(request)));
    }
    let forwarded = forwarded(scope, path);
    if !forwarded.is_empty() {
        lines.push(Line::list("forwarded", forwarded));
    }
    lines.extend(cors(context, scope));
    let mut response = FieldTable::new();
    for hidden in scope.all("proxy_hide_header") {
        if let Some(name) = field_name(hidden.first()).filter(|name| !is_reserved(name)) {
            set(&mut response, hidden.first(), "", &name);
        }
    }
    // After proxy_hide_header: a field of the upstream that is hidden and added again is replaced.
    let is_always = response_headers(context, scope, &mut response);
    if !response.is_empty() {
        let comment = if is_always {
            "not in tidegate's own error responses"
        } else {
            "in every response of the upstream; nginx left out errors and 202 without always"
        };
        let line = Line::new("response_headers", Value::Table(response));
        lines.push(line.with_comment(comment));
    }
    lines
}

/// The fields about the client's request that tidegate sets with `forwarded`.
fn forwarded(scope: &Scope<'_>, path: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for set_header in scope.all("proxy_set_header") {
        let word = forwarded_word(set_header).map(str::to_owned);
        let is_other_prefix = set_header.arg(1).trim_end_matches('/') != path.trim_end_matches('/');
        words.extend(
            word.filter(|word| !words.contains(word) && (word != "prefix" || !is_other_prefix)),
        );
    }
    words
}

/// The word of `forwarded` that sets the same field.
fn forwarded_word(set_header: &Directive) -> Option<&'static str> {
    let (name, value) = (set_header.first(), set_header.arg(1));
    let is_port = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match (name.to_ascii_lowercase().as_str(), value) {
        ("x-forwarded-host", "$host" | "$http_host" | "$host:$server_port") => Some("host"),
        ("x-forwarded-port", "$server_port") => Some("port"),
        ("x-forwarded-port", port) if is_port(port) => Some("port"),
        ("x-forwarded-prefix", prefix) if prefix.starts_with('/') => Some("prefix"),
        ("x-original-uri", "$request_uri") => Some("original-uri"),
        _ => None,
    }
}

fn request_headers(context: &mut Context<'_>, scope: &Scope<'_>, has_users: bool) -> FieldTable {
    let mut table = FieldTable::new();
    for set_header in scope.all("proxy_set_header") {
        let (written, value) = (set_header.first(), set_header.arg(1));
        let Some(name) = field_name(written) else {
            context.warn(set_header.at, "proxy_set_header names no header field");
            continue;
        };
        if forwarded_word(set_header).is_some() {
            continue;
        }
        let translated = placeholders::translate(value, |name| {
            placeholders::in_request_header(name, has_users)
        });
        if is_reserved(&name) {
            warn_of_reserved(context, set_header, &name);
        } else if name == header::AUTHORIZATION {
            warn_of_authorization(context, set_header);
        } else if is_built_in(&name) || is_value_of_client(value, &name) {
            context.unsupported_as(BUILT_IN, set_header.at, label(set_header));
        } else if let Some(value) = translated.filter(|value| HeaderValue::from_str(value).is_ok())
        {
            set(&mut table, written, &value, &name);
        } else {
            // nginx replaced the value of the client, which must not reach the upstream in its place.
            let what = format!(
                "{} is removed from requests: nginx set it to a value that tidegate does not have",
                set_header.first()
            );
            context.warn(set_header.at, what);
            set(&mut table, written, "", &name);
        }
    }
    table
}

/// Whether a value is the field as the client sent it.
fn is_value_of_client(value: &str, name: &HeaderName) -> bool {
    let variable = value.strip_prefix("$http_");
    variable.is_some_and(|variable| variable.replace('_', "-") == name.as_str())
}

fn warn_of_authorization(context: &mut Context<'_>, set_header: &Directive) {
    if set_header.arg(1).is_empty() || set_header.arg(1) == "$http_authorization" {
        // The mode of `auth` says whether the field is forwarded.
        let label = label(set_header);
        context.unsupported_as(BUILT_IN, set_header.at, label);
        return;
    }
    context.warn(
        set_header.at,
        "proxy_set_header Authorization is left out: a proxy.toml holds no secrets; let the upstream trust tidegate's address instead",
    );
}

/// Warns where tidegate's value of a forwarding header field differs from nginx's.
fn warn_of_reserved(context: &mut Context<'_>, set_header: &Directive, name: &HeaderName) {
    let value = set_header.arg(1);
    let what = match name.as_str() {
        // The key `host` of the upstream has the value.
        "host" => return,
        "x-forwarded-proto" | "x-forwarded-for" | "x-real-ip"
            if value.contains("$http_") || value.contains("$proxy_x_") =>
        {
            "nginx believed the value of the client; tidegate believes only the peers in listen.trusted_proxies"
        }
        "x-forwarded-proto" if !matches!(value, "$scheme" | "https" | "") => {
            "X-Forwarded-Proto is https, or the value of a peer in listen.trusted_proxies"
        }
        "upgrade" | "connection" if !matches!(value, "" | "close" | "keep-alive") => {
            context.unsupported_as(WEBSOCKETS, set_header.at, label(set_header));
            return;
        }
        "x-forwarded-proto" | "x-forwarded-for" | "x-real-ip" | "upgrade" | "connection" => {
            context.unsupported_as(BUILT_IN, set_header.at, label(set_header));
            return;
        }
        _ => {
            let what = format!(
                "{} does not reach the upstream: tidegate removes this field",
                set_header.first()
            );
            return context.warn(set_header.at, what);
        }
    };
    context.warn(set_header.at, what);
}

/// Whether nginx passes WebSockets in a location.
pub(crate) fn passes_websockets(scope: &Scope<'_>) -> bool {
    let mut fields = scope.all("proxy_set_header").into_iter();
    fields.any(|d| d.first().eq_ignore_ascii_case("upgrade") && !d.arg(1).is_empty())
}

/// Adds the fields of `add_header` to the table. Returns whether all of them have `always`.
fn response_headers(context: &mut Context<'_>, scope: &Scope<'_>, table: &mut FieldTable) -> bool {
    let mut is_always = true;
    for add in scope.all("add_header") {
        let (written, value) = (add.first(), add.arg(1));
        let Some(name) = field_name(written) else {
            context.warn(add.at, "add_header names no header field");
            continue;
        };
        if name.as_str().starts_with("access-control-") {
            continue;
        }
        if is_reserved(&name) || is_built_in(&name) {
            context.unsupported_as(BUILT_IN, add.at, label(add));
        } else if value.contains('$') {
            context.unsupported_as(VARIABLE, add.at, label(add));
        } else if !value.is_empty() && HeaderValue::from_str(value).is_ok() {
            is_always &= add.arg(2) == "always";
            set(table, written, value, &name);
        }
    }
    is_always
}

/// Translates `Access-Control-Allow-Origin` with a constant origin into `cors`.
fn cors(context: &mut Context<'_>, scope: &Scope<'_>) -> Option<Line> {
    let conditions = scope.every().filter(|d| d.name == "if");
    let inside_if = conditions.flat_map(Directive::inner);
    let all: Vec<_> = scope
        .all("add_header")
        .into_iter()
        .chain(inside_if)
        .collect();
    let mut origins: Vec<String> = Vec::new();
    for add in all {
        let name = add.first().to_ascii_lowercase();
        if add.name != "add_header" || !name.starts_with("access-control-") {
            continue;
        }
        context.unsupported_as(CORS, add.at, label(add));
        if name != "access-control-allow-origin" {
            continue;
        }
        let origin = add.arg(1);
        if external_url(origin).is_err() {
            context.warn(
                add.at,
                "pages of any origin had access; name the origins, as in cors = [\"https://ui.example.com\"]",
            );
        } else if !origins.iter().any(|known| known == origin) {
            origins.push(origin.to_owned());
        }
    }
    let line = Line::list("cors", origins.clone());
    (!origins.is_empty())
        .then(|| line.with_comment("a preflight request of a browser needs no password"))
}

fn field_name(text: &str) -> Option<HeaderName> {
    HeaderName::from_bytes(text.as_bytes()).ok()
}

/// Whether tidegate sets or removes the field without a key.
fn is_built_in(name: &HeaderName) -> bool {
    name == "docker-distribution-api-version" || name == header::TE || name == header::EXPECT
}

fn label(directive: &Directive) -> String {
    format!("{} {}", directive.name, directive.first())
}

/// Sets a field. A table has each field once, regardless of the case of its name.
fn set(table: &mut FieldTable, written: &str, value: &str, name: &HeaderName) {
    table.retain(|(known, _)| !known.eq_ignore_ascii_case(name.as_str()));
    table.push((written.to_owned(), Value::Text(value.to_owned())));
}

const WEBSOCKETS: &str =
    "WebSockets pass without a key on routes with registry = false; a registry has none";
const VARIABLE: &str = "header values with variables that have no placeholder";
const CORS: &str = "Access-Control-*: tidegate sends these fields for the origins in cors";
