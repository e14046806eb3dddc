//! `proxy_set_header`, `add_header` and `proxy_hide_header` as a route's keys.
//!
//! Called by `route`. Values that may be secrets are neither written nor shown.

use http::{HeaderName, HeaderValue, header};

use crate::forward::headers::is_reserved;

use crate::import::nginx::draft::{Line, Value};
use crate::import::nginx::scope::Scope;
use crate::import::nginx::translate::Importer;
use crate::import::nginx::tree::Directive;

impl<'a> Importer<'a> {
    /// The lines about header fields.
    pub(super) fn headers(&mut self, scope: &Scope<'a>) -> Vec<Line> {
        let mut lines = Vec::new();
        let request = self.request_headers(scope);
        if !request.is_empty() {
            lines.push(Line::new("request_headers", Value::Table(request)));
        }
        lines.extend(self.cors(scope));
        let mut response = Vec::new();
        let is_always = self.response_headers(scope, &mut response);
        for hidden in scope.all("proxy_hide_header") {
            if let Some(name) = name(hidden.first()).filter(|name| !is_reserved(name)) {
                set(&mut response, hidden.first(), "", &name);
            }
        }
        if !response.is_empty() {
            let remark = if is_always {
                "not in answers of the gate's own"
            } else {
                "in every answer of the upstream; nginx left errors and 202 out without always"
            };
            let line = Line::new("response_headers", Value::Table(response));
            lines.push(line.beside(remark));
        }
        lines
    }

    fn request_headers(&mut self, scope: &Scope<'a>) -> Vec<(String, Value)> {
        let mut table = Vec::new();
        for set_header in scope.all("proxy_set_header") {
            let (written, value) = (set_header.first(), set_header.arg(1));
            let Some(name) = name(written) else {
                self.remarks
                    .warn(set_header.at, "proxy_set_header names no header field");
                continue;
            };
            if is_reserved(&name) {
                self.warn_of_reserved(set_header, &name);
            } else if name == header::AUTHORIZATION {
                self.authorization(set_header);
            } else if is_own(&name) {
                self.remarks
                    .unsupported_as(BY_ITSELF, set_header.at, label(set_header));
            } else if value.contains('$') {
                self.remarks
                    .unsupported_as(VARIABLE, set_header.at, label(set_header));
            } else if HeaderValue::from_str(value).is_ok() {
                set(&mut table, written, value, &name);
            }
        }
        table
    }

    fn authorization(&mut self, set_header: &Directive) {
        if set_header.arg(1).is_empty() || set_header.arg(1) == "$http_authorization" {
            let label = label(set_header);
            self.remarks.unsupported_as(BY_ITSELF, set_header.at, label);
            return;
        }
        self.remarks.warn(
            set_header.at,
            "proxy_set_header Authorization is left out: no secret stands in a proxy.toml; let the upstream trust the gate's address instead",
        );
    }

    /// What the gate vouches for and nginx may have said otherwise.
    fn warn_of_reserved(&mut self, set_header: &Directive, name: &HeaderName) {
        let value = set_header.arg(1);
        let what = match name.as_str() {
            "host" if !matches!(value, "$http_host" | "$host" | "$host:$server_port") => {
                "the upstream gets the Host that the client sent; nginx sent another one"
            }
            "x-forwarded-proto" | "x-forwarded-for" | "x-real-ip"
                if value.contains("$http_") || value.contains("$proxy_x_") =>
            {
                "the client's own value was believed; the gate believes it from listen.trusted_proxies alone"
            }
            "x-forwarded-proto" if !matches!(value, "$scheme" | "https" | "") => {
                "X-Forwarded-Proto is https here, and what listen.trusted_proxies say"
            }
            _ => {
                self.remarks
                    .unsupported_as(BY_ITSELF, set_header.at, label(set_header));
                return;
            }
        };
        self.remarks.warn(set_header.at, what);
    }

    /// Adds to the table; whether all of them were for errors too.
    fn response_headers(&mut self, scope: &Scope<'a>, table: &mut Vec<(String, Value)>) -> bool {
        let mut is_always = true;
        for add in scope.all("add_header") {
            let (written, value) = (add.first(), add.arg(1));
            let Some(name) = name(written) else {
                self.remarks
                    .warn(add.at, "add_header names no header field");
                continue;
            };
            if name.as_str().starts_with("access-control-") {
                continue;
            }
            if is_reserved(&name) || is_own(&name) {
                self.remarks.unsupported_as(BY_ITSELF, add.at, label(add));
            } else if value.contains('$') {
                self.remarks.unsupported_as(VARIABLE, add.at, label(add));
            } else if !value.is_empty() && HeaderValue::from_str(value).is_ok() {
                is_always &= add.arg(2) == "always";
                set(table, written, value, &name);
            }
        }
        is_always
    }

    /// Browsers of other origins.
    fn cors(&mut self, scope: &Scope<'a>) -> Option<Line> {
        let conditions = scope.every().filter(|d| d.name == "if");
        let inner = conditions.flat_map(|condition| condition.inner());
        let all: Vec<_> = scope.all("add_header").into_iter().chain(inner).collect();
        let mut origins: Vec<String> = Vec::new();
        for add in all {
            let is_about = |name: &str| add.first().to_ascii_lowercase().starts_with(name);
            if add.name != "add_header" || !is_about("access-control-") {
                continue;
            }
            self.remarks.unsupported_as(CORS, add.at, label(add));
            if !is_about("access-control-allow-origin") {
                continue;
            }
            let origin = add.arg(1);
            if crate::config::url::external_url(origin).is_ok() {
                if !origins.iter().any(|known| known == origin) {
                    origins.push(origin.to_owned());
                }
            } else {
                self.remarks.warn(
                    add.at,
                    "pages of any origin could ask; name those that may, as in cors = [\"https://ui.example.com\"]",
                );
            }
        }
        let line = Line::list("cors", origins.clone());
        (!origins.is_empty()).then(|| line.beside("the preflight of a browser needs no password"))
    }
}

fn name(text: &str) -> Option<HeaderName> {
    HeaderName::from_bytes(text.as_bytes()).ok()
}

/// What the registry's module sees to.
fn is_own(name: &HeaderName) -> bool {
    name == "docker-distribution-api-version" || name == header::TE || name == header::EXPECT
}

fn label(directive: &Directive) -> String {
    format!("{} {}", directive.name, directive.first())
}

/// A field stands once, whatever the case of its name.
fn set(table: &mut Vec<(String, Value)>, written: &str, value: &str, name: &HeaderName) {
    table.retain(|(known, _)| !known.eq_ignore_ascii_case(name.as_str()));
    table.push((written.to_owned(), Value::Text(value.to_owned())));
}

const BY_ITSELF: &str = super::fallen::BY_ITSELF;
const VARIABLE: &str = "header values with variables: the gate sets constant ones";
const CORS: &str = "Access-Control-*: the gate answers for the origins in cors";
