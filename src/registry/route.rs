//! From a raw path to the resource it names, and back.
//!
//! `operation` calls it. Knows neither methods nor queries.
//!
//! Names may contain every word of the API: `a/manifests` and `a/blobs/uploads` are repositories. Only a reading from
//! the right finds the name that the router of `distribution` finds.

use super::Invalid;
use super::grammar::{check_name, is_digest, is_tag, is_upload_id};
use crate::percent::{Fault, decode};

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
    /// Whether the path is the API's own form, without a trailing slash too many or, in `/v2`, too few.
    pub(super) is_plain: bool,
}

impl Route {
    /// Reads the path as sent, with its escapes.
    pub(super) fn parse(raw_path: &str) -> Result<Self, Invalid> {
        let path = decode_path(raw_path)?;
        check_segments(&path)?;
        match path.strip_prefix("/v2") {
            Some("") => Ok(Self {
                repository: None,
                resource: Resource::Base,
                is_plain: false,
            }),
            Some(rest) => {
                let rest = rest.strip_prefix('/').ok_or(Invalid::NotFound)?;
                Self::read(&rest.split('/').collect::<Vec<_>>())
            }
            None => Err(Invalid::NotFound),
        }
    }

    fn read(segments: &[&str]) -> Result<Self, Invalid> {
        match segments {
            [""] => Ok(Self {
                repository: None,
                resource: Resource::Base,
                is_plain: true,
            }),
            [name @ .., "blobs", "uploads", ""] => Self::within(name, Resource::UploadStart),
            [plain @ .., ""] => {
                let route = Self::read_plain(plain)?;
                // An upload's URL is opaque and never written by hand: no second spelling of it.
                let has_alias = !matches!(route.resource, Resource::Upload { .. });
                if has_alias {
                    Ok(Self {
                        is_plain: false,
                        ..route
                    })
                } else {
                    Err(Invalid::NotFound)
                }
            }
            plain => Self::read_plain(plain),
        }
    }

    /// The last segment but one decides; only for an upload the last but two. The start of an upload comes before
    /// blobs: `uploads` is no digest, and its slash cannot be asked for by a redirect, which makes a GET of a POST.
    fn read_plain(segments: &[&str]) -> Result<Self, Invalid> {
        match segments {
            ["_catalog"] => Ok(Self {
                repository: None,
                resource: Resource::Catalog,
                is_plain: true,
            }),
            [name @ .., "manifests", reference] => Self::within(name, manifest(reference)?),
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
            _ => Err(Invalid::NotFound),
        }
    }

    fn within(name: &[&str], resource: Resource) -> Result<Self, Invalid> {
        let name = name.join("/");
        check_name(&name)?;
        Ok(Self {
            repository: Some(name),
            resource,
            is_plain: true,
        })
    }
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

/// Refuses what any two parsers might disagree about: an escaped slash or percent sign, control bytes, non-ASCII.
fn decode_path(raw: &str) -> Result<String, Invalid> {
    check_bytes(raw).map_err(Invalid::Path)?;
    let admits = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'\\' | b'%' | b';');
    let decoded = decode(raw, admits).map_err(|fault| {
        Invalid::Path(match fault {
            Fault::Malformed => "a malformed escape",
            Fault::Refused => "an escape of a character that must not be there",
        })
    })?;
    String::from_utf8(decoded).map_err(|_| Invalid::Path("not ASCII"))
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

/// `distribution` answers both with a redirect to the cleaned path; nothing is cleaned here, so that no two cleanings
/// can differ.
fn check_segments(path: &str) -> Result<(), Invalid> {
    if path.contains("//") {
        return Err(Invalid::Path("an empty segment"));
    }
    if path.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err(Invalid::Path("a dot segment"));
    }
    Ok(())
}

fn manifest(text: &str) -> Result<Resource, Invalid> {
    let reference = if text.contains(':') {
        Reference::Digest(checked_digest(text)?)
    } else if is_tag(text) {
        Reference::Tag(text.to_owned())
    } else {
        return Err(Invalid::Tag);
    };
    Ok(Resource::Manifest { reference })
}

fn checked_digest(text: &str) -> Result<String, Invalid> {
    if is_digest(text) {
        Ok(text.to_owned())
    } else {
        Err(Invalid::Digest)
    }
}

/// No error code says that an upload's id is badly formed: such an upload does not exist.
fn upload(id: &str) -> Result<Resource, Invalid> {
    if is_upload_id(id) {
        Ok(Resource::Upload { id: id.to_owned() })
    } else {
        Err(Invalid::NotFound)
    }
}
