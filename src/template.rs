//! Texts of the configuration with placeholders such as `{host}`, which the proxy replaces by values of each request.
//!
//! `config` parses them, `service` renders the responses of routes with `respond`, and `forward` renders the values of header
//! fields. A word in braces is a placeholder only if it consists of lower-case letters, so that JSON in a text needs no escape.

/// The values of a request that a template can contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placeholder {
    /// The host that the client addressed, without the port; an IPv6 address in brackets, as in a URL.
    Host,
    /// The scheme that the client uses.
    Scheme,
    /// The address of the client.
    Client,
    /// The name of the verified user.
    User,
    /// The path that the client requested, with its percent-encoding.
    Path,
    /// The query with its `?`, or nothing.
    Query,
}

impl Placeholder {
    /// The word between the braces.
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Scheme => "scheme",
            Self::Client => "client",
            Self::User => "user",
            Self::Path => "path",
            Self::Query => "query",
        }
    }
}

/// A text with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Placeholder(Placeholder),
}

impl Template {
    /// Parses a text with the `allowed` placeholders. The error is the name of an unknown placeholder.
    pub fn parse(text: &str, allowed: &[Placeholder]) -> Result<Self, String> {
        let (mut parts, mut literal, mut rest) = (Vec::new(), String::new(), text);
        while let Some((before, after)) = rest.split_once('{') {
            literal.push_str(before);
            let name = after.split_once('}').filter(|(name, _)| is_name(name));
            let Some((name, after_name)) = name else {
                literal.push('{');
                rest = after;
                continue;
            };
            let found = allowed.iter().find(|allowed| allowed.name() == name);
            let placeholder = *found.ok_or_else(|| name.to_owned())?;
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            parts.push(Part::Placeholder(placeholder));
            rest = after_name;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self { parts })
    }

    /// The text, if it has no placeholder.
    pub fn as_literal(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Whether the text has this placeholder.
    pub fn has(&self, placeholder: Placeholder) -> bool {
        self.parts.contains(&Part::Placeholder(placeholder))
    }

    /// The text with each placeholder replaced by its value. A value is never parsed again.
    pub fn render<'a>(&self, value: impl Fn(Placeholder) -> &'a str) -> String {
        let parts = self.parts.iter().map(|part| match part {
            Part::Text(text) => text.as_str(),
            Part::Placeholder(placeholder) => value(*placeholder),
        });
        parts.collect()
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_replaced_once_and_other_braces_are_text() {
        let allowed = [Placeholder::Host, Placeholder::Path];
        let value = |placeholder| match placeholder {
            Placeholder::Host => "{path}",
            _ => "/p",
        };
        for (text, rendered) in [
            ("", ""),
            ("a", "a"),
            ("{host}", "{path}"),
            ("a{path}{path}b", "a/p/pb"),
            ("{\"a\":{\"b\":1}}", "{\"a\":{\"b\":1}}"),
            ("{", "{"),
            ("{{path}}", "{/p}"),
            ("{Host}{}", "{Host}{}"),
        ] {
            let template = Template::parse(text, &allowed).unwrap();
            assert_eq!(template.render(value), rendered, "{text}");
        }
        assert_eq!(Template::parse("{user}", &allowed).unwrap_err(), "user");
        assert_eq!(Template::parse("x", &[]).unwrap().as_literal(), Some("x"));
    }
}
