//! Generation of password hashes and of random passwords, for the command `tidegate htpasswd`.
//!
//! New hashes are bcrypt, or one of three formats that other readers of the same file may need. `hash` decides which formats
//! are accepted in a file.

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;
use zeroize::Zeroizing;

use super::hash::sha_crypt::Function;
use super::hash::{MAX_COST, crypt64, md5_crypt};
use super::users::MAX_PASSWORD;
use crate::secret::Password;

/// The format and cost of a new hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashParams {
    /// bcrypt, `$2y$`.
    Bcrypt {
        /// The binary logarithm of the number of rounds, 4 to [`MAX_COST`].
        cost: u8,
    },
    /// SHA-512 crypt, `$6$`.
    Sha512,
    /// SHA-256 crypt, `$5$`.
    Sha256,
    /// Apache's MD5-crypt, `$apr1$`.
    Apr1,
}

/// The reason why no hash is generated for a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusablePassword {
    /// The password is empty.
    #[error("the password is empty, so anyone who knows the name could sign in; choose another")]
    Empty,
    /// The password contains a NUL byte, at which C programs end it.
    #[error("the password contains a NUL byte, at which other programs end it; leave it out")]
    Nul,
    /// The password is longer than bcrypt reads.
    #[error(
        "the password has {length} bytes, of which bcrypt reads the first {MAX_BCRYPT_PASSWORD} only; choose a shorter one, or take --scheme sha512"
    )]
    LongForBcrypt {
        /// The length of the password in bytes.
        length: usize,
    },
    /// The password is longer than any that is accepted.
    #[error(
        "the password has more than {MAX_PASSWORD} bytes, and so would never be accepted; choose a shorter one"
    )]
    Long,
    /// The cost of bcrypt is not accepted in a file.
    #[error("the bcrypt cost {0} is outside 4 to {max}", max = MAX_COST)]
    Cost(u8),
    /// SHA-crypt does not have this number of rounds.
    #[error("SHA-crypt has no hash with {0} rounds")]
    Rounds(u32),
    /// The operating system provides no random bytes.
    #[error("the system provides no random bytes")]
    NoRandomness,
}

impl HashParams {
    /// Checks whether a hash of this password would cover the whole password.
    pub fn check(self, password: &Password) -> Result<(), UnusablePassword> {
        let bytes = password.as_bytes();
        match self {
            _ if bytes.is_empty() => Err(UnusablePassword::Empty),
            _ if bytes.contains(&0) => Err(UnusablePassword::Nul),
            _ if bytes.len() > MAX_PASSWORD => Err(UnusablePassword::Long),
            Self::Bcrypt { .. } if bytes.len() > MAX_BCRYPT_PASSWORD => {
                Err(UnusablePassword::LongForBcrypt {
                    length: bytes.len(),
                })
            }
            Self::Bcrypt { cost } if !(4..=MAX_COST).contains(&cost) => {
                Err(UnusablePassword::Cost(cost))
            }
            _ => Ok(()),
        }
    }

    /// Generates the hash of a password with a random salt.
    pub fn hash(self, password: &Password) -> Result<Vec<u8>, UnusablePassword> {
        self.check(password)?;
        let bytes = password.as_bytes();
        match self {
            Self::Bcrypt { cost } => bcrypt_hash(bytes, cost),
            Self::Sha512 => sha_crypt(Function::Sha512, bytes),
            Self::Sha256 => sha_crypt(Function::Sha256, bytes),
            Self::Apr1 => Ok(md5_crypt::generate(bytes, b"$apr1$", &salt::<8>()?)),
        }
    }
}

/// Generates a password of 26 letters and digits with 130 random bits. A double click selects all of it.
pub fn password() -> Result<Password, UnusablePassword> {
    let random = Zeroizing::new(random::<26>()?);
    // The vector never grows, because growing it would leave a copy of the password in memory.
    let mut letters = Vec::with_capacity(random.len());
    letters.extend(
        random
            .iter()
            .filter_map(|byte| LETTERS.get(usize::from(byte & 31))),
    );
    Ok(Password::new(letters))
}

fn bcrypt_hash(password: &[u8], cost: u8) -> Result<Vec<u8>, UnusablePassword> {
    let hash = bcrypt::hash_with_salt(password, cost.into(), random()?);
    // Apache and the C libraries read `$2y$`. Some of them are older than `$2b$`, the default of the crate.
    hash.map(|parts| parts.format_for_version(bcrypt::Version::TwoY).into_bytes())
        .map_err(|_| UnusablePassword::Cost(cost))
}

fn sha_crypt(function: Function, password: &[u8]) -> Result<Vec<u8>, UnusablePassword> {
    let salt = salt::<16>()?;
    function
        .generate(password, &salt, SHA_CRYPT_ROUNDS)
        .ok_or(UnusablePassword::Rounds(SHA_CRYPT_ROUNDS))
}

/// A salt of crypt(3) digits with six random bits each.
fn salt<const N: usize>() -> Result<[u8; N], UnusablePassword> {
    Ok(random()?.map(crypt64::encode))
}

fn random<const N: usize>() -> Result<[u8; N], UnusablePassword> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|Unspecified| UnusablePassword::NoRandomness)?;
    Ok(bytes)
}

/// The default cost of bcrypt, with which one verification takes about 50 ms.
pub const USUAL_COST: u8 = 10;
/// The number of bytes that bcrypt reads of a password.
const MAX_BCRYPT_PASSWORD: usize = 72;
/// The rounds of SHA-crypt, with which one verification takes about 20 ms. The 5000 of the original format take a twentieth.
const SHA_CRYPT_ROUNDS: u32 = 100_000;
/// Letters and digits without those that look alike: l, o, 0, 1.
const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

#[cfg(test)]
mod tests;
