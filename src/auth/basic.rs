//! The `Authorization: Basic` header, as RFC 7617 and nginx read it.
//!
//! Called by `auth`. Bytes stay bytes: no character set is assumed.

use base64ct::{Base64Unpadded, Encoding};
use zeroize::Zeroizing;

use crate::secret::Password;

/// A user name and a password, not checked yet.
#[derive(Debug)]
pub(crate) struct Credentials {
    pub(crate) user: Vec<u8>,
    pub(crate) password: Password,
}

/// The header holds no credentials that could be right.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct InvalidCredentials;

impl Credentials {
    /// Reads a header value; `None` for an empty user name, which clients send to mean "nobody".
    ///
    /// Decoded text of more than `most` bytes is refused before it is looked at.
    pub(crate) fn parse(header: &[u8], most: usize) -> Result<Option<Self>, InvalidCredentials> {
        let token = after_scheme(header, SCHEME).ok_or(InvalidCredentials)?;
        let decoded = decode(token, most)?;
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
}

impl Credentials {
    /// Bytes, as they are counted when a header is decoded.
    pub(crate) fn len(&self) -> usize {
        self.user.len() + 1 + self.password.as_bytes().len()
    }
}

/// Whether these are Basic credentials, however malformed.
pub(crate) fn is_basic(header: &[u8]) -> bool {
    let scheme = header.split(|byte| *byte == b' ').next();
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME))
}

/// What follows a scheme and its spaces (RFC 9110 section 11.4).
pub(super) fn after_scheme<'a>(header: &'a [u8], scheme: &[u8]) -> Option<&'a [u8]> {
    let (word, rest) = header.split_at_checked(scheme.len())?;
    let is_it = word.eq_ignore_ascii_case(scheme) && rest.first() == Some(&b' ');
    is_it.then(|| rest.trim_ascii_start())
}

/// Standard alphabet, padding optional, nothing behind it: nginx ignores what follows the padding,
/// which gives one password many spellings.
fn decode(token: &[u8], most: usize) -> Result<Zeroizing<Vec<u8>>, InvalidCredentials> {
    let bare = token
        .strip_suffix(b"==")
        .or_else(|| token.strip_suffix(b"="))
        .unwrap_or(token);
    let padded = bare.len() != token.len();
    if bare.len() > most.saturating_mul(4).div_ceil(3) || (padded && !token.len().is_multiple_of(4))
    {
        return Err(InvalidCredentials);
    }
    let mut decoded = Zeroizing::new(vec![0; bare.len()]);
    let length = Base64Unpadded::decode(bare, &mut decoded)
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
    fn what_clients_send_is_read() {
        assert_eq!(parse("Basic dTpwdw=="), pair("u", "pw"));
        assert_eq!(parse("bAsIc   dTpwdw=="), pair("u", "pw"));
        assert_eq!(parse("Basic dTpwdw"), pair("u", "pw"));
        assert_eq!(parse("Basic dTpwYXNzOndvcmQ="), pair("u", "pass:word"));
        assert_eq!(parse("Basic dTo="), pair("u", ""));
    }

    #[test]
    fn an_empty_user_is_nobody() {
        assert_eq!(parse("Basic Og=="), Ok(None));
        assert_eq!(parse("Basic OnB3"), Ok(None));
    }

    #[test]
    fn anything_else_is_unusable() {
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
