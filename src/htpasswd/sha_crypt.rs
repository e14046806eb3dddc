//! SHA-crypt: `$5$` and `$6$` of crypt(3), after Ulrich Drepper's "Unix crypt using SHA-256 and SHA-512" (2008).
//!
//! For `hash` and `make`. The rounds are the `sha-crypt` package's; the text around them is read and written here, since the
//! package knows salts of its own making only.

use subtle::ConstantTimeEq;

use super::alphabet;

/// The two of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Sha256,
    Sha512,
}

/// A stored text, taken apart.
struct Parts<'a> {
    rounds: u32,
    salt: &'a [u8],
    digest: &'a [u8],
}

impl Function {
    /// The rounds of a stored text that an encoder could have written; none for a damaged one.
    pub(super) fn rounds(self, stored: &[u8]) -> Option<u32> {
        let parts = self.split(stored)?;
        let whole = parts.salt.len() <= MAX_SALT
            && parts.salt.iter().all(u8::is_ascii_graphic)
            && parts.digest.len() == self.digits()
            && alphabet::is_encoded(parts.digest, self.unused_bits());
        whole.then_some(parts.rounds)
    }

    /// Whether the password has the stored digest; false for what is not SHA-crypt.
    pub(super) fn verify(self, stored: &[u8], password: &[u8]) -> bool {
        let Some(parts) = self.split(stored) else {
            return false;
        };
        self.hash(password, parts.salt, parts.rounds)
            .is_some_and(|digest| digest.ct_eq(parts.digest).into())
    }

    /// A text of full work that no password matches: no digest ends in `z`.
    pub(super) fn impossible(self, rounds: u32) -> Vec<u8> {
        let head = format!("rounds={rounds}$................$");
        [self.magic(), head.as_bytes(), &b"z".repeat(self.digits())].concat()
    }

    /// The text to store for a password; none when the rounds are outside 1000 to 999 999 999.
    pub(super) fn make(self, password: &[u8], salt: &[u8], rounds: u32) -> Option<Vec<u8>> {
        let digest = self.hash(password, salt, rounds)?;
        let rounds = format!("rounds={rounds}$");
        Some([self.magic(), rounds.as_bytes(), salt, b"$", &digest].concat())
    }

    /// The digits of a password's digest; none when the rounds are outside 1000 to 999 999 999. A byte that is missing in a
    /// digest would give no digits either, never digits of another byte.
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

    fn magic(self) -> &'static [u8] {
        match self {
            Self::Sha256 => b"$5$",
            Self::Sha512 => b"$6$",
        }
    }

    /// 256 or 512 bits, six at a time.
    fn digits(self) -> usize {
        match self {
            Self::Sha256 => 43,
            Self::Sha512 => 86,
        }
    }

    /// The last digit has the four or two bits that are left over.
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
                let (number, rest) = cut(rest)?;
                // crypt(3) writes no leading zero, and so never the same text again.
                let number = std::str::from_utf8(number).ok()?;
                let canonical = number.starts_with(|first: char| matches!(first, '1'..='9'));
                (number.parse().ok().filter(|_| canonical)?, rest)
            }
            None => (DEFAULT_ROUNDS, rest),
        };
        let (salt, digest) = cut(rest)?;
        Some(Parts {
            rounds,
            salt,
            digest,
        })
    }
}

fn cut(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = text.splitn(2, |&byte| byte == b'$');
    Some((parts.next()?, parts.next()?))
}

/// The bytes of a digest in an order of its own, three at a time; none where the digest has no such byte.
fn bytes(
    digest: &[u8],
    order: impl Iterator<Item = [usize; 3]>,
) -> impl Iterator<Item = Option<[u8; 3]>> {
    order.map(|[a, b, c]| Some([*digest.get(a)?, *digest.get(b)?, *digest.get(c)?]))
}

/// Three bytes to four digits, low bits first.
fn digits([high, middle, low]: [u8; 3]) -> [u8; 4] {
    let bits = u32::from_be_bytes([0, high, middle, low]);
    [0, 6, 12, 18].map(|shift| {
        let [.., last] = (bits >> shift).to_be_bytes();
        alphabet::encode(last)
    })
}

/// What a damaged one is compared with, for the one who keeps the file.
pub(super) const SHAPE: &str = "SHA crypt has perhaps rounds=N and $, a salt of at most 16 characters, $, and 43 or 86 letters, digits, dots or slashes";
/// More than any tool's default (passlib's 656 000 is the highest); half a second of one core, and some seconds with
/// the longest password.
pub(super) const MAX_ROUNDS: u32 = 1_000_000;
/// Fewer are no rounds of crypt(3).
pub(super) const MIN_ROUNDS: u32 = sha_crypt::Params::ROUNDS_MIN;
const DEFAULT_ROUNDS: u32 = sha_crypt::Params::RECOMMENDED_ROUNDS;
/// Longer ones are cut, and then never the same text again.
const MAX_SALT: usize = 16;
