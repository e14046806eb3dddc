//! SHA-crypt: `$5$` and `$6$` of crypt(3), after Ulrich Drepper's "Unix crypt using SHA-256 and SHA-512" (2008).
//!
//! The `sha-crypt` crate computes the digest. The stored form is parsed and written here, because the crate accepts only salts
//! that it has generated itself.

use subtle::ConstantTimeEq;

use super::crypt64;
use crate::text::parse_canonical_decimal;

/// The hash function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::htpasswd) enum Function {
    Sha256,
    Sha512,
}

/// The parts of a stored hash.
struct Parts<'a> {
    rounds: u32,
    salt: &'a [u8],
    digest: &'a [u8],
}

impl Function {
    /// The number of rounds of a stored hash. `None` for a hash that no encoder could have written.
    pub(super) fn rounds(self, stored: &[u8]) -> Option<u32> {
        let parts = self.split(stored)?;
        let is_valid = parts.salt.len() <= MAX_SALT
            && parts.salt.iter().all(u8::is_ascii_graphic)
            && parts.digest.len() == self.digits()
            && crypt64::is_encoded(parts.digest, self.unused_bits());
        is_valid.then_some(parts.rounds)
    }

    /// Whether the password has the stored digest. Returns `false` for a hash that is not SHA-crypt.
    pub(super) fn verify(self, stored: &[u8], password: &[u8]) -> bool {
        let Some(parts) = self.split(stored) else {
            return false;
        };
        self.hash(password, parts.salt, parts.rounds)
            .is_some_and(|digest| digest.ct_eq(parts.digest).into())
    }

    /// A well-formed hash that no password matches, because no digest ends in `z`. Verifying it takes the full time.
    pub(super) fn unmatchable(self, rounds: u32) -> Vec<u8> {
        let head = format!("rounds={rounds}$................$");
        [self.magic(), head.as_bytes(), &b"z".repeat(self.digits())].concat()
    }

    /// The hash to store for a password. `None` if `rounds` is outside 1000 to 999,999,999.
    pub(in crate::htpasswd) fn generate(
        self,
        password: &[u8],
        salt: &[u8],
        rounds: u32,
    ) -> Option<Vec<u8>> {
        let digest = self.hash(password, salt, rounds)?;
        let rounds = format!("rounds={rounds}$");
        Some([self.magic(), rounds.as_bytes(), salt, b"$", &digest].concat())
    }

    /// The encoded digest of a password. `None` if `rounds` is outside 1000 to 999,999,999.
    fn hash(self, password: &[u8], salt: &[u8], rounds: u32) -> Option<Vec<u8>> {
        let params = sha_crypt::Params::new(rounds).ok()?;
        let groups: Vec<[u8; 3]> = match self {
            Self::Sha256 => {
                let digest = sha_crypt::sha256_crypt(password, salt, params);
                let next = |[a, b, c]: [usize; 3]| [c + 1, a + 1, b + 1];
                let order = std::iter::successors(Some([0, 10, 20]), |group| Some(next(*group)));
                let [.., low, high] = digest;
                let last = std::iter::once(Some([0, high, low]));
                bytes(&digest, order.take(10))
                    .chain(last)
                    .collect::<Option<_>>()?
            }
            Self::Sha512 => {
                let digest = sha_crypt::sha512_crypt(password, salt, params);
                let next = |[a, b, c]: [usize; 3]| [b + 1, c + 1, a + 1];
                let order = std::iter::successors(Some([0, 21, 42]), |group| Some(next(*group)));
                let [.., last] = digest;
                let last = std::iter::once(Some([0, 0, last]));
                bytes(&digest, order.take(21))
                    .chain(last)
                    .collect::<Option<_>>()?
            }
        };
        let digits = groups.into_iter().flat_map(digits);
        Some(digits.take(self.digits()).collect())
    }

    /// The prefix that identifies the format.
    fn magic(self) -> &'static [u8] {
        match self {
            Self::Sha256 => b"$5$",
            Self::Sha512 => b"$6$",
        }
    }

    /// The number of digits of a digest: 256 or 512 bits, six at a time.
    fn digits(self) -> usize {
        match self {
            Self::Sha256 => 43,
            Self::Sha512 => 86,
        }
    }

    /// The bits of the last digit that a digest does not use: the last digit encodes four bits or two.
    fn unused_bits(self) -> u8 {
        match self {
            Self::Sha256 => 0b11_0000,
            Self::Sha512 => 0b11_1100,
        }
    }

    fn split(self, stored: &[u8]) -> Option<Parts<'_>> {
        let rest = stored.strip_prefix(self.magic())?;
        let (rounds, rest) = match rest.strip_prefix(b"rounds=") {
            Some(rest) => {
                let (number, rest) = split_at_dollar(rest)?;
                let number = std::str::from_utf8(number).ok()?;
                // crypt(3) writes no leading zero, and would return another text for such a hash.
                let rounds = parse_canonical_decimal(number).filter(|rounds| *rounds != 0)?;
                (rounds, rest)
            }
            None => (DEFAULT_ROUNDS, rest),
        };
        let (salt, digest) = split_at_dollar(rest)?;
        Some(Parts {
            rounds,
            salt,
            digest,
        })
    }
}

fn split_at_dollar(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = text.splitn(2, |&byte| byte == b'$');
    Some((parts.next()?, parts.next()?))
}

/// The bytes of a digest in the given order, three at a time. `None` for an index that the digest does not have.
fn bytes(
    digest: &[u8],
    order: impl Iterator<Item = [usize; 3]>,
) -> impl Iterator<Item = Option<[u8; 3]>> {
    order.map(|[a, b, c]| Some([*digest.get(a)?, *digest.get(b)?, *digest.get(c)?]))
}

/// Encodes three bytes as four digits, low bits first.
fn digits([high, middle, low]: [u8; 3]) -> [u8; 4] {
    let bits = u32::from_be_bytes([0, high, middle, low]);
    [0, 6, 12, 18].map(|shift| {
        let [.., last] = (bits >> shift).to_be_bytes();
        crypt64::encode(last)
    })
}

/// Describes the format, for the message about a damaged hash.
pub(super) const FORMAT: &str = "SHA crypt has optionally rounds=N and $, a salt of at most 16 characters, $, and 43 or 86 letters, digits, dots or slashes";
/// The maximum number of rounds. It is more than the default of any tool (passlib has the highest, 656,000). With it, one
/// verification takes half a second, and some seconds with the longest password.
pub(super) const MAX_ROUNDS: u32 = 1_000_000;
/// The minimum number of rounds in crypt(3).
pub(super) const MIN_ROUNDS: u32 = sha_crypt::Params::ROUNDS_MIN;
/// The number of rounds of a hash that does not state it.
const DEFAULT_ROUNDS: u32 = sha_crypt::Params::RECOMMENDED_ROUNDS;
/// The maximum length of a salt. crypt(3) cuts a longer salt, and so would return another text for such a hash.
const MAX_SALT: usize = 16;
