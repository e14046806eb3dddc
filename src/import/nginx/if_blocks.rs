//! The conditions of `if` blocks.
//!
//! A `proxy.toml` has no conditions. [`note`] reports what an `if` did that tidegate does not do; whether a condition restricts access is
//! the business of `nginx_model`, which evaluates it.

use crate::import::nginx::context::Context;
use crate::import::nginx::parser::Directive;
use crate::import::nginx::pattern::may_match_empty;
use crate::import::nginx::request::variable_name;

/// The words of a condition without its parentheses: a variable, or a variable, an operator and an operand.
pub(crate) fn condition_words(directive: &Directive) -> Vec<String> {
    let mut words = directive.args.clone();
    if let Some(first) = words.first_mut()
        && let Some(rest) = first.strip_prefix('(')
    {
        *first = rest.to_owned();
    }
    if let Some(last) = words.last_mut()
        && let Some(rest) = last.strip_suffix(')')
    {
        *last = rest.to_owned();
    }
    // A parenthesis may be a word of its own; an operand "" leaves an empty word, too.
    if words.first().is_some_and(String::is_empty) {
        words.remove(0);
    }
    if words.len() == 4 && words.last().is_some_and(String::is_empty) {
        words.pop();
    }
    words
}

/// Whether a variable has a value that each client chooses itself: its User-Agent, its Referer or its query.
pub(crate) fn is_chosen_by_client(variable: &str) -> bool {
    variable_name(variable).is_some_and(|name| {
        name.starts_with("arg_")
            || matches!(
                name,
                "query_string" | "args" | "http_referer" | "http_user_agent" | "invalid_referer"
            )
    })
}

/// Whether a condition describes unwanted browsers, programs or queries: a request without User-Agent, Referer and query does not meet
/// it. `http` has all directives of the configuration.
///
/// Such a filter does not decide who has access, because a client chooses these values itself. A condition that demands a value works
/// like a password and is no filter.
pub(crate) fn is_filter(words: &[String], http: &[Directive]) -> bool {
    match words {
        [variable, ..] if variable == "$invalid_referer" && !accepts_no_referer(http) => false,
        [variable] => is_chosen_by_client(variable),
        [variable, operator, operand] if is_chosen_by_client(variable) => match operator.as_str() {
            "~" | "~*" => !may_match_empty(operand),
            "=" => !operand.is_empty() && !operand.contains('$'),
            _ => false,
        },
        _ => false,
    }
}

/// Whether every `valid_referers` accepts a request without Referer.
fn accepts_no_referer(directives: &[Directive]) -> bool {
    directives
        .iter()
        .all(|directive| match directive.name.as_str() {
            "valid_referers" => directive.args.iter().any(|arg| arg == "none"),
            _ => accepts_no_referer(directive.inner()),
        })
}

/// Reports the filters of a block, and the conditions that change header fields, limits or logs.
pub(crate) fn note(context: &mut Context<'_>, block: &[Directive]) {
    for condition in block.iter().filter(|d| d.name == "if") {
        let words = condition_words(condition);
        let name = format!("if ({} …)", words.first().map_or("", String::as_str));
        if is_filter(&words, context.http) {
            let is_of_docker = words.iter().any(|word| word.contains("docker"));
            if is_of_docker {
                context.unsupported_as(OLD_DOCKER, condition.at, name);
            } else {
                let what = format!(
                    "{name} is left out: tidegate does not filter by User-Agent, Referer or query, so these requests are forwarded"
                );
                context.warn(condition.at, what);
            }
            continue;
        }
        let is_of_client = |d: &&Directive| d.name == "map" && is_chosen_by_client(d.first());
        let mut maps = context.http.iter().filter(is_of_client);
        if maps.any(|map| words.first().is_some_and(|variable| map.arg(1) == variable)) {
            let what = format!(
                "{name} is left out: tidegate does not filter by User-Agent, Referer or query, so the value of a request without them counts for all requests"
            );
            context.warn(condition.at, what);
            continue;
        }
        let decides = |d: &Directive| {
            matches!(d.name.as_str(), "return" | "rewrite" | "set" | "break")
                || d.name.ends_with("_pass")
        };
        if !condition.inner().iter().any(decides) {
            context.warn(
                condition.at,
                format!("{name} is left out: a proxy.toml has no conditions"),
            );
        }
    }
}

/// Whether a block redirects to https.
pub(crate) fn redirects_to_https(block: &[Directive]) -> bool {
    block.iter().any(|directive| {
        let target = match directive.name.as_str() {
            "return" if directive.args.len() == 1 => directive.first(),
            "return" | "rewrite" => directive.arg(1),
            _ => "",
        };
        target.starts_with("https://")
    })
}

const OLD_DOCKER: &str =
    "conditions on the User-Agent of docker before 1.6, which cannot use a registry anyway";
