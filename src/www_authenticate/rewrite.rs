//! The realm of a Bearer challenge: the URL at which a registry says that tokens are to be had.
//!
//! A registry that is spoken to over plain HTTP names an `http://` one, and a client would send its password there.
//! Called by `origin`, which knows the URLs. A field may hold several challenges, each with its parameters, all
//! separated by commas (RFC 9110 section 11.6.1); everything but the realm is kept byte for byte.

/// The field with every Bearer realm for which `url` has a better one; `None` when there is none, or when the field
/// is malformed.
pub(crate) fn repair(field: &[u8], url: impl Fn(&str) -> Option<String>) -> Option<Vec<u8>> {
    let mut reader = ChallengeScanner {
        rest: field,
        out: Vec::with_capacity(field.len() + 64),
    };
    let mut is_bearer = false;
    let mut changed = false;
    loop {
        reader.copy(|byte| is_space(byte) || byte == b',');
        if reader.rest.is_empty() {
            return changed.then_some(reader.out);
        }
        let word = reader.copy(is_token);
        reader.copy(is_space);
        match reader.rest.first() {
            _ if word.is_empty() => return None,
            Some(b'=') => {
                let is_realm = is_bearer && word.eq_ignore_ascii_case(b"realm");
                let better = |text: &str| url(text).filter(|_| is_realm);
                changed |= reader.value(better)?;
            }
            _ => {
                is_bearer = word.eq_ignore_ascii_case(b"bearer");
                reader.token68();
            }
        }
    }
}

/// What is left of a field, and what has become of the rest.
struct ChallengeScanner<'a> {
    rest: &'a [u8],
    out: Vec<u8>,
}

impl<'a> ChallengeScanner<'a> {
    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .unwrap_or((self.rest, &[]));
        self.rest = rest;
        taken
    }

    fn copy(&mut self, is_part: impl Fn(u8) -> bool) -> &'a [u8] {
        let taken = self.take(prefix(self.rest, is_part));
        self.out.extend_from_slice(taken);
        taken
    }

    /// What some schemes have in place of parameters; told from one by the comma, or the end, behind it.
    fn token68(&mut self) {
        let length = prefix(self.rest, is_token68);
        let behind = self.rest.get(length..).unwrap_or_default();
        let padding = prefix(behind, |byte| byte == b'=');
        let behind = behind.get(padding..).unwrap_or_default();
        let behind = behind.get(prefix(behind, is_space)..).unwrap_or_default();
        if matches!(behind.first(), None | Some(b',')) {
            let token = self.take(length + padding);
            self.out.extend_from_slice(token);
        }
    }

    /// A parameter from its `=` on; true when another value than its own was written.
    fn value(&mut self, better: impl Fn(&str) -> Option<String>) -> Option<bool> {
        self.copy(|byte| byte == b'=');
        self.copy(is_space);
        let is_quoted = self.rest.first() == Some(&b'"');
        // An unquoted URL is no token, but it is written, and its end is plain.
        let length = if is_quoted {
            quoted(self.rest)?
        } else {
            prefix(self.rest, |byte| !is_space(byte) && byte != b',')
        };
        let raw = self.take(length);
        let text = if is_quoted {
            unescaped(raw)
        } else {
            raw.to_vec()
        };
        let better = std::str::from_utf8(&text).ok().and_then(better);
        match &better {
            Some(text) if is_quoted => self.out.extend(escaped(text)),
            Some(text) => self.out.extend_from_slice(text.as_bytes()),
            None => self.out.extend_from_slice(raw),
        }
        Some(better.is_some())
    }
}

/// How many bytes at the beginning are such.
fn prefix(bytes: &[u8], is_part: impl Fn(u8) -> bool) -> usize {
    let end = bytes.iter().position(|byte| !is_part(*byte));
    end.unwrap_or(bytes.len())
}

/// The length of a quoted string, both quotes included; nothing when it does not end (RFC 9110 section 5.6.4).
fn quoted(bytes: &[u8]) -> Option<usize> {
    let mut escaped = false;
    let end = bytes.iter().skip(1).position(|byte| {
        let is_end = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        is_end
    });
    end.map(|end| end + 2)
}

/// What a quoted string says.
fn unescaped(quoted: &[u8]) -> Vec<u8> {
    let inner = quoted.strip_prefix(b"\"").unwrap_or(quoted);
    let inner = inner.strip_suffix(b"\"").unwrap_or(inner);
    let mut escaped = false;
    let said = inner.iter().copied().filter(|byte| {
        escaped = *byte == b'\\' && !escaped;
        !escaped
    });
    said.collect()
}

fn escaped(text: &str) -> Vec<u8> {
    let mut quoted = vec![b'"'];
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') {
            quoted.push(b'\\');
        }
        quoted.push(byte);
    }
    quoted.push(b'"');
    quoted
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// RFC 9110 section 11.2, without the padding.
fn is_token68(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn repaired(field: &str) -> Option<String> {
        let better = |url: &str| {
            let rest = url.strip_prefix("http://in:80")?;
            Some(format!("https://out{rest}"))
        };
        repair(field.as_bytes(), better).map(|out| String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_realm_of_every_bearer_challenge_is_repaired() {
        for (field, expected) in [
            (
                r#"Bearer realm="http://in:80/service/token",service="harbor-registry""#,
                r#"Bearer realm="https://out/service/token",service="harbor-registry""#,
            ),
            (
                r#"bearer  service="a, Bearer realm=\"http://in:80/\"" , REALM = "http://in:80/t?a=b,c" ,scope="x""#,
                r#"bearer  service="a, Bearer realm=\"http://in:80/\"" , REALM = "https://out/t?a=b,c" ,scope="x""#,
            ),
            (
                r#"Basic realm="http://in:80/", Bearer realm="http://in:80/",Negotiate"#,
                r#"Basic realm="http://in:80/", Bearer realm="https://out/",Negotiate"#,
            ),
            (
                r#"Negotiate YWJj/+==, , Bearer error="x\\",realm="http:\/\/in:80/\"\\""#,
                r#"Negotiate YWJj/+==, , Bearer error="x\\",realm="https://out/\"\\""#,
            ),
            (
                "Bearer realm=http://in:80/t,service=x",
                "Bearer realm=https://out/t,service=x",
            ),
        ] {
            assert_eq!(repaired(field).as_deref(), Some(expected));
        }
    }

    #[test]
    fn all_else_stays_and_so_does_what_cannot_be_read() {
        for field in [
            r#"Basic realm="http://in:80/""#,
            r#"Bearer realm="https://sso.example/auth",service="x""#,
            r#"Bearer service="http://in:80/""#,
            r#"Bearer xrealm="http://in:80/""#,
            r#"Bearer realm="http://in:80/"#,
            r#"Bearer realm="http://in:80/\""#,
            r#"realm="http://in:80/""#,
            r#"Bearer realm="http://in:80/", ="x""#,
            "Bearer",
            "Bearer realm",
            "",
            ",",
        ] {
            assert_eq!(repaired(field), None, "{field}");
        }
    }

    fn challenge() -> impl Strategy<Value = (String, String)> {
        let quoted = "\"([ -!#-\\[\\]-~]|\\\\[ -~]){0,12}\"";
        let parameter = prop_oneof![
            (r"[a-z]{1,6}x[ \t]{0,2}=[ \t]{0,2}", quoted)
                .prop_map(|(name, value)| (format!("{name}{value}"), format!("{name}{value}"))),
            "[a-z]{1,6}x=[a-z0-9.]{1,9}".prop_map(|text| (text.clone(), text)),
            "/[a-z0-9?&=,]{0,9}".prop_map(|path| (
                format!("realm=\"http://in:80{path}\""),
                format!("realm=\"https://out{path}\"")
            )),
            "[a-z:/]{0,9}".prop_map(|url| (format!("realm=\"{url}\""), format!("realm=\"{url}\""))),
        ];
        let scheme = prop_oneof![
            Just("Bearer"),
            Just("bEARER"),
            Just("Basic"),
            Just("Digest")
        ];
        (
            scheme,
            prop::collection::vec((parameter, "[ \t]{0,2},[ \t,]{0,2}"), 1..4),
        )
            .prop_map(|(scheme, parameters)| {
                let (mut before, mut after) = (format!("{scheme} "), format!("{scheme} "));
                let is_bearer = scheme.eq_ignore_ascii_case("bearer");
                for ((old, new), comma) in parameters {
                    after.push_str(if is_bearer { &new } else { &old });
                    before.push_str(&old);
                    before.push_str(&comma);
                    after.push_str(&comma);
                }
                (before, after)
            })
    }

    proptest! {
        #[test]
        fn nothing_but_the_realm_changes(challenges in prop::collection::vec(challenge(), 0..4)) {
            let before: String = challenges.iter().map(|(before, _)| before.as_str()).collect();
            let after: String = challenges.iter().map(|(_, after)| after.as_str()).collect();
            prop_assert_eq!(repaired(&before).unwrap_or(before), after);
        }

        #[test]
        fn no_field_panics(field in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = repair(&field, |url| Some(url.to_owned()));
        }

        #[test]
        fn whatever_is_read_as_written_is_written_as_read(field in "(Bearer |realm=|\"|\\\\|,| |=|a|:|/){0,14}") {
            if let Some(out) = repair(field.as_bytes(), |url| (!url.is_empty()).then(|| url.to_owned())) {
                let strip = |text: &[u8]| -> Vec<u8> { text.iter().copied().filter(|byte| *byte != b'\\').collect() };
                prop_assert_eq!(strip(&out), strip(field.as_bytes()));
            }
        }
    }
}
