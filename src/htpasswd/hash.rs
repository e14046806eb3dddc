//! The formats of stored hashes: recognising, checking and verifying them.
//!
//! [`Scheme`] has a variant for every format that occurs in password files, also for those that are not supported. To support
//! a further format, add an arm to [`Scheme::parse`], [`Scheme::verify`] and [`Scheme::unmatchable`], and move its variant
//! to the supported ones. New hashes are created in [`generate`](super::generate).

use std::fmt;

mod bcrypt;
pub(super) mod crypt64;
mod des_crypt;
pub(super) mod md5_crypt;
mod sha1;
pub(super) mod sha_crypt;

pub use self::bcrypt::MAX_COST;
use self::sha_crypt::{Function, MAX_ROUNDS, MIN_ROUNDS};

/// A format of stored hashes, with its cost if the hash states it. The supported formats come last, from the cheapest to the
/// most expensive, so that the greater of two takes longer to verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// An unknown format that begins with `$…$` or `{…}`.
    Unknown,
    /// `{PLAIN}`, a readable password, which only nginx accepts.
    Plain,
    /// BSDi's extended DES crypt: `_` and 19 characters.
    BsdiDes,
    /// `$2$`, which no library in use writes.
    Bcrypt2,
    /// `$2x$`, an erroneous variant for bytes from 0x80. As `$2y$` it would be another hash.
    BcryptX,
    /// scrypt, `$7$`.
    Scrypt,
    /// yescrypt, `$y$`.
    Yescrypt,
    /// gost-yescrypt, `$gy$`.
    GostYescrypt,
    /// Argon2, `$argon2id$`, `$argon2i$` or `$argon2d$`.
    Argon2,
    /// `{SHA}`, without a salt; written by `htpasswd -s`.
    Sha,
    /// `{SSHA}`, used with nginx and LDAP.
    SaltedSha,
    /// DES crypt with 13 characters; written by `htpasswd -d`.
    Des,
    /// MD5-crypt, `$1$`.
    Md5,
    /// Apache's MD5-crypt, `$apr1$`; written by `htpasswd -m`, and the default of `htpasswd`.
    Apr1,
    /// SHA-256 crypt, `$5$`; written by `htpasswd -2`.
    Sha256Crypt {
        /// The number of rounds, 1000 to 1,000,000.
        rounds: u32,
    },
    /// SHA-512 crypt, `$6$`; written by `htpasswd -5`.
    Sha512Crypt {
        /// The number of rounds, 1000 to 1,000,000.
        rounds: u32,
    },
    /// `$2y$`, `$2b$` or `$2a$`, which are the same function. In libxcrypt, `$2a$` has a countermeasure that changes the hash of
    /// some passwords with bytes from 0x80. It is not implemented here, so such a password does not match.
    Bcrypt {
        /// The binary logarithm of the number of rounds, 4 to [`MAX_COST`].
        cost: u8,
    },
}

/// The reason why no user can sign in with a hash. The messages do not contain the hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableHash {
    /// The field is empty, as in `user:`.
    #[error(
        "there is no hash after the colon, so the user cannot sign in; set a password with {RENEW}"
    )]
    Empty,
    /// The field is `*0`, `!` or similar, which marks a locked account.
    #[error(
        "the user is locked and cannot sign in; set a password with {RENEW}, or remove the line"
    )]
    Locked,
    /// The field has no known format.
    #[error(
        "the password looks like plain text, which is never accepted, so the user cannot sign in; set another one with {RENEW}, since this one could be read"
    )]
    PlainText,
    /// The hash was copied from a compose file, where each `$` is written twice.
    #[error(
        "each $ of the hash is doubled, as in a compose file, so the user cannot sign in; write each $ once, or set the password again with {RENEW}"
    )]
    DoubledDollar,
    /// The hash has a supported format, but is malformed. The text describes the format.
    #[error(
        "the hash is damaged ({0}), so the user cannot sign in; set the password again with {RENEW}"
    )]
    Malformed(&'static str),
    /// The cost of bcrypt is invalid, or would keep a core busy for too long.
    #[error(
        "the bcrypt cost {cost} is outside 4 to {MAX_COST}, beyond which one check takes many seconds, so the user cannot sign in; set the password again with {RENEW}"
    )]
    Cost {
        /// The cost in the hash.
        cost: u8,
    },
    /// The rounds of SHA crypt are fewer than crypt(3) allows, or would keep a core busy for too long.
    #[error(
        "the {rounds} rounds are outside {MIN_ROUNDS} to {MAX_ROUNDS}, beyond which one check takes seconds, so the user cannot sign in; set the password again with {RENEW}"
    )]
    Rounds {
        /// The rounds in the hash.
        rounds: u32,
    },
    /// The format is known, but not supported.
    #[error(
        "{0} is not supported, so the user cannot sign in; set the password again with {RENEW}"
    )]
    Unsupported(Scheme),
    /// The field is longer than any hash. nginx cuts such a field.
    #[error(
        "the hash has more than {MAX_HASH} bytes, so the user cannot sign in; set the password again with {RENEW}"
    )]
    TooLong,
}

impl Scheme {
    /// Recognises and checks a hash field. A field that is accepted can be verified.
    pub(super) fn parse(stored: &[u8]) -> Result<Self, UnusableHash> {
        match prefix(stored) {
            _ if stored.is_empty() => Err(UnusableHash::Empty),
            _ if stored.len() > MAX_HASH => Err(UnusableHash::TooLong),
            _ if is_locked(stored) => Err(UnusableHash::Locked),
            b"$2a$" | b"$2b$" | b"$2y$" => Self::parse_bcrypt(stored),
            b"$apr1$" if md5_crypt::is_well_formed(stored, APR1) => Ok(Self::Apr1),
            b"$1$" if md5_crypt::is_well_formed(stored, MD5) => Ok(Self::Md5),
            b"$apr1$" | b"$1$" => Err(UnusableHash::Malformed(md5_crypt::FORMAT)),
            SHA if sha1::is_well_formed(stored, SHA, false) => Ok(Self::Sha),
            SSHA if sha1::is_well_formed(stored, SSHA, true) => Ok(Self::SaltedSha),
            SHA | SSHA => Err(UnusableHash::Malformed(sha1::FORMAT)),
            b"$5$" => Self::parse_sha_crypt(stored, Function::Sha256),
            b"$6$" => Self::parse_sha_crypt(stored, Function::Sha512),
            b"" if des_crypt::is_well_formed(stored) => Ok(Self::Des),
            b"" if is_doubled(stored) => Err(UnusableHash::DoubledDollar),
            b"" if !is_bsdi(stored) => Err(UnusableHash::PlainText),
            other => Err(UnusableHash::Unsupported(Self::unsupported(other))),
        }
    }

    fn parse_bcrypt(stored: &[u8]) -> Result<Self, UnusableHash> {
        match bcrypt::parse_cost(stored) {
            Some(cost @ 4..=MAX_COST) => Ok(Self::Bcrypt { cost }),
            Some(cost) => Err(UnusableHash::Cost { cost }),
            None => Err(UnusableHash::Malformed(bcrypt::FORMAT)),
        }
    }

    fn parse_sha_crypt(stored: &[u8], function: Function) -> Result<Self, UnusableHash> {
        let rounds = function
            .rounds(stored)
            .ok_or(UnusableHash::Malformed(sha_crypt::FORMAT))?;
        match (rounds, function) {
            (MIN_ROUNDS..=MAX_ROUNDS, Function::Sha256) => Ok(Self::Sha256Crypt { rounds }),
            (MIN_ROUNDS..=MAX_ROUNDS, Function::Sha512) => Ok(Self::Sha512Crypt { rounds }),
            _ => Err(UnusableHash::Rounds { rounds }),
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

    /// Whether the password matches a hash for which [`Self::parse`] has returned this scheme.
    pub(super) fn verify(self, stored: &[u8], password: &[u8]) -> bool {
        match self {
            Self::Bcrypt { cost } => bcrypt::verify(stored, cost, password),
            Self::Apr1 => md5_crypt::verify(stored, APR1, password),
            Self::Md5 => md5_crypt::verify(stored, MD5, password),
            Self::Des => des_crypt::verify(stored, password),
            Self::Sha => sha1::verify(stored, SHA, password),
            Self::SaltedSha => sha1::verify(stored, SSHA, password),
            Self::Sha256Crypt { .. } => Function::Sha256.verify(stored, password),
            Self::Sha512Crypt { .. } => Function::Sha512.verify(stored, password),
            _ => false,
        }
    }

    /// A hash of this scheme and cost that no password matches, because its last digit has bits that no encoder sets.
    /// Verifying it takes the full time.
    pub(super) fn unmatchable(self) -> Vec<u8> {
        match self {
            Self::Bcrypt { cost } => bcrypt::unmatchable(cost),
            Self::Apr1 => md5_crypt::unmatchable(APR1),
            Self::Md5 => md5_crypt::unmatchable(MD5),
            Self::Des => des_crypt::unmatchable(),
            Self::Sha => sha1::unmatchable(SHA),
            Self::SaltedSha => sha1::unmatchable(SSHA),
            Self::Sha256Crypt { rounds } => Function::Sha256.unmatchable(rounds),
            Self::Sha512Crypt { rounds } => Function::Sha512.unmatchable(rounds),
            _ => Vec::new(),
        }
    }

    /// The approximate time of one verification in microseconds. Only the proportions between schemes count.
    pub(super) fn microseconds(self) -> u64 {
        match self {
            Self::Des => 20,
            Self::Md5 | Self::Apr1 => 500,
            Self::Sha256Crypt { rounds } | Self::Sha512Crypt { rounds } => u64::from(rounds) / 2,
            Self::Bcrypt { cost } => 50 << cost.min(MAX_COST),
            _ => 1,
        }
    }

    /// Whether the format is supported, but should be replaced.
    pub fn is_weak(self) -> bool {
        matches!(
            self,
            Self::Sha | Self::SaltedSha | Self::Des | Self::Md5 | Self::Apr1
        )
    }

    /// The weakness of the format, for the message "… is accepted, but …".
    pub(super) fn weakness(self) -> &'static str {
        match self {
            Self::Des => "counts only the first 8 characters of a password",
            _ => "passwords can be guessed quickly from a stolen file",
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

/// The prefix `$NAME$` or `{NAME}`. Empty if there is none, as in a password that begins with a dollar sign.
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

/// Whether the field is one that crypt(3) returns for a failure, or that passwd(5) and shadow(5) use for locked accounts.
fn is_locked(stored: &[u8]) -> bool {
    matches!(
        stored,
        b"*" | b"*0" | b"*1" | b"*LK*" | b"!" | b"!!" | b"!*"
    ) || stored.starts_with(b"!$")
}

/// Whether the field is a hash as in a compose file, where `$$` represents `$`.
fn is_doubled(stored: &[u8]) -> bool {
    let mut single = Vec::with_capacity(stored.len());
    let mut rest = stored;
    while let Some((first, after)) = rest.split_first() {
        single.push(*first);
        rest = match first {
            b'$' => after.strip_prefix(b"$").unwrap_or(after),
            _ => after,
        };
    }
    stored.starts_with(b"$$") && Scheme::parse(&single).is_ok()
}

fn is_bsdi(stored: &[u8]) -> bool {
    stored.len() == 20
        && stored
            .strip_prefix(b"_")
            .is_some_and(|rest| crypt64::is_encoded(rest, 0))
}

/// The remedy in most messages. It is a template in which `ProblemKind::explain` replaces FILE and USER.
pub(super) const RENEW: &str = "tidegate htpasswd add FILE USER";
/// The maximum length of a hash field, at which nginx cuts it.
const MAX_HASH: usize = 2048;
const APR1: &[u8] = b"$apr1$";
const MD5: &[u8] = b"$1$";
const SHA: &[u8] = b"{SHA}";
const SSHA: &[u8] = b"{SSHA}";

#[cfg(test)]
mod tests;
