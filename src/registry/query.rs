//! The query of a registry request: parsed strictly, reduced to the parameters the API knows, written canonically.
//!
//! `operation` calls it. Does not know what the parameters do, except for those that name a second repository.
//!
//! `distribution` reads `mount`, `from`, `digest` and `_state` with Go's `FormValue`: keys are decoded, the first of
//! duplicates wins, and pairs with `;` are dropped or split, depending on Go's version. Whatever could be read in two
//! ways is refused.

use super::Invalid;
use super::grammar::{check_name, is_digest};
use super::route::check_bytes;
use crate::percent::{Fault, decode, encode_into};

/// Known parameters in canonical order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Query {
    pairs: Vec<(Key, String)>,
}

/// The parameters of the API and of its clients; their order is the canonical one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    N,
    Last,
    /// The only one that may repeat.
    ArtifactType,
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
    ///
    /// `starts_upload` says whether this request may mount; every other one loses the parameters of a mount, as
    /// `distribution` mounts on upload URLs, too.
    pub(super) fn parse(raw: Option<&str>, starts_upload: bool) -> Result<Self, Invalid> {
        let raw = raw.unwrap_or_default();
        check_bytes(raw).map_err(Invalid::Query)?;
        if raw.contains(';') {
            return Err(Invalid::Query("a semicolon"));
        }
        let mut query = Self::default();
        for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
            query.admit(pair)?;
        }
        query.pairs.sort_by_key(|(key, _)| *key);
        query.settle(starts_upload)
    }

    fn admit(&mut self, pair: &str) -> Result<(), Invalid> {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (key, value) = (decode_part(key)?, decode_part(value)?);
        let Some(key) = Key::known(&key) else {
            return Ok(());
        };
        if key != Key::ArtifactType && self.first(key).is_some() {
            return Err(Invalid::Query("a parameter given twice"));
        }
        self.pairs.push((key, value));
        Ok(())
    }

    /// After this, `from` stands only beside a `mount`, and both are well formed.
    fn settle(mut self, starts_upload: bool) -> Result<Self, Invalid> {
        if !starts_upload {
            self.remove(&[Key::Mount, Key::From, Key::Origin]);
        }
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

    pub(super) fn first(&self, wanted: Key) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(key, _)| *key == wanted)
            .map(|(_, value)| value.as_str())
    }

    pub(super) fn remove(&mut self, keys: &[Key]) {
        self.pairs.retain(|(key, _)| !keys.contains(key));
    }

    /// In place of what is there; in its canonical position.
    pub(super) fn set(&mut self, key: Key, value: Option<String>) {
        self.remove(&[key]);
        self.pairs.extend(value.map(|value| (key, value)));
        self.pairs.sort_by_key(|(key, _)| *key);
    }

    /// Appends `?key=value&…`, or nothing.
    pub(super) fn write_to(&self, target: &mut String) {
        let mut mark = '?';
        for (key, value) in &self.pairs {
            target.push(mark);
            target.push_str(key.as_str());
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
            Self::Digest => "digest",
            Self::DigestAlgorithm => "digest-algorithm",
            Self::State => "_state",
            Self::Mount => "mount",
            Self::From => "from",
            Self::Origin => "origin",
            Self::Ns => "ns",
        }
    }

    fn check(self, value: &str) -> Result<(), Invalid> {
        match self {
            Self::From => check_name(value),
            Self::Digest | Self::Mount if !is_digest(value) => Err(Invalid::Digest),
            _ => Ok(()),
        }
    }
}

/// A `+` is a space, as to Go's `url.ParseQuery`.
fn decode_part(raw: &str) -> Result<String, Invalid> {
    let decoded =
        decode(&raw.replace('+', " "), |byte| !byte.is_ascii_control()).map_err(|fault| {
            Invalid::Query(match fault {
                Fault::Malformed => "a malformed escape",
                Fault::Refused => "an escape of a control character",
            })
        })?;
    String::from_utf8(decoded).map_err(|_| Invalid::Query("not UTF-8"))
}

const ALL: [Key; 10] = [
    Key::N,
    Key::Last,
    Key::ArtifactType,
    Key::Digest,
    Key::DigestAlgorithm,
    Key::State,
    Key::Mount,
    Key::From,
    Key::Origin,
    Key::Ns,
];
