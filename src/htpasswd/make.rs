//! New hashes, and new passwords.
//!
//! For `cli`. What a file accepts is decided by `hash`; here is only what is written: bcrypt, and three formats for
//! other readers of the same file.

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;
use zeroize::Zeroizing;

use super::sha_crypt::Function;
use super::{MAX_PASSWORD, alphabet, md5_crypt};
use crate::secret::Password;

/// A format to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashParams {
    /// `$2y$`
    Bcrypt {
        /// Binary logarithm of the rounds, 4 to [`super::MAX_COST`].
        cost: u8,
    },
    /// `$6$`
    Sha512,
    /// `$5$`
    Sha256,
    /// `$apr1$`
    Apr1,
}

/// Why a password gets no hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusablePassword {
    /// Would let in whoever knows the name.
    #[error("the password is empty, and so would let in whoever knows the name; choose another")]
    Empty,
    /// C programs end a password there.
    #[error("the password contains a NUL byte, at which other programs end it; leave it out")]
    Nul,
    /// Nothing beyond would count.
    #[error(
        "the password has {length} bytes, of which bcrypt reads the first {BCRYPT_READS} only; choose a shorter one, or take --scheme sha512"
    )]
    LongForBcrypt {
        /// Of the password, in bytes.
        length: usize,
    },
    /// Would never match.
    #[error(
        "the password has more than {MAX_PASSWORD} bytes, and so would never be accepted; choose a shorter one"
    )]
    Long,
    /// The cost is none that the gate accepts.
    #[error("the bcrypt cost {0} is outside 4 to {max}", max = super::MAX_COST)]
    Cost(u8),
    /// The number of rounds is none that SHA-crypt has.
    #[error("SHA-crypt has no hash with {0} rounds")]
    Rounds(u32),
    /// The system's random numbers fail.
    #[error("the system gives no random numbers")]
    NoRandomness,
}

impl HashParams {
    /// Whether a hash of this password would hold all of it, and let only it in.
    pub fn check(self, password: &Password) -> Result<(), UnusablePassword> {
        let bytes = password.as_bytes();
        match self {
            _ if bytes.is_empty() => Err(UnusablePassword::Empty),
            _ if bytes.contains(&0) => Err(UnusablePassword::Nul),
            _ if bytes.len() > MAX_PASSWORD => Err(UnusablePassword::Long),
            Self::Bcrypt { .. } if bytes.len() > BCRYPT_READS => {
                Err(UnusablePassword::LongForBcrypt {
                    length: bytes.len(),
                })
            }
            Self::Bcrypt { cost } if !(4..=super::MAX_COST).contains(&cost) => {
                Err(UnusablePassword::Cost(cost))
            }
            _ => Ok(()),
        }
    }

    /// The hash field of a password, with a fresh salt.
    pub fn hash(self, password: &Password) -> Result<Vec<u8>, UnusablePassword> {
        self.check(password)?;
        let bytes = password.as_bytes();
        match self {
            Self::Bcrypt { cost } => bcrypt_hash(bytes, cost),
            Self::Sha512 => sha_crypt(Function::Sha512, bytes),
            Self::Sha256 => sha_crypt(Function::Sha256, bytes),
            Self::Apr1 => Ok(md5_crypt::make(bytes, b"$apr1$", &salt::<8>()?)),
        }
    }
}

/// A password of 26 letters and digits, 130 random bits; a double click selects all of it.
pub fn password() -> Result<Password, UnusablePassword> {
    let random = Zeroizing::new(random::<26>()?);
    // Never grown, which would leave a copy behind.
    let mut letters = Vec::with_capacity(random.len());
    letters.extend(
        random
            .iter()
            .filter_map(|byte| LETTERS.get(usize::from(byte & 31))),
    );
    Ok(Password::new(letters))
}

fn bcrypt_hash(password: &[u8], cost: u8) -> Result<Vec<u8>, UnusablePassword> {
    let made = bcrypt::hash_with_salt(password, cost.into(), random()?);
    // `$2y$`, which Apache and the C libraries read; the crate's own `$2b$` is younger than some of them.
    made.map(|parts| parts.format_for_version(bcrypt::Version::TwoY).into_bytes())
        .map_err(|_| UnusablePassword::Cost(cost))
}

fn sha_crypt(function: Function, password: &[u8]) -> Result<Vec<u8>, UnusablePassword> {
    let salt = salt::<16>()?;
    function
        .make(password, &salt, ROUNDS)
        .ok_or(UnusablePassword::Rounds(ROUNDS))
}

/// Digits of crypt(3), six random bits each.
fn salt<const N: usize>() -> Result<[u8; N], UnusablePassword> {
    Ok(random()?.map(alphabet::encode))
}

fn random<const N: usize>() -> Result<[u8; N], UnusablePassword> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|Unspecified| UnusablePassword::NoRandomness)?;
    Ok(bytes)
}

/// The cost that is written when none is asked for: about 50 ms for one check.
pub const USUAL_COST: u8 = 10;
/// What bcrypt reads of a password.
const BCRYPT_READS: usize = 72;
/// About 20 ms for one check; the 5000 of the format's first days are a twentieth of that.
const ROUNDS: u32 = 100_000;
/// Without those that are taken for another: l, o, 0, 1.
const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

#[cfg(test)]
mod tests;
