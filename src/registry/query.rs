//! The query of a registry request: parsed strictly, reduced to the parameters of the API, and written in a canonical form.
//!
//! `operation` calls [`Query::parse`] with the [`QueryRules`] of the request. This module checks only the parameters that
//! name a second repository, and the tags of a push.
//!
//! A registry adds parameters of its own to the URLs that it returns, and the client sends them back: in the `Location` of
//! an upload, which the specification calls opaque, and in the `Link` to the next page of a list. These parameters are kept,
//! on an upload whatever their names are. A parameter is dropped if its name differs from one of the API in case only, or is
//! not a plain word, because another parser may take it for a parameter that is checked here, such as `mount`.
//!
//! `distribution` reads `mount`, `from`, `digest` and `_state` with Go's `FormValue`: keys are decoded, the first of
//! duplicates wins, and pairs with `;` are dropped or split, depending on Go's version. A query that can be read in two ways
//! is an error.

use super::errors::{MAX_TAGS, RegistryError};
use super::path::{check_bytes, check_name, is_digest, is_tag};
use crate::percent::{DecodeError, decode, encode_into};

/// The parameters of a request: those of the API in canonical order, and after them those of the registry in the order in which
/// the client sent them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Query {
    pairs: Vec<(Key, String)>,
    vendor: Vec<(String, String)>,
}

/// The kinds of requests, by the parameters that they may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueryRules {
    /// The start of an upload, which alone may mount. The parameters of a mount are dropped from all other requests, because
    /// `distribution` mounts on upload URLs too.
    StartsUpload,
    /// A request to the URL of an upload, which the registry has created.
    ContinuesUpload,
    /// A push of a manifest by digest, which alone may name tags in addition to its reference.
    PushesByDigest,
    /// A push of a manifest by tag.
    PushesByTag,
    /// A request for a list, whose response may link to a next page.
    Lists,
    /// Any other request.
    Other,
}

/// The parameters of the API and of its clients, in canonical order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    N,
    Last,
    /// May occur several times.
    ArtifactType,
    /// A tag that a push by digest sets. May occur several times.
    Tag,
    Digest,
    DigestAlgorithm,
    /// The state of an upload, signed by the upstream.
    State,
    Mount,
    From,
    /// The source registry of a mount, sent by go-containerregistry.
    Origin,
    /// The registry that a mirror replaces, sent by containerd.
    Ns,
}

impl Query {
    /// Parses the query as the client sent it, without its `?`.
    pub(super) fn parse(raw: Option<&str>, rules: QueryRules) -> Result<Self, RegistryError> {
        let raw = raw.unwrap_or_default();
        check_bytes(raw).map_err(RegistryError::Query)?;
        if raw.contains(';') {
            return Err(RegistryError::Query("a semicolon"));
        }
        let mut query = Self::default();
        for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
            query.add(pair, rules)?;
        }
        query.pairs.sort_by_key(|(key, _)| *key);
        query.finish(rules)
    }

    /// Adds a parameter, unless it is dropped.
    fn add(&mut self, pair: &str, rules: QueryRules) -> Result<(), RegistryError> {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (key, value) = (decode_value(key)?, decode_value(value)?);
        if let Some(key) = Key::parse(&key) {
            if !key.may_repeat() && self.first(key).is_some() {
                return Err(RegistryError::Query("a parameter given twice"));
            }
            self.pairs.push((key, value));
            return Ok(());
        }
        match rules {
            QueryRules::ContinuesUpload if is_vendor_key(&key) => self.vendor.push((key, value)),
            QueryRules::Lists if PAGE_KEYS.contains(&key.as_str()) => {
                if self.vendor.iter().any(|(known, _)| *known == key) {
                    return Err(RegistryError::Query("a parameter given twice"));
                }
                self.vendor.push((key, value));
            }
            _ => {}
        }
        Ok(())
    }

    /// Checks the parameters. Afterwards there is a `from` only together with a `mount`, a `tag` only on a push by digest, and all
    /// values are well formed.
    fn finish(mut self, rules: QueryRules) -> Result<Self, RegistryError> {
        if rules != QueryRules::StartsUpload {
            self.remove(&[Key::Mount, Key::From, Key::Origin]);
        }
        self.check_tags(rules)?;
        // For Go's `FormValue`, a parameter with an empty value does not exist.
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

    fn check_tags(&mut self, rules: QueryRules) -> Result<(), RegistryError> {
        let tags = self.pairs.iter().filter(|(key, _)| *key == Key::Tag);
        match (rules, tags.count()) {
            (_, 0) => Ok(()),
            (QueryRules::PushesByDigest, ..=MAX_TAGS) => Ok(()),
            (QueryRules::PushesByDigest, _) => Err(RegistryError::TooManyTags),
            // Dropping the parameters would lose the tags without an error.
            (QueryRules::PushesByTag, _) => Err(RegistryError::Query(
                "tag parameters belong to a push by digest; push to manifests/<digest>?tag=<tag>",
            )),
            _ => {
                self.remove(&[Key::Tag]);
                Ok(())
            }
        }
    }

    /// The first value of a parameter.
    pub(super) fn first(&self, wanted: Key) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(key, _)| *key == wanted)
            .map(|(_, value)| value.as_str())
    }

    /// Removes parameters of the API.
    pub(super) fn remove(&mut self, keys: &[Key]) {
        self.pairs.retain(|(key, _)| !keys.contains(key));
    }

    /// Removes the parameters of the registry.
    pub(super) fn remove_vendor_keys(&mut self) {
        self.vendor.clear();
    }

    /// Replaces a parameter, or removes it if there is no value.
    pub(super) fn set(&mut self, key: Key, value: Option<String>) {
        self.remove(&[key]);
        self.pairs.extend(value.map(|value| (key, value)));
        self.pairs.sort_by_key(|(key, _)| *key);
    }

    /// Appends `?key=value&…`, or nothing.
    pub(super) fn write_to(&self, target: &mut String) {
        let known = self.pairs.iter().map(|(key, value)| (key.as_str(), value));
        let vendor = self.vendor.iter().map(|(key, value)| (key.as_str(), value));
        let mut separator = '?';
        for (key, value) in known.chain(vendor) {
            target.push(separator);
            target.push_str(key);
            target.push('=');
            encode_into(target, value);
            separator = '&';
        }
    }
}

impl Key {
    fn parse(text: &str) -> Option<Self> {
        API_KEYS.into_iter().find(|key| key.as_str() == text)
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

/// Whether a parameter of the URL of an upload may be one of the registry: a plain word that no parser takes for a parameter of
/// the API. Some parsers compare names without regard to case, and PHP reads `mount[]` as `mount`.
fn is_vendor_key(key: &str) -> bool {
    let is_word =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    let is_known = |known: Key| known.as_str().eq_ignore_ascii_case(key);
    !key.is_empty() && key.bytes().all(is_word) && !API_KEYS.into_iter().any(is_known)
}

/// Decodes a key or a value. A `+` is a space, as for Go's `url.ParseQuery`.
fn decode_value(raw: &str) -> Result<String, RegistryError> {
    let decoded =
        decode(&raw.replace('+', " "), |byte| !byte.is_ascii_control()).map_err(|error| {
            RegistryError::Query(match error {
                DecodeError::Malformed => "a malformed escape",
                DecodeError::Forbidden => "an escape of a control character",
            })
        })?;
    String::from_utf8(decoded).map_err(|_| RegistryError::Query("not UTF-8"))
}

/// The parameters that registries write into the `Link` to a next page in addition to `n` and `last`: Quay writes `next_page`,
/// Azure `orderby`, and other cloud registries and gateways use the rest for a position in a list.
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

/// All parameters of the API.
const API_KEYS: [Key; 11] = [
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
