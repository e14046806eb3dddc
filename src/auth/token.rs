//! The tokens of mode `token`: the proxy issues them to users with a password and to anonymous clients, and verifies them
//! without a lookup.
//!
//! `auth` calls this module. It does no input or output and reads no clock. `access` decides which scope an identity may
//! have, before a token is issued and again whenever it is used.
//!
//! A token is two base64url texts joined by a dot: the claims, and an HMAC-SHA256. The MAC covers the claims and also the
//! site, the route and the stored hash of the user, which are not part of the token. So a token is invalid at another site
//! or route, and becomes invalid when the user's line in the password file changes. To clients a token is opaque.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::constant_time;
use aws_lc_rs::hmac::Context;
use base64ct::{Base64UrlUnpadded, Encoding};

use super::basic::after_scheme;
use super::identity::{Error, Identity, IdentityKind};
use crate::htpasswd::{Entry, Users};
use crate::registry::Scope;

pub mod keys;
pub mod request;
pub(super) mod service;

use keys::{SigningKeys, TokenKey};

/// Issues and verifies the tokens of one route.
#[derive(Debug)]
pub struct TokenIssuer {
    keys: SigningKeys,
    site: Box<str>,
    route: Box<str>,
    path: Box<str>,
    lifetime: Duration,
}

/// A new token, and what its holder needs to know about it.
pub struct IssuedToken {
    /// The token: letters, digits, `-`, `_` and one `.`.
    pub token: String,
    /// The time at which the token was issued.
    pub at: SystemTime,
    /// The time for which the token is valid.
    pub lifetime: Duration,
}

/// The content of a valid token.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct VerifiedToken {
    /// The user, or empty for an anonymous client.
    pub(super) user: Vec<u8>,
    pub(super) scope: Scope,
}

/// The token was not issued by this proxy, or is no longer valid. Clients do not learn which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InvalidToken;

impl TokenIssuer {
    /// Creates the issuer of a route, which `site` and `route` identify.
    pub fn new(keys: SigningKeys, site: &str, route: &str, lifetime: Duration) -> Self {
        Self {
            keys,
            site: site.into(),
            route: route.into(),
            path: format!("{}/_token", route.trim_end_matches('/')).into(),
            lifetime,
        }
    }

    /// The path of the token endpoint: `/v2/_token` for a route at `/v2/`. No repository can have this name.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Authenticates by an `Authorization` field with a Bearer token.
    pub(super) fn authenticate(
        &self,
        authorization: &[u8],
        users: &Users,
        now: SystemTime,
    ) -> Result<Identity, Error> {
        let token = after_scheme(authorization, b"Bearer").ok_or(Error::Token)?;
        let stored = |user: &[u8]| users.find(user).map(Entry::stored);
        let verified = self
            .verify(token, stored, now)
            .map_err(|InvalidToken| Error::Token)?;
        let identity = if verified.user.is_empty() {
            Identity::new(IdentityKind::Anonymous)
        } else {
            Identity::user_named(&verified.user)
        };
        Ok(identity.with_scope(verified.scope))
    }

    /// Issues a token to a user with this stored hash. For an anonymous client both are empty.
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
            issued: unix_seconds(now),
            expires: unix_seconds(now).saturating_add(self.lifetime.as_secs()),
            user,
            scope: &scope.to_string(),
        };
        let claims = claims.encode();
        let mac = self.mac(key, stored, &claims).sign();
        let token = [claims.as_slice(), mac.as_ref()].map(Base64UrlUnpadded::encode_string);
        IssuedToken {
            token: token.join("."),
            at: now,
            lifetime: self.lifetime,
        }
    }

    /// Verifies a token at the time `now`. `stored` looks up the stored hash of a user.
    pub(super) fn verify<'u>(
        &self,
        token: &[u8],
        stored: impl FnOnce(&[u8]) -> Option<&'u [u8]>,
        now: SystemTime,
    ) -> Result<VerifiedToken, InvalidToken> {
        if token.len() > MAX_TOKEN {
            return Err(InvalidToken);
        }
        let token = std::str::from_utf8(token).map_err(|_| InvalidToken)?;
        let (claims, mac) = token.split_once('.').ok_or(InvalidToken)?;
        let [claims, mac] =
            [claims, mac].map(|part| Base64UrlUnpadded::decode_vec(part).map_err(|_| InvalidToken));
        let (encoded, mac) = (claims?, mac?);
        // The claims are decoded before the MAC is verified, because they name the key and the user. They are used only after.
        let claims = Claims::decode(&encoded).ok_or(InvalidToken)?;
        let key = self.keys.find(claims.key).ok_or(InvalidToken)?;
        let stored = match claims.user {
            [] => Some(&[][..]),
            user => stored(user),
        };
        // The comparison takes constant time, and an unknown user takes as long as a known one.
        let expected = self.mac(key, stored.unwrap_or(UNKNOWN_USER), &encoded);
        let has_valid_mac = constant_time::verify_slices_are_equal(expected.sign().as_ref(), &mac);
        if stored.is_none() || has_valid_mac.is_err() || !claims.is_current(unix_seconds(now)) {
            return Err(InvalidToken);
        }
        Ok(VerifiedToken {
            user: claims.user.to_vec(),
            scope: Scope::parse([claims.scope]),
        })
    }

    /// The MAC of a token. Each part has its length in front, so that no other parts have the same input.
    fn mac(&self, key: &TokenKey, stored: &[u8], claims: &[u8]) -> Context {
        let mut context = Context::with_key(&key.key);
        let place = [MAC_LABEL, self.site.as_bytes(), self.route.as_bytes()];
        for part in place.into_iter().chain([stored, claims]) {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        context
    }
}

/// Does not show the token: every reader of a log could log in with it.
impl fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IssuedToken(..)")
    }
}

/// The content of a token, and its encoding. Decoded claims prove nothing until the MAC is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Claims<'a> {
    /// Identifies the key of the MAC.
    key: [u8; 4],
    /// The time of issue in seconds since 1970.
    issued: u64,
    /// The end of the lifetime in seconds since 1970.
    expires: u64,
    /// The user, or empty for an anonymous client.
    user: &'a [u8],
    scope: &'a str,
}

impl<'a> Claims<'a> {
    /// Encodes version, key, times, the length of the user name, the user name and the scope.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![CLAIMS_VERSION];
        bytes.extend(self.key);
        bytes.extend(self.issued.to_be_bytes());
        bytes.extend(self.expires.to_be_bytes());
        bytes.extend((self.user.len() as u64).to_be_bytes());
        bytes.extend(self.user);
        bytes.extend(self.scope.bytes());
        bytes
    }

    fn decode(bytes: &'a [u8]) -> Option<Self> {
        let ([version], rest) = bytes.split_first_chunk()?;
        let (key, rest) = rest.split_first_chunk()?;
        let (issued, rest) = rest.split_first_chunk()?;
        let (expires, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let length = usize::try_from(u64::from_be_bytes(*length)).ok()?;
        let (user, scope) = rest.split_at_checked(length)?;
        (*version == CLAIMS_VERSION).then_some(())?;
        Some(Self {
            key: *key,
            issued: u64::from_be_bytes(*issued),
            expires: u64::from_be_bytes(*expires),
            user,
            scope: std::str::from_utf8(scope).ok()?,
        })
    }

    /// Whether the token is valid at this time, with a tolerance of [`CLOCK_SKEW`] at both ends.
    fn is_current(&self, now: u64) -> bool {
        let has_begun = self.issued <= now.saturating_add(CLOCK_SKEW);
        let has_expired = self.expires.saturating_add(CLOCK_SKEW) <= now;
        has_begun && !has_expired
    }
}

/// The seconds since 1970. An earlier time counts as 1970.
fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Separates this use of the secret from every other one.
const MAC_LABEL: &[u8] = b"tidegate token 1";
/// The stored hash that an unknown user is given; it is as long as a bcrypt hash.
const UNKNOWN_USER: &[u8] = &[0; 60];
/// The maximum length of a token: a scope of 4 KiB, and a user name as long as the default of `limits.basic_size` allows.
const MAX_TOKEN: usize = 8 * 1024;
const CLAIMS_VERSION: u8 = 1;
/// The tolerated difference of clocks in seconds, as in `distribution`. docker computes with its own clock when a token
/// expires, and several proxies that share a secret have a clock each.
const CLOCK_SKEW: u64 = 60;

#[cfg(test)]
mod tests;
