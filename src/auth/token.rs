//! The gate's own tokens: minted for who gave a password, or for anyone, and verified without a look-up.
//!
//! `auth` calls it in token mode. Does no input or output and reads no clock; who may have which scope is decided by
//! `access` before a token is minted, and again whenever one is used.
//!
//! A token is two base64url texts joined by a dot: what it says, and an HMAC-SHA256 over that. The MAC covers the site,
//! the route and the user's stored hash line, too, without the token carrying them: it is worth nothing elsewhere, and
//! nothing any more when the line changes. To clients it is opaque.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::constant_time;
use aws_lc_rs::hmac::Context;
use base64ct::{Base64UrlUnpadded, Encoding};

use crate::registry::Scope;

mod claims;
pub mod form;
pub mod secret;
pub(super) mod service;

use claims::Claims;
use secret::{SigningKeys, TokenKey};

/// Mints and verifies the tokens of one route.
#[derive(Debug)]
pub struct TokenIssuer {
    keys: SigningKeys,
    site: Box<str>,
    route: Box<str>,
    path: Box<str>,
    lifetime: Duration,
}

/// A fresh token, and what its holder should know of it.
pub struct IssuedToken {
    /// The token: letters, digits, `-`, `_` and one `.`.
    pub token: String,
    /// When.
    pub at: SystemTime,
    /// How long it is good for.
    pub lifetime: Duration,
}

/// What a good token says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct VerifiedToken {
    /// Empty for nobody in particular.
    pub(super) user: Vec<u8>,
    pub(super) scope: Scope,
}

/// Not one of ours, or not any more; which of the two is told to nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InvalidToken;

impl TokenIssuer {
    /// For a route of a site, by their names.
    pub fn new(keys: SigningKeys, site: &str, route: &str, lifetime: Duration) -> Self {
        Self {
            keys,
            site: site.into(),
            route: route.into(),
            path: format!("{}/_token", route.trim_end_matches('/')).into(),
            lifetime,
        }
    }

    /// The path at which tokens are to be had: `/v2/_token` for a route at `/v2/`. No repository can have that name.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// A token for a user with this stored line; for nobody in particular both are empty.
    pub(super) fn issue(
        &self,
        user: &[u8],
        stored: &[u8],
        scope: &Scope,
        now: SystemTime,
    ) -> IssuedToken {
        let key = self.keys.signing();
        let claims = Claims {
            key: key.id,
            issued: seconds(now),
            expires: seconds(now).saturating_add(self.lifetime.as_secs()),
            user,
            scope: &scope.to_string(),
        };
        let said = claims.write();
        let mac = self.context(key, stored, &said).sign();
        let token = [said.as_slice(), mac.as_ref()].map(Base64UrlUnpadded::encode_string);
        IssuedToken {
            token: token.join("."),
            at: now,
            lifetime: self.lifetime,
        }
    }

    /// What a token says, when it is one of ours and `now` is within its time. `stored` looks up a user's line.
    pub(super) fn verify<'u>(
        &self,
        token: &[u8],
        stored: impl FnOnce(&[u8]) -> Option<&'u [u8]>,
        now: SystemTime,
    ) -> Result<VerifiedToken, InvalidToken> {
        if token.len() > MOST {
            return Err(InvalidToken);
        }
        let token = std::str::from_utf8(token).map_err(|_| InvalidToken)?;
        let (said, mac) = token.split_once('.').ok_or(InvalidToken)?;
        let [said, mac] =
            [said, mac].map(|part| Base64UrlUnpadded::decode_vec(part).map_err(|_| InvalidToken));
        let (said, mac) = (said?, mac?);
        // Read before it is proved, and believed after: whose line is to be proved stands in it.
        let claims = Claims::read(&said).ok_or(InvalidToken)?;
        let key = self.keys.find(claims.key).ok_or(InvalidToken)?;
        let stored = match claims.user {
            [] => Some(&[][..]),
            user => stored(user),
        };
        // In constant time, and as long for a user who is not there.
        let expected = self.context(key, stored.unwrap_or(STAND_IN), &said);
        let is_ours = constant_time::verify_slices_are_equal(expected.sign().as_ref(), &mac);
        if stored.is_none() || is_ours.is_err() || !claims.is_current(seconds(now)) {
            return Err(InvalidToken);
        }
        Ok(VerifiedToken {
            user: claims.user.to_vec(),
            scope: Scope::parse([claims.scope]),
        })
    }

    /// Each part with its length in front, so that no two tokens are the same by where one part ends.
    fn context(&self, key: &TokenKey, stored: &[u8], said: &[u8]) -> Context {
        let mut mac = Context::with_key(&key.key);
        let place = [LABEL, self.site.as_bytes(), self.route.as_bytes()];
        for part in place.into_iter().chain([stored, said]) {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }
}

/// Silent: whoever has the token is its user.
impl std::fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Issued(..)")
    }
}

/// A clock before 1970 is as wrong as one at 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// What this MAC is for, among all that a secret may be used for.
const LABEL: &[u8] = b"tidegate token 1";
/// In the place of a line that is not there, as long as one of bcrypt.
const STAND_IN: &[u8] = &[0; 60];
/// Bytes of a token that are looked at: a scope of 4 KiB, and a user name as long as Basic credentials usually may be.
const MOST: usize = 8 * 1024;

#[cfg(test)]
mod tests;
