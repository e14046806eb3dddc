//! The variables of nginx in texts that tidegate fills in: the placeholders of `respond` and `request_headers`.

use crate::import::nginx::request::split_variable;

/// Replaces each variable of a text by the placeholder that `placeholder` returns for its name; `None` if there is none for one of them,
/// or if the text itself would be read as a placeholder.
pub(crate) fn translate(
    text: &str,
    placeholder: impl Fn(&str) -> Option<&'static str>,
) -> Option<String> {
    let mut result = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        push_literal(&mut result, before)?;
        let (name, after) = split_variable(after)?;
        result.push_str(placeholder(name)?);
        rest = after;
    }
    push_literal(&mut result, rest)?;
    Some(result)
}

fn push_literal(result: &mut String, text: &str) -> Option<()> {
    let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_lowercase());
    let mut braces = text.split('{').skip(1);
    let is_placeholder = braces.any(|after| {
        let name = after.split_once('}').map(|(name, _)| name);
        name.is_some_and(|name| !name.is_empty() && is_name(name))
    });
    result.push_str(text);
    (!is_placeholder).then_some(())
}

/// The placeholders of a redirect or a text.
pub(crate) fn in_response(name: &str) -> Option<&'static str> {
    match name {
        "host" | "http_host" => Some("{host}"),
        "request_uri" => Some("{path}{query}"),
        "uri" | "document_uri" => Some("{path}"),
        "scheme" => Some("https"),
        // These two are written together.
        "is_args" => Some("{query}"),
        "args" => Some(""),
        _ => None,
    }
}

/// The placeholders of a header field; `has_users` is whether tidegate verifies users.
pub(crate) fn in_request_header(name: &str, has_users: bool) -> Option<&'static str> {
    match name {
        "host" => Some("{host}"),
        "scheme" => Some("{scheme}"),
        "remote_addr" => Some("{client}"),
        "remote_user" if has_users => Some("{user}"),
        _ => None,
    }
}
