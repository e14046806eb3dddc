//! The formats of stored hashes: recognise, judge, verify.
//!
//! For the parser and for `Entry`. One enum knows every format that is met in password files. To verify one more of
//! them, give it an arm in [`Scheme::parse`], [`Scheme::verify`] and [`Scheme::impossible`], and its place among
//! the supported ones. Making hashes is not done here.

use std::fmt;

use super::bcrypt_hash::{self, MAX_COST};
use super::problem::RENEW;
use super::sha_crypt::{self, Function, MAX_ROUNDS, MIN_ROUNDS};
use super::{alphabet, des_crypt, md5_crypt, sha_digest};

/// A format of stored hashes, with its cost where the cost is in the hash. The supported ones come last, from
/// cheap to dear, so that the greater of two takes longer to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// `$…$` or `{…}` of which we know nothing.
    Unknown,
    /// `{PLAIN}`, nginx only.
    Plain,
    /// `_` and 19 characters.
    BsdiDes,
    /// `$2$`, older than all libraries in use.
    Bcrypt2,
    /// `$2x$`, wrong for bytes from 0x80: taking it for `$2y$` would be another hash.
    BcryptX,
    /// `$7$`
    Scrypt,
    /// `$y$`
    Yescrypt,
    /// `$gy$`
    GostYescrypt,
    /// `$argon2id$`, `$argon2i$`, `$argon2d$`
    Argon2,
    /// `{SHA}`, unsalted; `htpasswd -s`.
    Sha,
    /// `{SSHA}`, of nginx and LDAP.
    SaltedSha,
    /// 13 characters; `htpasswd -d`.
    Des,
    /// `$1$`
    Md5,
    /// `$apr1$`; `htpasswd -m`, Apache's default.
    Apr1,
    /// `$5$`; `htpasswd -2`.
    Sha256Crypt {
        /// 1000 to 1 000 000.
        rounds: u32,
    },
    /// `$6$`; `htpasswd -5`.
    Sha512Crypt {
        /// 1000 to 1 000 000.
        rounds: u32,
    },
    /// `$2y$`, `$2b$`, `$2a$`: the same function. The counter-measure of libxcrypt's `$2a$`, which changes the hash
    /// of some passwords with bytes from 0x80, is left out: such a password does not match.
    Bcrypt {
        /// Binary logarithm of the rounds, 4 to [`MAX_COST`].
        cost: u8,
    },
}

/// Why a hash field lets nobody in. Says nothing of the hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// `user:`
    #[error(
        "there is no hash after the colon, so the user cannot sign in; set a password with {RENEW}"
    )]
    Empty,
    /// `*0`, `!` and their like, which match nothing on purpose.
    #[error(
        "the user is locked and cannot sign in; set a password with {RENEW}, or remove the line"
    )]
    Locked,
    /// No format at all.
    #[error(
        "the password looks like plain text, which is never accepted, so the user cannot sign in; set another one with {RENEW}, since this one could be read"
    )]
    PlainText,
    /// Copied out of a compose file, which writes each `$` twice.
    #[error(
        "each $ of the hash stands twice, as in a compose file, so the user cannot sign in; write each $ once, or set the password anew with {RENEW}"
    )]
    DoubledDollar,
    /// Of a supported format, and not as that is written.
    #[error(
        "the hash is damaged ({0}), so the user cannot sign in; set the password anew with {RENEW}"
    )]
    Malformed(&'static str),
    /// bcrypt's cost would keep a core busy for too long, or is no cost.
    #[error(
        "the bcrypt cost {cost} is outside 4 to {MAX_COST}, beyond which one check takes many seconds, so the user cannot sign in; set the password anew with {RENEW}"
    )]
    Cost {
        /// As written.
        cost: u8,
    },
    /// SHA crypt's rounds would keep a core busy for too long, or are too few for crypt(3).
    #[error(
        "the {rounds} rounds are outside {MIN_ROUNDS} to {MAX_ROUNDS}, beyond which one check takes seconds, so the user cannot sign in; set the password anew with {RENEW}"
    )]
    Rounds {
        /// As written.
        rounds: u32,
    },
    /// Known, and not verified here.
    #[error("{0} is not supported, so the user cannot sign in; set the password anew with {RENEW}")]
    Unsupported(Scheme),
    /// nginx cuts it, and it is no hash.
    #[error(
        "the hash has more than {MAX_HASH} bytes, so the user cannot sign in; set the password anew with {RENEW}"
    )]
    TooLong,
}

impl Scheme {
    /// Judges a hash field; whatever passes can be verified.
    pub(super) fn parse(stored: &[u8]) -> Result<Self, Rejection> {
        match prefix(stored) {
            _ if stored.is_empty() => Err(Rejection::Empty),
            _ if stored.len() > MAX_HASH => Err(Rejection::TooLong),
            _ if is_locked(stored) => Err(Rejection::Locked),
            b"$2a$" | b"$2b$" | b"$2y$" => Self::parse_bcrypt(stored),
            b"$apr1$" if md5_crypt::is_well_formed(stored, APR1) => Ok(Self::Apr1),
            b"$1$" if md5_crypt::is_well_formed(stored, MD5) => Ok(Self::Md5),
            b"$apr1$" | b"$1$" => Err(Rejection::Malformed(md5_crypt::SHAPE)),
            SHA if sha_digest::is_well_formed(stored, SHA, false) => Ok(Self::Sha),
            SSHA if sha_digest::is_well_formed(stored, SSHA, true) => Ok(Self::SaltedSha),
            SHA | SSHA => Err(Rejection::Malformed(sha_digest::SHAPE)),
            b"$5$" => Self::parse_sha_crypt(stored, Function::Sha256),
            b"$6$" => Self::parse_sha_crypt(stored, Function::Sha512),
            b"" if des_crypt::is_well_formed(stored) => Ok(Self::Des),
            b"" if is_doubled(stored) => Err(Rejection::DoubledDollar),
            b"" if !is_bsdi(stored) => Err(Rejection::PlainText),
            other => Err(Rejection::Unsupported(Self::unsupported(other))),
        }
    }

    fn parse_bcrypt(stored: &[u8]) -> Result<Self, Rejection> {
        match bcrypt_hash::parse_cost(stored) {
            Some(cost @ 4..=MAX_COST) => Ok(Self::Bcrypt { cost }),
            Some(cost) => Err(Rejection::Cost { cost }),
            None => Err(Rejection::Malformed(bcrypt_hash::SHAPE)),
        }
    }

    fn parse_sha_crypt(stored: &[u8], function: Function) -> Result<Self, Rejection> {
        let rounds = function
            .rounds(stored)
            .ok_or(Rejection::Malformed(sha_crypt::SHAPE))?;
        match (rounds, function) {
            (MIN_ROUNDS..=MAX_ROUNDS, Function::Sha256) => Ok(Self::Sha256Crypt { rounds }),
            (MIN_ROUNDS..=MAX_ROUNDS, Function::Sha512) => Ok(Self::Sha512Crypt { rounds }),
            _ => Err(Rejection::Rounds { rounds }),
        }
    }

    fn unsupported(prefix: &[u8]) -> Self {
        match prefix {
            b"" => Self::BsdiDes,
            b"{PLAIN}" => Self::Plain,
            b"$2$" => Self::Bcrypt2,
            b"$2x$" => Self::BcryptX,
            b"$7$" => Self::Scrypt,
            b"$y$" => Self::Yescrypt,
            b"$gy$" => Self::GostYescrypt,
            b"$argon2id$" | b"$argon2i$" | b"$argon2d$" => Self::Argon2,
            _ => Self::Unknown,
        }
    }

    /// Whether the password belongs to a hash that [`Self::parse`] gave this scheme.
    pub(super) fn verify(self, stored: &[u8], password: &[u8]) -> bool {
        match self {
            Self::Bcrypt { cost } => bcrypt_hash::verify(stored, cost, password),
            Self::Apr1 => md5_crypt::verify(stored, APR1, password),
            Self::Md5 => md5_crypt::verify(stored, MD5, password),
            Self::Des => des_crypt::verify(stored, password),
            Self::Sha => sha_digest::verify(stored, SHA, password),
            Self::SaltedSha => sha_digest::verify(stored, SSHA, password),
            Self::Sha256Crypt { .. } => Function::Sha256.verify(stored, password),
            Self::Sha512Crypt { .. } => Function::Sha512.verify(stored, password),
            _ => false,
        }
    }

    /// A hash of this scheme and cost that takes full work and that no password matches, since its last digit has
    /// bits which no encoder sets.
    pub(super) fn impossible(self) -> Vec<u8> {
        match self {
            Self::Bcrypt { cost } => bcrypt_hash::impossible(cost),
            Self::Apr1 => md5_crypt::impossible(APR1),
            Self::Md5 => md5_crypt::impossible(MD5),
            Self::Des => des_crypt::impossible(),
            Self::Sha => sha_digest::impossible(SHA),
            Self::SaltedSha => sha_digest::impossible(SSHA),
            Self::Sha256Crypt { rounds } => Function::Sha256.impossible(rounds),
            Self::Sha512Crypt { rounds } => Function::Sha512.impossible(rounds),
            _ => Vec::new(),
        }
    }

    /// About how long one check takes, in microseconds on a core of today. Only the proportions count.
    pub(super) fn microseconds(self) -> u64 {
        match self {
            Self::Des => 20,
            Self::Md5 | Self::Apr1 => 500,
            Self::Sha256Crypt { rounds } | Self::Sha512Crypt { rounds } => u64::from(rounds) / 2,
            Self::Bcrypt { cost } => 50 << cost.min(MAX_COST),
            _ => 1,
        }
    }

    /// Whether it verifies, and should be replaced all the same.
    pub fn is_weak(self) -> bool {
        matches!(
            self,
            Self::Sha | Self::SaltedSha | Self::Des | Self::Md5 | Self::Apr1
        )
    }

    /// What is weak about it, for "it is accepted, but …".
    pub(super) fn weakness(self) -> &'static str {
        match self {
            Self::Des => "counts only the first 8 characters of a password",
            _ => "whoever has the file soon guesses passwords",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "this hash format",
            Self::Plain => "{PLAIN} (a readable password)",
            Self::Sha => "{SHA} (unsalted SHA-1)",
            Self::SaltedSha => "{SSHA} (salted SHA-1)",
            Self::BsdiDes => "BSDi DES crypt (_)",
            Self::Bcrypt2 => "the first bcrypt ($2$)",
            Self::BcryptX => "the faulty bcrypt ($2x$)",
            Self::Scrypt => "scrypt ($7$)",
            Self::Yescrypt => "yescrypt ($y$)",
            Self::GostYescrypt => "gost-yescrypt ($gy$)",
            Self::Argon2 => "Argon2",
            Self::Des => "DES crypt",
            Self::Md5 => "MD5 crypt ($1$)",
            Self::Apr1 => "Apache's MD5 ($apr1$)",
            Self::Sha256Crypt { rounds } => {
                return write!(f, "SHA-256 crypt ({rounds} rounds)");
            }
            Self::Sha512Crypt { rounds } => {
                return write!(f, "SHA-512 crypt ({rounds} rounds)");
            }
            Self::Bcrypt { cost } => return write!(f, "bcrypt (cost {cost})"),
        })
    }
}

/// `$NAME$` or `{NAME}` at the start; empty for what has neither, such as a password that begins with a dollar.
fn prefix(stored: &[u8]) -> &[u8] {
    let end = match stored.first() {
        Some(b'$') => b'$',
        Some(b'{') => b'}',
        _ => return b"",
    };
    let name = stored
        .iter()
        .skip(1)
        .take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'-')
        .count();
    match (stored.get(1 + name), stored.get(..name + 2)) {
        (Some(&last), Some(prefix)) if last == end && (1..=16).contains(&name) => prefix,
        _ => b"",
    }
}

/// What crypt(3) returns for failure, and what passwd(5) and shadow(5) write for accounts without a password.
fn is_locked(stored: &[u8]) -> bool {
    matches!(
        stored,
        b"*" | b"*0" | b"*1" | b"*LK*" | b"!" | b"!!" | b"!*"
    ) || stored.starts_with(b"!$")
}

/// Whether the field is a hash in a compose file's spelling, where `$$` stands for `$`.
fn is_doubled(stored: &[u8]) -> bool {
    let mut once = Vec::with_capacity(stored.len());
    let mut rest = stored;
    while let Some((first, behind)) = rest.split_first() {
        once.push(*first);
        rest = match first {
            b'$' => behind.strip_prefix(b"$").unwrap_or(behind),
            _ => behind,
        };
    }
    stored.starts_with(b"$$") && Scheme::parse(&once).is_ok()
}

fn is_bsdi(stored: &[u8]) -> bool {
    stored.len() == 20
        && stored
            .strip_prefix(b"_")
            .is_some_and(|rest| alphabet::is_encoded(rest, 0))
}

/// Where nginx cuts a hash.
const MAX_HASH: usize = 2048;
const APR1: &[u8] = b"$apr1$";
const MD5: &[u8] = b"$1$";
const SHA: &[u8] = b"{SHA}";
const SSHA: &[u8] = b"{SSHA}";

#[cfg(test)]
mod tests;
