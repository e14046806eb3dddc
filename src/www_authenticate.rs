//! The `WWW-Authenticate` field (RFC 9110 section 11.6.1): writes challenges, rewrites the realm of an upstream's Bearer
//! challenge, and parses Bearer challenges.
//!
//! - [`Challenge`] is what a 401 of the proxy contains. `auth` creates it for each request and `rejection` writes it. The proxy
//!   sends exactly one challenge, because clients disagree on what two challenges in one response mean.
//! - `rewrite_bearer_realms` is called by `forward` for responses of the upstream.
//! - `BearerChallenge` is what a registry client reads in a 401. `check --live` uses it.
//!
//! A field value may hold several challenges, each with its parameters, all separated by commas. `ChallengeScanner` is the
//! only code that splits them.

use std::ops::Range;

use http::{HeaderMap, HeaderValue, header};

use crate::registry::Scope;

/// The challenge in a 401 of the proxy.
#[derive(Clone, Debug)]
pub enum Challenge {
    /// Asks for a user name and password. Holds the complete field value.
    Basic(HeaderValue),
    /// Asks for a token. Holds the field value without an `error` parameter.
    Bearer(String),
}

impl Challenge {
    /// Creates a Bearer challenge. `realm` is the URL of the token service.
    pub(crate) fn bearer(realm: &str, service: &str, scope: &Scope) -> Self {
        let (realm, service) = (quoted_string(realm), quoted_string(service));
        let mut value = format!("Bearer realm={realm},service={service}");
        if !scope.is_empty() {
            value.push_str(&format!(",scope={}", quoted_string(&scope.to_string())));
        }
        Self::Bearer(value)
    }

    /// The field value. `error` is an error code of RFC 6750 section 3.1 that says what is wrong with a token.
    ///
    /// `None` if the value has bytes that are not allowed in a field value.
    pub fn value(&self, error: Option<&str>) -> Option<HeaderValue> {
        match (self, error) {
            (Self::Basic(value), _) => Some(value.clone()),
            (Self::Bearer(value), None) => HeaderValue::from_str(value).ok(),
            (Self::Bearer(value), Some(error)) => {
                HeaderValue::from_str(&format!("{value},error={}", quoted_string(error))).ok()
            }
        }
    }
}

/// The field value of a Basic challenge.
///
/// `None` if the realm has bytes that are not allowed in a field value.
pub fn basic_challenge(realm: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("Basic realm={}", quoted_string(realm))).ok()
}

/// Replaces the realm of every Bearer challenge in a field value for which `rewrite` returns another URL.
///
/// A registry that the proxy reaches over plain HTTP names an `http://` realm, and a client would send its password there.
/// Everything except the realm is kept byte for byte. Returns `None` if nothing changes, or if the value is malformed.
pub(crate) fn rewrite_bearer_realms(
    field: &[u8],
    rewrite: impl Fn(&str) -> Option<String>,
) -> Option<Vec<u8>> {
    let mut scanner = ChallengeScanner::new(field);
    let mut rewritten = Vec::new();
    let mut copied = 0;
    let mut is_bearer = false;
    while let Some(part) = scanner.next_part().ok()? {
        match part {
            Part::Scheme(scheme) => is_bearer = scheme.eq_ignore_ascii_case(b"bearer"),
            Part::Parameter { name, value } => {
                if !is_bearer || !name.eq_ignore_ascii_case(b"realm") {
                    continue;
                }
                let raw = field.get(value.clone()).unwrap_or_default();
                let url = String::from_utf8(unquoted(raw)).ok();
                let Some(url) = url.and_then(|url| rewrite(&url)) else {
                    continue;
                };
                rewritten.extend_from_slice(field.get(copied..value.start).unwrap_or_default());
                if raw.starts_with(b"\"") {
                    rewritten.extend_from_slice(quoted_string(&url).as_bytes());
                } else {
                    rewritten.extend_from_slice(url.as_bytes());
                }
                copied = value.end;
            }
        }
    }
    if copied == 0 {
        return None;
    }
    rewritten.extend_from_slice(field.get(copied..).unwrap_or_default());
    Some(rewritten)
}

/// A Bearer challenge of the distribution token specification, as a client reads it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct BearerChallenge {
    /// The URL of the token service. Never empty.
    pub(crate) realm: String,
    /// The name of the service that the token is for; empty if the challenge has none.
    pub(crate) service: String,
    /// The access that the request needs; empty if the challenge has none.
    pub(crate) scope: String,
}

impl BearerChallenge {
    /// Returns the first Bearer challenge with a realm in the `WWW-Authenticate` fields of a response.
    ///
    /// A malformed field is skipped.
    pub(crate) fn find(headers: &HeaderMap) -> Option<Self> {
        let fields = headers.get_all(header::WWW_AUTHENTICATE).iter();
        let mut challenges = fields.flat_map(|field| Self::parse_all(field.as_bytes()));
        challenges.find(|challenge| !challenge.realm.is_empty())
    }

    /// The Bearer challenges of a field value; none if it is malformed.
    fn parse_all(field: &[u8]) -> Vec<Self> {
        let mut scanner = ChallengeScanner::new(field);
        let mut challenges = Vec::new();
        let mut is_bearer = false;
        loop {
            match scanner.next_part() {
                Err(Malformed) => return Vec::new(),
                Ok(None) => return challenges,
                Ok(Some(Part::Scheme(scheme))) => {
                    is_bearer = scheme.eq_ignore_ascii_case(b"bearer");
                    if is_bearer {
                        challenges.push(Self::default());
                    }
                }
                Ok(Some(Part::Parameter { name, value })) => {
                    if let Some(challenge) = challenges.last_mut().filter(|_| is_bearer) {
                        challenge.set(name, field.get(value).unwrap_or_default());
                    }
                }
            }
        }
    }

    fn set(&mut self, name: &[u8], raw: &[u8]) {
        let parameter = match name.to_ascii_lowercase().as_slice() {
            b"realm" => &mut self.realm,
            b"service" => &mut self.service,
            b"scope" => &mut self.scope,
            _ => return,
        };
        if let Ok(value) = String::from_utf8(unquoted(raw)) {
            *parameter = value;
        }
    }
}

/// Splits a field value into authentication schemes and parameters.
struct ChallengeScanner<'a> {
    field: &'a [u8],
    at: usize,
}

/// An element of a field value. A `token68` (RFC 9110 section 11.2) is skipped.
#[derive(Debug, PartialEq, Eq)]
enum Part<'a> {
    /// The name of an authentication scheme, which begins a challenge.
    Scheme(&'a [u8]),
    /// A parameter of the current challenge.
    Parameter {
        name: &'a [u8],
        /// The range of the value in the field, including the quotes of a quoted string.
        value: Range<usize>,
    },
}

/// A field value that does not follow the grammar of RFC 9110 section 11.6.1.
#[derive(Debug)]
struct Malformed;

impl<'a> ChallengeScanner<'a> {
    fn new(field: &'a [u8]) -> Self {
        Self { field, at: 0 }
    }

    /// Returns the next element, or `None` at the end of the field value.
    fn next_part(&mut self) -> Result<Option<Part<'a>>, Malformed> {
        self.take_while(|byte| is_space(byte) || byte == b',');
        if self.rest().is_empty() {
            return Ok(None);
        }
        let name = self.take_while(is_token_byte);
        if name.is_empty() {
            return Err(Malformed);
        }
        self.take_while(is_space);
        if self.rest().first() == Some(&b'=') {
            let value = self.parameter_value()?;
            return Ok(Some(Part::Parameter { name, value }));
        }
        self.skip_token68();
        Ok(Some(Part::Scheme(name)))
    }

    /// Reads a parameter value from its `=` on.
    fn parameter_value(&mut self) -> Result<Range<usize>, Malformed> {
        self.take_while(|byte| byte == b'=');
        self.take_while(is_space);
        let start = self.at;
        if self.rest().first() == Some(&b'"') {
            self.at += quoted_length(self.rest()).ok_or(Malformed)?;
        } else {
            // Some registries send a URL without quotes. It is no token, but its end is unambiguous.
            self.take_while(|byte| !is_space(byte) && byte != b',');
        }
        Ok(start..self.at)
    }

    /// Skips the `token68` that some schemes have in place of parameters. Unlike a parameter name, it is followed by a comma or
    /// by the end of the field value.
    fn skip_token68(&mut self) {
        let rest = self.rest();
        let mut length = prefix_length(rest, is_token68_byte);
        length += prefix_length(rest.get(length..).unwrap_or_default(), |byte| byte == b'=');
        let after = rest.get(length..).unwrap_or_default();
        let after = after.get(prefix_length(after, is_space)..);
        if matches!(after.and_then(<[u8]>::first), None | Some(b',')) {
            self.at += length;
        }
    }

    fn take_while(&mut self, is_part: impl Fn(u8) -> bool) -> &'a [u8] {
        let rest = self.rest();
        let length = prefix_length(rest, is_part);
        self.at += length;
        rest.get(..length).unwrap_or_default()
    }

    fn rest(&self) -> &'a [u8] {
        self.field.get(self.at..).unwrap_or_default()
    }
}

/// The number of bytes at the beginning of `bytes` for which `is_part` is true.
fn prefix_length(bytes: &[u8], is_part: impl Fn(u8) -> bool) -> usize {
    let end = bytes.iter().position(|byte| !is_part(*byte));
    end.unwrap_or(bytes.len())
}

/// The length of the quoted string at the beginning of `bytes`, including its quotes. `None` if it does not end (RFC 9110
/// section 5.6.4).
fn quoted_length(bytes: &[u8]) -> Option<usize> {
    let mut is_escaped = false;
    let end = bytes.iter().skip(1).position(|byte| {
        let is_end = *byte == b'"' && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        is_end
    });
    end.map(|end| end + 2)
}

/// The value of a parameter: the content of a quoted string, or an unquoted value unchanged.
fn unquoted(raw: &[u8]) -> Vec<u8> {
    let Some(inner) = raw.strip_prefix(b"\"") else {
        return raw.to_vec();
    };
    let inner = inner.strip_suffix(b"\"").unwrap_or(inner);
    let mut is_escaped = false;
    let content = inner.iter().copied().filter(|byte| {
        is_escaped = *byte == b'\\' && !is_escaped;
        !is_escaped
    });
    content.collect()
}

/// Writes a quoted string (RFC 9110 section 5.6.4).
fn quoted_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// A byte of a token (RFC 9110 section 5.6.2).
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A byte of a `token68` (RFC 9110 section 11.2), without the padding.
fn is_token68_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_basic_challenge_quotes_its_realm() {
        assert_eq!(
            basic_challenge("a\"b\\c").unwrap(),
            "Basic realm=\"a\\\"b\\\\c\""
        );
        assert!(basic_challenge("a\nb").is_none());
    }

    #[test]
    fn a_bearer_challenge_has_realm_service_scope_and_error() {
        let realm = "https://docker.example.com/v2/_token";
        let scope = Scope::parse(["repository:a/b:pull,push"]);
        let challenge = Challenge::bearer(realm, "docker.example.com", &scope);
        let value = "Bearer realm=\"https://docker.example.com/v2/_token\",service=\"docker.example.com\",scope=\"repository:a/b:pull,push\"";
        assert_eq!(challenge.value(None).unwrap(), value);
        let expected = format!("{value},error=\"invalid_token\"");
        assert_eq!(
            challenge.value(Some("invalid_token")).unwrap(),
            expected.as_str()
        );
        let without_scope = Challenge::bearer("r", "s", &Scope::default());
        assert_eq!(
            without_scope.value(None).unwrap(),
            "Bearer realm=\"r\",service=\"s\""
        );
    }

    #[test]
    fn a_basic_challenge_has_no_error() {
        let challenge = Challenge::Basic(basic_challenge("r").unwrap());
        assert_eq!(
            challenge.value(Some("invalid_token")).unwrap(),
            "Basic realm=\"r\""
        );
    }

    fn find(fields: &[&str]) -> Option<BearerChallenge> {
        let fields = fields.iter().map(|field| {
            let value = HeaderValue::from_str(field).unwrap();
            (header::WWW_AUTHENTICATE, value)
        });
        BearerChallenge::find(&fields.collect())
    }

    #[test]
    fn the_first_bearer_challenge_with_a_realm_is_found() {
        let expected = BearerChallenge {
            realm: "https://a.example/t".to_owned(),
            service: "a \"b\"".to_owned(),
            scope: "repository:x/y:pull,push".to_owned(),
        };
        let bearer = r#"Bearer realm="https://a.example/t",service="a \"b\"",scope="repository:x/y:pull,push""#;
        for fields in [
            &[bearer][..],
            &["Basic realm=\"x\"", bearer],
            &["Bearer error=\"x\"", bearer],
            &["Bearer realm=\"unterminated", bearer],
            &[&format!("Negotiate YWJj/+==, {bearer}, Basic realm=\"x\"")],
        ] {
            assert_eq!(find(fields).as_ref(), Some(&expected), "{fields:?}");
        }
        let unquoted = find(&["BEARER Realm=https://a.example/t, x=y"]).unwrap();
        assert_eq!(unquoted.realm, "https://a.example/t");
        for other in ["", "Basic realm=\"x\"", "Bearer", "Bearer realm=\"\""] {
            assert_eq!(find(&[other]), None, "{other:?}");
        }
    }

    #[test]
    fn a_written_challenge_is_parsed_to_the_same_values() {
        let scope = Scope::parse(["repository:a/b:pull,push"]);
        let value = Challenge::bearer("https://r.example/t", "s\\\"", &scope).value(Some("e"));
        let parsed = find(&[value.unwrap().to_str().unwrap()]).unwrap();
        let expected = ("https://r.example/t", "s\\\"", "repository:a/b:pull,push");
        assert_eq!((&*parsed.realm, &*parsed.service, &*parsed.scope), expected);
    }

    fn rewritten(field: &str) -> Option<String> {
        let rewrite = |url: &str| {
            let rest = url.strip_prefix("http://in:80")?;
            Some(format!("https://out{rest}"))
        };
        rewrite_bearer_realms(field.as_bytes(), rewrite).map(|out| String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_realm_of_every_bearer_challenge_is_rewritten() {
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
            assert_eq!(rewritten(field).as_deref(), Some(expected));
        }
    }

    #[test]
    fn other_fields_and_malformed_fields_are_unchanged() {
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
            assert_eq!(rewritten(field), None, "{field}");
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
        fn only_the_realm_changes(challenges in prop::collection::vec(challenge(), 0..4)) {
            let before: String = challenges.iter().map(|(before, _)| before.as_str()).collect();
            let after: String = challenges.iter().map(|(_, after)| after.as_str()).collect();
            prop_assert_eq!(rewritten(&before).unwrap_or(before), after);
        }

        #[test]
        fn no_field_value_panics(field in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = rewrite_bearer_realms(&field, |url| Some(url.to_owned()));
        }

        #[test]
        fn an_unchanged_realm_is_written_as_it_was_read(field in "(Bearer |realm=|\"|\\\\|,| |=|a|:|/){0,14}") {
            if let Some(out) = rewrite_bearer_realms(field.as_bytes(), |url| (!url.is_empty()).then(|| url.to_owned())) {
                let strip = |text: &[u8]| -> Vec<u8> { text.iter().copied().filter(|byte| *byte != b'\\').collect() };
                prop_assert_eq!(strip(&out), strip(field.as_bytes()));
            }
        }
    }
}
