//! `if`: what it was for.
//!
//! Called by `route` and `site`. There are no conditions in a proxy.toml: those that people write for a registry are
//! either done by the gate itself, or restrict something, and then the route is closed.

use crate::import::nginx::tree::Directive;

/// What a condition did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IfEffect {
    /// Leads plain HTTP to https.
    ToHttps,
    /// Turns away clients by what they say of themselves.
    UserAgent,
    /// Turns away other hosts, other methods, plain HTTP: the gate does that.
    ByItself,
    /// Turns away clients without a certificate.
    Certificate,
    /// Answers a browser's preflight.
    Preflight,
    /// Restricts access in a way the gate does not know.
    Restricts,
    /// Changes something on the way.
    Changes,
}

pub(super) fn purpose(condition: &Directive) -> IfEffect {
    let text = condition.args.join(" ");
    let text = text.trim_start_matches('(').trim();
    let end = text
        .find(|c: char| c.is_whitespace() || matches!(c, '=' | '!' | '~' | ')'))
        .unwrap_or(text.len());
    let variable = text.get(..end).unwrap_or_default();
    let is_negated = text.contains("!=") || text.contains("!~");
    let is_about_method = variable == "$request_method";
    let Some(status) = status(condition) else {
        return if restricts_inside(condition) {
            IfEffect::Restricts
        } else {
            IfEffect::Changes
        };
    };
    match status {
        Answer::ToHttps => IfEffect::ToHttps,
        Answer::Elsewhere => IfEffect::Changes,
        Answer::Success if is_about_method && text.contains("OPTIONS") => IfEffect::Preflight,
        Answer::Success => IfEffect::Changes,
        Answer::Refusal => match variable {
            // One that lets certain agents in alone is a password of a kind.
            "$http_user_agent" if !is_negated => IfEffect::UserAgent,
            // Other hosts are 421 here.
            "$host" | "$http_host" if is_negated => IfEffect::ByItself,
            "$scheme" | "$https" | "$ssl_protocol" | "$server_port" => IfEffect::ByItself,
            "$ssl_client_verify" => IfEffect::Certificate,
            _ if is_about_method && text.contains("!~") && names_all_methods(text) => {
                IfEffect::ByItself
            }
            _ => IfEffect::Restricts,
        },
    }
}

enum Answer {
    ToHttps,
    Elsewhere,
    Success,
    Refusal,
}

fn status(block: &Directive) -> Option<Answer> {
    if leads_to_https(block.inner()) {
        return Some(Answer::ToHttps);
    }
    let answer = block.all("return").next()?;
    Some(match answer.first().parse::<u16>() {
        Ok(200..=299) => Answer::Success,
        Ok(300..=399) | Err(_) => Answer::Elsewhere,
        Ok(_) => Answer::Refusal,
    })
}

fn restricts_inside(block: &Directive) -> bool {
    let restricts = |name: &str| matches!(name, "deny" | "auth_basic" | "auth_request");
    block.inner().iter().any(|inner| restricts(&inner.name))
}

/// The methods of a registry; whoever excludes others excludes nothing the gate lets through.
fn names_all_methods(text: &str) -> bool {
    let methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
    methods.iter().all(|method| text.contains(method))
}

/// A redirect to the same under https.
pub(super) fn leads_to_https(block: &[Directive]) -> bool {
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
