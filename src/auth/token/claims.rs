//! What a token says, and its bytes.
//!
//! Called by `token`. Proves nothing: whoever reads must hold the MAC against it.

/// The content of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claims<'a> {
    /// Which key signed it.
    pub(super) key: [u8; 4],
    /// Seconds since 1970, as `expires`.
    pub(super) issued: u64,
    pub(super) expires: u64,
    /// Empty for nobody in particular.
    pub(super) user: &'a [u8],
    pub(super) scope: &'a str,
}

impl<'a> Claims<'a> {
    /// Version, key, times, then user and scope, the user with its length in front.
    pub(super) fn write(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend(self.key);
        bytes.extend(self.issued.to_be_bytes());
        bytes.extend(self.expires.to_be_bytes());
        bytes.extend((self.user.len() as u64).to_be_bytes());
        bytes.extend(self.user);
        bytes.extend(self.scope.bytes());
        bytes
    }

    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let ([version], rest) = bytes.split_first_chunk()?;
        let (key, rest) = rest.split_first_chunk()?;
        let (issued, rest) = rest.split_first_chunk()?;
        let (expires, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let length = usize::try_from(u64::from_be_bytes(*length)).ok()?;
        let (user, scope) = rest.split_at_checked(length)?;
        (*version == VERSION).then_some(())?;
        Some(Self {
            key: *key,
            issued: u64::from_be_bytes(*issued),
            expires: u64::from_be_bytes(*expires),
            user,
            scope: std::str::from_utf8(scope).ok()?,
        })
    }

    /// Within its time, give or take [`SKEW`].
    pub(super) fn is_current(&self, now: u64) -> bool {
        let begun = self.issued <= now.saturating_add(SKEW);
        let over = self.expires.saturating_add(SKEW) <= now;
        begun && !over
    }
}

const VERSION: u8 = 1;
/// Seconds: docker reckons with its own clock when a token ends, and gates that share a secret have a clock each.
/// `distribution` allows as much.
pub(super) const SKEW: u64 = 60;
