//! From a raw path to the resource it names, and back.
//!
//! `operation` calls [`Located::parse`]. This module knows neither methods nor queries.
//!
//! Names may contain every word of the API: `a/manifests` and `a/blobs/uploads` are repositories. Only a reading from
//! the right finds the name that the router of `distribution` finds.

use super::RegistryError;
use super::grammar::{check_name, is_digest, is_tag, is_upload_id};
use crate::percent::{DecodeError, decode};

/// What a path names, inside its repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// `/v2/`
    Base,
    /// `/v2/_catalog`
    Catalog,
    /// `…/manifests/<reference>`
    Manifest {
        /// Which one.
        reference: Reference,
    },
    /// `…/tags/list`
    Tags,
    /// `…/blobs/<digest>`
    Blob {
        /// Which one.
        digest: String,
    },
    /// `…/blobs/uploads/`
    UploadStart,
    /// `…/blobs/uploads/<id>`
    Upload {
        /// The upstream's name of the session.
        id: String,
    },
    /// `…/referrers/<digest>`
    Referrers {
        /// The manifest referred to.
        digest: String,
    },
}

/// How a manifest is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// `latest`
    Tag(String),
    /// `sha256:…`
    Digest(String),
}

/// A path taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) repository: Option<String>,
    pub(super) resource: Resource,
    pub(super) spelling: Spelling,
}

/// How a path is written, beside what it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// The API's own form.
    Plain,
    /// With a slash too many at the end or, for `/v2`, too few.
    OtherEnd,
    /// With two slashes in a row, as in `//v2/`.
    EmptySegment,
}

/// What a path turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Located {
    /// A route of the API.
    At(Route),
    /// A manifest of this repository, by a reference that is neither a tag nor a digest.
    BadReference {
        repository: String,
        /// Which of the two it looks like.
        fault: RegistryError,
    },
}

impl Located {
    /// Reads the path as sent, with its escapes.
    ///
    /// Segments are separated at the slashes that are written plainly, and decoded once. So a slash within a segment
    /// comes from `%2F`: it separates the components of a repository name, as it does for `distribution` behind nginx, and
    /// is refused everywhere else. Two slashes in a row are one, as they are to `distribution`.
    pub(super) fn parse(raw_path: &str) -> Result<Self, RegistryError> {
        check_bytes(raw_path).map_err(RegistryError::Path)?;
        let segments: Result<Vec<_>, _> = raw_path.split('/').map(decode_segment).collect();
        let segments = segments?;
        let Some(("", rest)) = segments
            .split_first()
            .map(|(first, rest)| (first.as_str(), rest))
        else {
            return Err(RegistryError::NotFound);
        };
        let last = rest.len().saturating_sub(1);
        let kept: Vec<_> = rest
            .iter()
            .enumerate()
            .filter(|(at, segment)| *at == last || !segment.is_empty())
            .map(|(_, segment)| segment.as_str())
            .collect();
        let located = match kept.split_first() {
            Some((&"v2", [])) => Ok(Self::At(Route {
                spelling: Spelling::OtherEnd,
                ..Route::plain(None, Resource::Base)
            })),
            Some((&"v2", below)) => Self::read(below),
            _ => Err(RegistryError::NotFound),
        };
        // An escaped slash must not make a path another one to a router that decodes it before it looks.
        let located = located.map_err(|fault| match fault {
            RegistryError::NotFound if kept.iter().any(|segment| segment.contains('/')) => {
                RegistryError::Path("an escaped slash outside of the repository name")
            }
            fault => fault,
        });
        match located {
            Ok(Self::At(route)) if kept.len() < rest.len() => Ok(Self::At(Route {
                spelling: Spelling::EmptySegment,
                ..route
            })),
            located => located,
        }
    }

    fn read(segments: &[&str]) -> Result<Self, RegistryError> {
        match segments {
            [""] => Ok(Self::At(Route::plain(None, Resource::Base))),
            [name @ .., "blobs", "uploads", ""] => Self::within(name, Resource::UploadStart),
            [plain @ .., ""] => match Self::read_plain(plain)? {
                // An upload's URL is opaque and never written by hand: no second spelling of it.
                Self::At(Route {
                    resource: Resource::Upload { .. },
                    ..
                }) => Err(RegistryError::NotFound),
                Self::At(route) => Ok(Self::At(Route {
                    spelling: Spelling::OtherEnd,
                    ..route
                })),
                bad @ Self::BadReference { .. } => Ok(bad),
            },
            plain => Self::read_plain(plain),
        }
    }

    /// The last segment but one decides; only for an upload the last but two. The start of an upload comes before
    /// blobs: `uploads` is no digest, and its slash cannot be asked for by a redirect, which makes a GET of a POST.
    fn read_plain(segments: &[&str]) -> Result<Self, RegistryError> {
        match segments {
            ["_catalog"] => Ok(Self::At(Route::plain(None, Resource::Catalog))),
            [name @ .., "manifests", reference] => match manifest(reference) {
                Ok(resource) => Self::within(name, resource),
                Err(fault) => Ok(Self::BadReference {
                    repository: joined(name)?,
                    fault,
                }),
            },
            [name @ .., "tags", "list"] => Self::within(name, Resource::Tags),
            [name @ .., "blobs", "uploads", id] => Self::within(name, upload(id)?),
            [name @ .., "blobs", "uploads"] => Self::within(name, Resource::UploadStart),
            [name @ .., "blobs", digest] => Self::within(
                name,
                Resource::Blob {
                    digest: checked_digest(digest)?,
                },
            ),
            [name @ .., "referrers", digest] => Self::within(
                name,
                Resource::Referrers {
                    digest: checked_digest(digest)?,
                },
            ),
            _ => Err(RegistryError::NotFound),
        }
    }

    fn within(name: &[&str], resource: Resource) -> Result<Self, RegistryError> {
        Ok(Self::At(Route::plain(Some(joined(name)?), resource)))
    }
}

impl Route {
    fn plain(repository: Option<String>, resource: Resource) -> Self {
        Self {
            repository,
            resource,
            spelling: Spelling::Plain,
        }
    }
}

/// A repository name of decoded segments: a slash within one of them is a slash of the name.
fn joined(segments: &[&str]) -> Result<String, RegistryError> {
    let name = segments.join("/");
    check_name(&name)?;
    Ok(name)
}

impl Resource {
    /// The canonical path. All terminals of the grammar are characters that a path carries without escapes.
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
    /// As it stands in the path.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Tag(text) | Self::Digest(text) => text,
        }
    }
}

/// Decodes the escapes of one segment, once. An escape that RFC 3986 section 6.2.2.2 calls needless, such as `%2D`, is the
/// character that it stands for. Refused is what two parsers might disagree about: an escaped percent sign, which would
/// be decoded twice, an escaped backslash, semicolon or control byte, anything beyond ASCII, and a dot segment.
fn decode_segment(raw: &str) -> Result<String, RegistryError> {
    let admits = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'%' | b';');
    let decoded = decode(raw, admits).map_err(|fault| {
        RegistryError::Path(match fault {
            DecodeError::Malformed => "a malformed escape",
            DecodeError::Forbidden => "an escape of a character that must not be there",
        })
    })?;
    let segment = String::from_utf8(decoded).map_err(|_| RegistryError::Path("not ASCII"))?;
    if segment.split('/').any(|part| matches!(part, "." | "..")) {
        return Err(RegistryError::Path("a dot segment"));
    }
    Ok(segment)
}

/// What neither path nor query of a registry request may contain unescaped.
pub(super) fn check_bytes(raw: &str) -> Result<(), &'static str> {
    let is_plain = raw
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'#' | b'\\'));
    if is_plain {
        Ok(())
    } else {
        Err("a character that must not be there unescaped")
    }
}

fn manifest(text: &str) -> Result<Resource, RegistryError> {
    let reference = if text.contains(':') {
        Reference::Digest(checked_digest(text)?)
    } else if is_tag(text) {
        Reference::Tag(text.to_owned())
    } else {
        return Err(RegistryError::Tag);
    };
    Ok(Resource::Manifest { reference })
}

fn checked_digest(text: &str) -> Result<String, RegistryError> {
    if is_digest(text) {
        Ok(text.to_owned())
    } else {
        Err(RegistryError::Digest)
    }
}

/// No error code says that an upload's id is badly formed: such an upload does not exist.
fn upload(id: &str) -> Result<Resource, RegistryError> {
    if is_upload_id(id) {
        Ok(Resource::Upload { id: id.to_owned() })
    } else {
        Err(RegistryError::NotFound)
    }
}
