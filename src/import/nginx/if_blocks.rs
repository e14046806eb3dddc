//! The purpose of an `if` block.
//!
//! A `proxy.toml` has no conditions. tidegate either does the same without a key, or the `if` restricts access, and then the
//! route is closed.

use crate::import::nginx::parser::Directive;

/// The effect of an `if` block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfEffect {
    /// Redirects plain HTTP to https.
    ToHttps,
    /// Rejects requests by their User-Agent.
    UserAgent,
    /// Rejects other hosts, other methods or plain HTTP, as tidegate does.
    BuiltIn,
    /// Rejects clients without a certificate.
    Certificate,
    /// Responds to the preflight request of a browser.
    Preflight,
    /// Restricts access in a way that tidegate does not have.
    Restricts,
    /// Changes the request or the response.
    Changes,
}

/// Classifies an `if` block.
pub(crate) fn effect(condition: &Directive) -> IfEffect {
    let text = condition.args.join(" ");
    let text = text.trim_start_matches('(').trim();
    let end = text
        .find(|c: char| c.is_whitespace() || matches!(c, '=' | '!' | '~' | ')'))
        .unwrap_or(text.len());
    let variable = text.get(..end).unwrap_or_default();
    let is_negated = text.contains("!=") || text.contains("!~");
    let is_about_method = variable == "$request_method";
    let Some(response) = response(condition) else {
        return if restricts_inside(condition) {
            IfEffect::Restricts
        } else {
            IfEffect::Changes
        };
    };
    match response {
        Response::ToHttps => IfEffect::ToHttps,
        Response::OtherRedirect => IfEffect::Changes,
        Response::Success if is_about_method && text.contains("OPTIONS") => IfEffect::Preflight,
        Response::Success => IfEffect::Changes,
        Response::Error => match variable {
            // A condition that permits only certain agents is a restriction.
            "$http_user_agent" if !is_negated => IfEffect::UserAgent,
            // tidegate responds to other hosts with 421.
            "$host" | "$http_host" if is_negated => IfEffect::BuiltIn,
            "$scheme" | "$https" | "$ssl_protocol" | "$server_port" => IfEffect::BuiltIn,
            "$ssl_client_verify" => IfEffect::Certificate,
            _ if is_about_method && text.contains("!~") && names_all_methods(text) => {
                IfEffect::BuiltIn
            }
            _ => IfEffect::Restricts,
        },
    }
}

/// The kind of response of an `if` block with `return`.
enum Response {
    ToHttps,
    OtherRedirect,
    Success,
    Error,
}

fn response(block: &Directive) -> Option<Response> {
    if redirects_to_https(block.inner()) {
        return Some(Response::ToHttps);
    }
    let directive = block.all("return").next()?;
    Some(match directive.first().parse::<u16>() {
        Ok(200..=299) => Response::Success,
        Ok(300..=399) | Err(_) => Response::OtherRedirect,
        Ok(_) => Response::Error,
    })
}

fn restricts_inside(block: &Directive) -> bool {
    let restricts = |name: &str| matches!(name, "deny" | "auth_basic" | "auth_request");
    block.inner().iter().any(|inner| restricts(&inner.name))
}

/// Whether the condition names all methods of a registry. tidegate rejects the other methods itself.
fn names_all_methods(text: &str) -> bool {
    let methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
    methods.iter().all(|method| text.contains(method))
}

/// Whether a block redirects to https.
pub(crate) fn redirects_to_https(block: &[Directive]) -> bool {
    block.iter().any(|directive| {
        let target = match directive.name.as_str() {
            "return" if directive.args.len() == 1 => directive.first(),
            "return" => directive.arg(1),
            "rewrite" => directive.arg(1),
            _ => "",
        };
        target.starts_with("https://")
    })
}
