//! The query of a registry request: parsed strictly, reduced to the parameters the API knows, written canonically.
//!
//! `operation` calls it and says by [`Rules`] what the request is for. This module knows of the parameters' meaning only what
//! it must check: those that name a second repository, and the tags of a push.
//!
//! A registry puts parameters of its own into the URLs that it hands out, and the client sends them back: into the
//! `Location` of an upload, which the specification calls opaque, and into the `Link` to the next page of a list. These
//! pass, the former whatever their names are. No parameter passes whose name differs from one of the API in case only, or
//! is no plain word: another parser might take it for one that was judged here, such as `mount`.
//!
//! `distribution` reads `mount`, `from`, `digest` and `_state` with Go's `FormValue`: keys are decoded, the first of
//! duplicates wins, and pairs with `;` are dropped or split, depending on Go's version. Whatever could be read in two
//! ways is refused.

use super::RegistryError;
use super::grammar::{check_name, is_digest, is_tag};
use super::route::check_bytes;
use crate::percent::{DecodeError, decode, encode_into};

/// Known parameters in canonical order, and behind them the registry's own in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Query {
    pairs: Vec<(Key, String)>,
    vendor: Vec<(String, String)>,
}

/// The kinds of requests that differ in the query parameters that are passed to the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rules {
    /// The only request that may mount. Every other one loses the parameters of a mount, as `distribution` mounts on
    /// upload URLs, too.
    StartsUpload,
    /// A request to the URL of an upload, which the registry made.
    ContinuesUpload,
    /// The only push that may name tags beside its reference.
    PushesByDigest,
    PushesByTag,
    /// A request whose answer may link to a next page.
    Lists,
    Other,
}

/// The parameters of the API and of its clients; their order is the canonical one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    N,
    Last,
    /// May repeat.
    ArtifactType,
    /// A tag that a push by digest sets; may repeat.
    Tag,
    Digest,
    DigestAlgorithm,
    /// The upstream's signed state of an upload.
    State,
    Mount,
    From,
    /// The registry a mount comes from, said by go-containerregistry.
    Origin,
    /// The registry a mirror stands for, said by containerd.
    Ns,
}

impl Query {
    /// Reads the query as sent, without its `?`.
    pub(super) fn parse(raw: Option<&str>, rules: Rules) -> Result<Self, RegistryError> {
        let raw = raw.unwrap_or_default();
        check_bytes(raw).map_err(RegistryError::Query)?;
        if raw.contains(';') {
            return Err(RegistryError::Query("a semicolon"));
        }
        let mut query = Self::default();
        for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
            query.admit(pair, rules)?;
        }
        query.pairs.sort_by_key(|(key, _)| *key);
        query.finish(rules)
    }

    fn admit(&mut self, pair: &str, rules: Rules) -> Result<(), RegistryError> {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (key, value) = (decode_part(key)?, decode_part(value)?);
        if let Some(key) = Key::known(&key) {
            if !key.may_repeat() && self.first(key).is_some() {
                return Err(RegistryError::Query("a parameter given twice"));
            }
            self.pairs.push((key, value));
            return Ok(());
        }
        match rules {
            Rules::ContinuesUpload if is_vendor_key(&key) => self.vendor.push((key, value)),
            Rules::Lists if PAGE_KEYS.contains(&key.as_str()) => {
                if self.vendor.iter().any(|(known, _)| *known == key) {
                    return Err(RegistryError::Query("a parameter given twice"));
                }
                self.vendor.push((key, value));
            }
            _ => {}
        }
        Ok(())
    }

    /// After this, `from` stands only beside a `mount`, a `tag` only on a push by digest, and all are well formed.
    fn finish(mut self, rules: Rules) -> Result<Self, RegistryError> {
        if rules != Rules::StartsUpload {
            self.remove(&[Key::Mount, Key::From, Key::Origin]);
        }
        self.settle_tags(rules)?;
        // An empty value is none to FormValue.
        self.pairs
            .retain(|(key, value)| !value.is_empty() || !matches!(key, Key::Mount | Key::From));
        self.pairs
            .iter()
            .try_for_each(|(key, value)| key.check(value))?;
        if self.first(Key::Mount).is_none() {
            self.remove(&[Key::From]);
        }
        Ok(self)
    }

    fn settle_tags(&mut self, rules: Rules) -> Result<(), RegistryError> {
        let tags = self.pairs.iter().filter(|(key, _)| *key == Key::Tag);
        match (rules, tags.count()) {
            (_, 0) => Ok(()),
            (Rules::PushesByDigest, ..=MAX_TAGS) => Ok(()),
            (Rules::PushesByDigest, _) => Err(RegistryError::TooManyTags),
            // To leave the parameters out would lose the tags silently.
            (Rules::PushesByTag, _) => Err(RegistryError::Query(
                "tag parameters belong to a push by digest; push to manifests/<digest>?tag=<tag>",
            )),
            _ => {
                self.remove(&[Key::Tag]);
                Ok(())
            }
        }
    }

    pub(super) fn first(&self, wanted: Key) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(key, _)| *key == wanted)
            .map(|(_, value)| value.as_str())
    }

    pub(super) fn remove(&mut self, keys: &[Key]) {
        self.pairs.retain(|(key, _)| !keys.contains(key));
    }

    /// Leaves out the registry's own parameters.
    pub(super) fn forget_vendor_keys(&mut self) {
        self.vendor.clear();
    }

    /// In place of what is there; in its canonical position.
    pub(super) fn set(&mut self, key: Key, value: Option<String>) {
        self.remove(&[key]);
        self.pairs.extend(value.map(|value| (key, value)));
        self.pairs.sort_by_key(|(key, _)| *key);
    }

    /// Appends `?key=value&…`, or nothing.
    pub(super) fn write_to(&self, target: &mut String) {
        let known = self.pairs.iter().map(|(key, value)| (key.as_str(), value));
        let vendor = self.vendor.iter().map(|(key, value)| (key.as_str(), value));
        let mut mark = '?';
        for (key, value) in known.chain(vendor) {
            target.push(mark);
            target.push_str(key);
            target.push('=');
            encode_into(target, value);
            mark = '&';
        }
    }
}

impl Key {
    fn known(text: &str) -> Option<Self> {
        ALL.into_iter().find(|key| key.as_str() == text)
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::N => "n",
            Self::Last => "last",
            Self::ArtifactType => "artifactType",
            Self::Tag => "tag",
            Self::Digest => "digest",
            Self::DigestAlgorithm => "digest-algorithm",
            Self::State => "_state",
            Self::Mount => "mount",
            Self::From => "from",
            Self::Origin => "origin",
            Self::Ns => "ns",
        }
    }

    fn may_repeat(self) -> bool {
        matches!(self, Self::ArtifactType | Self::Tag)
    }

    fn check(self, value: &str) -> Result<(), RegistryError> {
        match self {
            Self::From => check_name(value),
            Self::Tag if !is_tag(value) => Err(RegistryError::Tag),
            Self::Digest | Self::Mount if !is_digest(value) => Err(RegistryError::Digest),
            _ => Ok(()),
        }
    }
}

/// Whether a parameter of an upload's URL may be the registry's own: a plain word that no parser takes for one of the API.
/// Some compare names without their case, and PHP reads `mount[]` as `mount`.
fn is_vendor_key(key: &str) -> bool {
    let is_word =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    let is_known = |known: Key| known.as_str().eq_ignore_ascii_case(key);
    !key.is_empty() && key.bytes().all(is_word) && !ALL.into_iter().any(is_known)
}

/// A `+` is a space, as to Go's `url.ParseQuery`.
fn decode_part(raw: &str) -> Result<String, RegistryError> {
    let decoded =
        decode(&raw.replace('+', " "), |byte| !byte.is_ascii_control()).map_err(|fault| {
            RegistryError::Query(match fault {
                DecodeError::Malformed => "a malformed escape",
                DecodeError::Forbidden => "an escape of a control character",
            })
        })?;
    String::from_utf8(decoded).map_err(|_| RegistryError::Query("not UTF-8"))
}

/// Tags of one push. The distribution specification asks for ten at least.
pub(super) const MAX_TAGS: usize = 64;

/// What registries write into the `Link` to a next page beside `n` and `last`: Quay `next_page`, Azure `orderby`, the
/// others what cloud registries and gateways call their place in a list.
const PAGE_KEYS: [&str; 12] = [
    "continuationToken",
    "cursor",
    "marker",
    "next",
    "nextToken",
    "next_page",
    "next_token",
    "orderby",
    "page",
    "pageToken",
    "page_size",
    "page_token",
];

const ALL: [Key; 11] = [
    Key::N,
    Key::Last,
    Key::ArtifactType,
    Key::Tag,
    Key::Digest,
    Key::DigestAlgorithm,
    Key::State,
    Key::Mount,
    Key::From,
    Key::Origin,
    Key::Ns,
];
