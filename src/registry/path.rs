//! Paths of the registry API: from a raw path to the resource that it names, and back. Also the terminals of the grammar
//! (OCI distribution specification 1.1): names, tags, digests and upload ids.
//!
//! `operation` calls [`ParsedPath::parse`]. This module knows neither methods nor queries.
//!
//! Repository names may contain every word of the API: `a/manifests` and `a/blobs/uploads` are repositories. Therefore a path
//! is parsed from the right, as the router of `distribution` does.
//!
//! A repository name here has no upper-case letters and no port, although `distribution` accepts both in the first component.
//! To `distribution`, `Secret/repo` is another repository than `secret/repo`, and it responds to a name with a port with a
//! path of its own disk.

use std::borrow::Cow;

use super::errors::RegistryError;
use crate::percent::{DecodeError, decode};

/// Whether a canonical path belongs to the registry API: `/v2` and every path below it.
pub fn is_registry_path(canonical_path: &str) -> bool {
    canonical_path
        .strip_prefix("/v2")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The resource that a path names within its repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// `/v2/`
    Base,
    /// `/v2/_catalog`
    Catalog,
    /// `…/manifests/<reference>`
    Manifest {
        /// The tag or digest.
        reference: Reference,
    },
    /// `…/tags/list`
    Tags,
    /// `…/blobs/<digest>`
    Blob {
        /// The digest of the blob.
        digest: String,
    },
    /// `…/blobs/uploads/`
    UploadStart,
    /// `…/blobs/uploads/<id>`
    Upload {
        /// The id that the upstream has given the session.
        id: String,
    },
    /// `…/referrers/<digest>`
    Referrers {
        /// The digest of the manifest that is referred to.
        digest: String,
    },
}

/// The reference of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// A tag such as `latest`.
    Tag(String),
    /// A digest such as `sha256:…`.
    Digest(String),
}

/// A path of the API and its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiPath {
    pub(super) repository: Option<String>,
    pub(super) resource: Resource,
    pub(super) form: PathForm,
}

/// How a path differs from the canonical one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PathForm {
    /// The path is canonical.
    Canonical,
    /// The path has a trailing slash that the canonical path does not have, or is `/v2` without its trailing slash.
    TrailingSlash,
    /// The path has two slashes in a row, as `//v2/` has.
    EmptySegment,
}

/// The result of parsing a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ParsedPath {
    /// A path of the API.
    Valid(ApiPath),
    /// The path of a manifest whose reference is neither a tag nor a digest.
    InvalidReference {
        repository: String,
        /// The error for a tag or for a digest, whichever the reference resembles.
        error: RegistryError,
    },
}

impl ParsedPath {
    /// Parses a path as the client sent it, with its escapes.
    ///
    /// The path is split at its plain slashes, and each segment is decoded once. So a slash within a segment comes from `%2F`.
    /// It separates the components of a repository name, as it does for `distribution` behind nginx, and is an error
    /// everywhere else. Two slashes in a row count as one, as they do for `distribution`.
    pub(super) fn parse(raw_path: &str) -> Result<Self, RegistryError> {
        check_bytes(raw_path).map_err(RegistryError::Path)?;
        let segments: Result<Vec<_>, _> = raw_path.split('/').map(decode_segment).collect();
        let segments = segments?;
        let Some(("", rest)) = segments.split_first().map(|(first, rest)| (&**first, rest)) else {
            return Err(RegistryError::NotFound);
        };
        let last = rest.len().saturating_sub(1);
        let kept: Vec<_> = rest
            .iter()
            .enumerate()
            .filter(|(at, segment)| *at == last || !segment.is_empty())
            .map(|(_, segment)| &**segment)
            .collect();
        let parsed = match kept.split_first() {
            Some((&"v2", [])) => Ok(Self::Valid(ApiPath {
                form: PathForm::TrailingSlash,
                ..ApiPath::canonical(None, Resource::Base)
            })),
            Some((&"v2", below)) => Self::parse_segments(below),
            _ => Err(RegistryError::NotFound),
        };
        // A router that decodes an escaped slash before it matches would find another path, so this is an error of its own.
        let parsed = parsed.map_err(|error| match error {
            RegistryError::NotFound if kept.iter().any(|segment| segment.contains('/')) => {
                RegistryError::Path("an escaped slash outside of the repository name")
            }
            error => error,
        });
        match parsed {
            Ok(Self::Valid(path)) if kept.len() < rest.len() => Ok(Self::Valid(ApiPath {
                form: PathForm::EmptySegment,
                ..path
            })),
            parsed => parsed,
        }
    }

    /// Parses the decoded segments below `/v2`.
    fn parse_segments(segments: &[&str]) -> Result<Self, RegistryError> {
        match segments {
            [""] => Ok(Self::Valid(ApiPath::canonical(None, Resource::Base))),
            [name @ .., "blobs", "uploads", ""] => Self::in_repository(name, Resource::UploadStart),
            [canonical @ .., ""] => match Self::parse_canonical(canonical)? {
                // The URL of an upload is opaque and is never written by hand, so no other form of it is accepted.
                Self::Valid(ApiPath {
                    resource: Resource::Upload { .. },
                    ..
                }) => Err(RegistryError::NotFound),
                Self::Valid(path) => Ok(Self::Valid(ApiPath {
                    form: PathForm::TrailingSlash,
                    ..path
                })),
                invalid @ Self::InvalidReference { .. } => Ok(invalid),
            },
            canonical => Self::parse_canonical(canonical),
        }
    }

    /// Parses a path without a trailing slash. The last segment but one decides, or for an upload the last but two.
    ///
    /// `blobs/uploads` is the start of an upload also without its trailing slash: `uploads` is not a digest, and a redirect to
    /// the path with the slash would turn the POST into a GET.
    fn parse_canonical(segments: &[&str]) -> Result<Self, RegistryError> {
        match segments {
            ["_catalog"] => Ok(Self::Valid(ApiPath::canonical(None, Resource::Catalog))),
            [name @ .., "manifests", reference] => match parse_manifest(reference) {
                Ok(resource) => Self::in_repository(name, resource),
                Err(error) => Ok(Self::InvalidReference {
                    repository: join_name(name)?,
                    error,
                }),
            },
            [name @ .., "tags", "list"] => Self::in_repository(name, Resource::Tags),
            [name @ .., "blobs", "uploads", id] => Self::in_repository(name, parse_upload(id)?),
            [name @ .., "blobs", "uploads"] => Self::in_repository(name, Resource::UploadStart),
            [name @ .., "blobs", digest] => Self::in_repository(
                name,
                Resource::Blob {
                    digest: parse_digest(digest)?,
                },
            ),
            [name @ .., "referrers", digest] => Self::in_repository(
                name,
                Resource::Referrers {
                    digest: parse_digest(digest)?,
                },
            ),
            _ => Err(RegistryError::NotFound),
        }
    }

    fn in_repository(name: &[&str], resource: Resource) -> Result<Self, RegistryError> {
        Ok(Self::Valid(ApiPath::canonical(
            Some(join_name(name)?),
            resource,
        )))
    }
}

impl ApiPath {
    /// Creates a path in its canonical form.
    fn canonical(repository: Option<String>, resource: Resource) -> Self {
        Self {
            repository,
            resource,
            form: PathForm::Canonical,
        }
    }
}

/// Joins decoded segments to a repository name. A slash within a segment is a slash of the name.
fn join_name(segments: &[&str]) -> Result<String, RegistryError> {
    let name = segments.join("/");
    check_name(&name)?;
    Ok(name)
}

impl Resource {
    /// The canonical path. The grammar allows only characters that need no escape in a path.
    pub(super) fn path(&self, repository: Option<&str>) -> String {
        let name = repository.unwrap_or_default();
        match self {
            Self::Base => "/v2/".to_owned(),
            Self::Catalog => "/v2/_catalog".to_owned(),
            Self::Manifest { reference } => format!("/v2/{name}/manifests/{}", reference.as_str()),
            Self::Tags => format!("/v2/{name}/tags/list"),
            Self::Blob { digest } => format!("/v2/{name}/blobs/{digest}"),
            Self::UploadStart => format!("/v2/{name}/blobs/uploads/"),
            Self::Upload { id } => format!("/v2/{name}/blobs/uploads/{id}"),
            Self::Referrers { digest } => format!("/v2/{name}/referrers/{digest}"),
        }
    }
}

impl Reference {
    /// The reference as it is in the path.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Tag(text) | Self::Digest(text) => text,
        }
    }
}

/// Decodes the escapes of one segment, once. An unnecessary escape (RFC 3986 section 6.2.2.2), such as `%2D`, is the character
/// that it represents. An error is everything that two parsers may read differently: an escaped percent sign, which may be
/// decoded twice, an escaped backslash, semicolon or control byte, any byte beyond ASCII, and a dot segment.
fn decode_segment(raw: &str) -> Result<Cow<'_, str>, RegistryError> {
    let is_allowed = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'%' | b';');
    // Nearly every segment is plain, and needs no copy.
    let segment = if raw.contains('%') {
        let decoded = decode(raw, is_allowed).map_err(|error| {
            RegistryError::Path(match error {
                DecodeError::Malformed => "a malformed escape",
                DecodeError::Forbidden => "an escape of a character that is not allowed",
            })
        })?;
        let text = String::from_utf8(decoded).map_err(|_| RegistryError::Path("not ASCII"))?;
        Cow::Owned(text)
    } else {
        Cow::Borrowed(raw)
    };
    if segment.split('/').any(|part| matches!(part, "." | "..")) {
        return Err(RegistryError::Path("a dot segment"));
    }
    Ok(segment)
}

/// Checks a raw path or query for bytes that must be escaped.
pub(super) fn check_bytes(raw: &str) -> Result<(), &'static str> {
    let is_plain = raw
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'#' | b'\\'));
    if is_plain {
        Ok(())
    } else {
        Err("a character that must be escaped")
    }
}

fn parse_manifest(text: &str) -> Result<Resource, RegistryError> {
    let reference = if text.contains(':') {
        Reference::Digest(parse_digest(text)?)
    } else if is_tag(text) {
        Reference::Tag(text.to_owned())
    } else {
        return Err(RegistryError::Tag);
    };
    Ok(Resource::Manifest { reference })
}

fn parse_digest(text: &str) -> Result<String, RegistryError> {
    if is_digest(text) {
        Ok(text.to_owned())
    } else {
        Err(RegistryError::Digest)
    }
}

/// There is no error code for a malformed upload id, so such an upload does not exist.
fn parse_upload(id: &str) -> Result<Resource, RegistryError> {
    if is_upload_id(id) {
        Ok(Resource::Upload { id: id.to_owned() })
    } else {
        Err(RegistryError::NotFound)
    }
}

/// Whether `text` is a repository name: components joined by `/`, with at most 255 bytes in total.
pub fn is_name(text: &str) -> bool {
    check_name(text).is_ok()
}

/// Checks a repository name, and returns the reason if it is invalid.
pub(super) fn check_name(text: &str) -> Result<(), RegistryError> {
    if text.len() > MAX_NAME {
        return Err(RegistryError::Name("longer than 255 bytes"));
    }
    if !text.split('/').all(is_component) {
        return Err(RegistryError::Name(
            "components are lower case letters and digits, separated by one '.', '_' or '__' or by '-'",
        ));
    }
    Ok(())
}

/// Whether `text` matches `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`. Splitting at each letter or digit leaves the separators.
fn is_component(text: &str) -> bool {
    let is_separator =
        |part: &str| matches!(part, "" | "." | "_" | "__") || part.bytes().all(|byte| byte == b'-');
    text.starts_with(is_lower) && text.ends_with(is_lower) && text.split(is_lower).all(is_separator)
}

fn is_lower(letter: char) -> bool {
    letter.is_ascii_lowercase() || letter.is_ascii_digit()
}

/// Whether `text` matches `[A-Za-z0-9_][A-Za-z0-9._-]{0,127}`.
pub(super) fn is_tag(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    !text.is_empty()
        && text.len() <= MAX_TAG
        && !text.starts_with(['.', '-'])
        && text.bytes().all(is_inner)
}

/// Whether `text` is `algorithm:encoded`. The registered algorithms (OCI image specification, descriptor.md) must have their
/// exact length.
pub(super) fn is_digest(text: &str) -> bool {
    match text.split_once(':') {
        Some(("sha256", encoded)) => encoded.len() == 64 && encoded.bytes().all(is_lower_hex),
        Some(("sha512", encoded)) => encoded.len() == 128 && encoded.bytes().all(is_lower_hex),
        Some((algorithm, encoded)) => is_algorithm(algorithm) && is_encoded(encoded),
        None => false,
    }
}

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// Whether `text` matches `[a-z0-9]+([.+_-][a-z0-9]+)*`.
fn is_algorithm(text: &str) -> bool {
    text.split(['.', '+', '_', '-'])
        .all(|part| !part.is_empty() && part.chars().all(is_lower))
}

/// Whether `text` matches `[A-Za-z0-9=_-]+`.
fn is_encoded(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'=' | b'_' | b'-');
    !text.is_empty() && text.bytes().all(is_inner)
}

/// Whether `text` matches `[A-Za-z0-9_.=-]+`. The upstream chooses the id, which is not always a UUID.
pub(super) fn is_upload_id(text: &str) -> bool {
    let is_inner =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'=' | b'-');
    !text.is_empty() && text.bytes().all(is_inner)
}

/// The maximum length of a repository name in bytes, including the slashes, so that its path on the disk of the registry fits.
const MAX_NAME: usize = 255;
/// The maximum length of a tag in bytes.
const MAX_TAG: usize = 128;
