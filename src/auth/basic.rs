//! Parser of the `Authorization: Basic` field, as in RFC 7617 and nginx.
//!
//! User name and password are byte strings; no character set is assumed. `password_auth` verifies them.

use base64ct::{Base64Unpadded, Encoding};
use zeroize::Zeroizing;

use crate::secret::Password;

/// A user name and a password that have not been verified.
#[derive(Debug)]
pub(crate) struct Credentials {
    pub(crate) user: Vec<u8>,
    pub(crate) password: Password,
}

/// The field has no well-formed Basic credentials.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct InvalidCredentials;

impl Credentials {
    /// Parses a field value. Returns `None` for an empty user name, which clients send if they have no credentials.
    ///
    /// Credentials of more than `max_len` decoded bytes are invalid, and are not decoded.
    pub(crate) fn parse(field: &[u8], max_len: usize) -> Result<Option<Self>, InvalidCredentials> {
        let encoded = after_scheme(field, SCHEME).ok_or(InvalidCredentials)?;
        let decoded = decode(encoded, max_len)?;
        let colon = decoded
            .iter()
            .position(|byte| *byte == b':')
            .ok_or(InvalidCredentials)?;
        let (user, password) = decoded.split_at_checked(colon).ok_or(InvalidCredentials)?;
        if user.is_empty() {
            return Ok(None);
        }
        let password = password.get(1..).unwrap_or_default();
        Ok(Some(Self {
            user: user.to_vec(),
            password: Password::new(password.to_vec()),
        }))
    }

    /// The length in bytes of the decoded form, `user:password`.
    pub(crate) fn len(&self) -> usize {
        self.user.len() + 1 + self.password.as_bytes().len()
    }
}

/// Whether a field value has the scheme Basic, also if its credentials are malformed.
pub(crate) fn is_basic(field: &[u8]) -> bool {
    let scheme = field.split(|byte| *byte == b' ').next();
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME))
}

/// The part of a field value after `scheme` and the spaces that follow it (RFC 9110 section 11.4). `None` if the value has
/// another scheme.
pub(crate) fn after_scheme<'a>(field: &'a [u8], scheme: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = field.split_at_checked(scheme.len())?;
    let has_scheme = start.eq_ignore_ascii_case(scheme) && rest.first() == Some(&b' ');
    has_scheme.then(|| rest.trim_ascii_start())
}

/// Decodes base64 of the standard alphabet with optional padding.
///
/// Bytes after the padding are an error. nginx ignores them, which gives one password many spellings.
fn decode(encoded: &[u8], max_len: usize) -> Result<Zeroizing<Vec<u8>>, InvalidCredentials> {
    let digits = encoded
        .strip_suffix(b"==")
        .or_else(|| encoded.strip_suffix(b"="))
        .unwrap_or(encoded);
    let is_padded = digits.len() != encoded.len();
    let is_too_long = digits.len() > max_len.saturating_mul(4).div_ceil(3);
    if is_too_long || (is_padded && !encoded.len().is_multiple_of(4)) {
        return Err(InvalidCredentials);
    }
    let mut decoded = Zeroizing::new(vec![0; digits.len()]);
    let length = Base64Unpadded::decode(digits, &mut decoded)
        .map_err(|_| InvalidCredentials)?
        .len();
    decoded.truncate(length);
    Ok(decoded)
}

const SCHEME: &[u8] = b"Basic";

#[cfg(test)]
mod tests {
    use super::*;

    type Parsed = Result<Option<(Vec<u8>, Vec<u8>)>, InvalidCredentials>;

    fn parse(header: &str) -> Parsed {
        let parsed = Credentials::parse(header.as_bytes(), 64)?;
        Ok(parsed.map(|c| (c.user, c.password.as_bytes().to_vec())))
    }

    fn pair(user: &str, password: &str) -> Parsed {
        Ok(Some((user.into(), password.into())))
    }

    #[test]
    fn usual_credentials_are_parsed() {
        assert_eq!(parse("Basic dTpwdw=="), pair("u", "pw"));
        assert_eq!(parse("bAsIc   dTpwdw=="), pair("u", "pw"));
        assert_eq!(parse("Basic dTpwdw"), pair("u", "pw"));
        assert_eq!(parse("Basic dTpwYXNzOndvcmQ="), pair("u", "pass:word"));
        assert_eq!(parse("Basic dTo="), pair("u", ""));
    }

    #[test]
    fn an_empty_user_name_is_no_credentials() {
        assert_eq!(parse("Basic Og=="), Ok(None));
        assert_eq!(parse("Basic OnB3"), Ok(None));
    }

    #[test]
    fn other_values_are_invalid() {
        let cases = [
            "",
            "Basic",
            "Basic ",
            "Basic\tdTpwdw==",
            "Basic dTpwdw== x",
            "Basic dTpwdw==x",
            "Basic dTpwdw=",
            "Basic dTpwdw===",
            "Basic _-_-",
            "Basic dQ==",
            "Bearer dTpwdw==",
            "Basicx dTpwdw==",
        ];
        for case in cases {
            assert_eq!(parse(case), Err(InvalidCredentials), "{case}");
        }
        let long = format!("Basic {}", "QUFB".repeat(22));
        assert_eq!(parse(&long), Err(InvalidCredentials));
    }

    proptest::proptest! {
        #[test]
        fn whatever_decodes_has_a_name_before_a_colon(decoded: Vec<u8>, scheme in "[Bb]asic {1,3}") {
            let header = format!("{scheme}{}", Base64Unpadded::encode_string(&decoded));
            crate::fuzzing::parsers::check_authorization(header.as_bytes());
        }

        #[test]
        fn no_header_panics(header: Vec<u8>) {
            crate::fuzzing::parsers::check_authorization(&header);
            crate::fuzzing::parsers::check_authorization(&[b"Basic ".as_slice(), &header].concat());
        }
    }
}
