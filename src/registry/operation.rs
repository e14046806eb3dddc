//! An operation: what a request asks of the registry, and the canonical target for the upstream.
//!
//! `service` parses operations, `access` permits them, and `forward` sends [`Operation::target`]. This module does not read
//! header fields or bodies; the caller ensures that no form is sent to an upload (see [`Operation::is_upload`]).

use std::fmt;

use http::Method;

use super::errors::RegistryError;
use super::path::{ApiPath, ParsedPath, PathForm, Reference, Resource};
use super::query::{Key, Query, QueryRules};

/// The kind of an operation, which grants, logs and token scopes name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// A request for `/v2/`, by which clients check whether there is a registry and whether they are logged in.
    Ping,
    /// Reading manifests, blobs, tags and referrers.
    Pull,
    /// Writing, and every request on an upload session, also reading and cancelling it, because a session belongs to its writer.
    Push,
    /// Deleting a manifest or a blob.
    Delete,
    /// Listing the repositories.
    Catalog,
}

impl Action {
    /// `ping`, `pull`, `push`, `delete` or `catalog`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
            Self::Catalog => "catalog",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A well-formed request of the registry API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    action: Action,
    repository: Option<String>,
    resource: Resource,
    query: Query,
}

/// The result of parsing a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// An operation, which may be forwarded once it is permitted.
    Operation(Operation),
    /// A GET or HEAD whose path has an additional trailing slash, or no trailing slash for `/v2`, or two slashes in a row. Once
    /// the operation is permitted, the response is a 301.
    Redirect {
        /// The operation that must be permitted.
        operation: Operation,
        /// The canonical path, which begins with `/v2/`, and the query as the client sent it.
        location: String,
    },
    /// A GET or HEAD of something that cannot exist in a repository. Once the operation is permitted, the response is the error
    /// `invalid`.
    Missing {
        /// A read of that repository, which must be permitted. It represents the request and is never sent.
        operation: Operation,
        /// The error for a client that may read the repository.
        invalid: RegistryError,
    },
}

/// A blob to be mounted from another repository instead of being uploaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mount<'a> {
    /// The digest of the blob.
    pub digest: &'a str,
    /// The source repository. Without it, the registry chooses one or starts a plain upload.
    pub from: Option<&'a str>,
}

impl Operation {
    /// Parses a request line. `raw_path` and `query` are as the client sent them; `query` has no `?`.
    ///
    /// The path is checked before the method, and the method before the query. OPTIONS needs the same rights as a GET of the
    /// same path. Methods are case-sensitive.
    ///
    /// A read of a manifest by an invalid reference is [`Parsed::Missing`]. An invalid digest of a blob is an error, because
    /// its message helps more than a 404. So is an invalid digest of referrers, for which the specification demands 400.
    pub fn parse(
        method: &Method,
        raw_path: &str,
        query: Option<&str>,
    ) -> Result<Parsed, RegistryError> {
        let is_read = matches!(*method, Method::GET | Method::HEAD);
        let path = match ParsedPath::parse(raw_path)? {
            ParsedPath::Valid(path) => path,
            ParsedPath::InvalidReference { repository, .. } if is_read => {
                return Ok(Parsed::Missing {
                    operation: Self::read_of(repository),
                    invalid: RegistryError::UnknownManifest,
                });
            }
            ParsedPath::InvalidReference { error, .. } => return Err(error),
        };
        match path.form {
            PathForm::Canonical => {
                let action = required_action(&path.resource, method)?;
                return Self::build(method, path, action, query).map(Parsed::Operation);
            }
            PathForm::EmptySegment if !is_read || is_upload(&path.resource) => {
                return Err(RegistryError::Path(
                    "an empty segment: there are two slashes in a row, write one",
                ));
            }
            PathForm::TrailingSlash if !is_read => return Err(RegistryError::NotFound),
            PathForm::EmptySegment | PathForm::TrailingSlash => {}
        }
        let action = required_action(&path.resource, &Method::GET)?;
        let operation = Self::build(method, path, action, query)?;
        let location = operation.canonical_location(query);
        Ok(Parsed::Redirect {
            operation,
            location,
        })
    }

    fn build(
        method: &Method,
        path: ApiPath,
        action: Action,
        query: Option<&str>,
    ) -> Result<Self, RegistryError> {
        let query = Query::parse(query, query_rules(method, &path.resource))?;
        Ok(Self {
            action,
            repository: path.repository,
            resource: path.resource,
            query,
        })
    }

    /// A read of a repository that is not of a particular resource.
    fn read_of(repository: String) -> Self {
        Self {
            action: Action::Pull,
            repository: Some(repository),
            resource: Resource::Tags,
            query: Query::default(),
        }
    }

    /// The action that a grant must allow.
    pub fn action(&self) -> Action {
        self.action
    }

    /// The repository. `None` for ping and catalog.
    pub fn repository(&self) -> Option<&str> {
        self.repository.as_deref()
    }

    /// The resource named by the path.
    pub fn resource(&self) -> &Resource {
        &self.resource
    }

    /// The request target for the upstream, path and query, rebuilt from the parsed parts. So the upstream cannot read the
    /// request differently than this proxy has.
    pub fn target(&self) -> String {
        let mut target = self.resource.path(self.repository());
        self.query.write_to(&mut target);
        target
    }

    /// The requested mount, if any. It needs the right to pull from its source, because the blob becomes readable in this
    /// repository.
    pub fn mount(&self) -> Option<Mount<'_>> {
        let digest = self.query.first(Key::Mount)?;
        Some(Mount {
            digest,
            from: self.query.first(Key::From),
        })
    }

    /// The upload without its mount. A registry that does not mount a blob starts a plain upload too, so clients expect it.
    #[must_use]
    pub fn without_mount(mut self) -> Self {
        self.query.remove(&[Key::Mount, Key::From]);
        self
    }

    /// The same list at another position: `size` entries, or as many as the upstream chooses, after `last`.
    #[must_use]
    pub fn at_page(mut self, size: Option<usize>, last: Option<&str>) -> Self {
        // The registry's own parameters name the client's position in the list.
        self.query.remove_vendor_keys();
        self.query.set(Key::N, size.map(|size| size.to_string()));
        self.query.set(Key::Last, last.map(str::to_owned));
        self
    }

    /// Whether the request belongs to an upload. The upstream would read a form in its body as parameters, so the caller rejects
    /// forms and sends `application/octet-stream`, whatever content type the client sent.
    pub fn is_upload(&self) -> bool {
        is_upload(&self.resource)
    }

    /// The repository, if the request belongs to a push. Such requests should reach the same endpoint: one instance of a registry
    /// may know an upload session, or the blobs of a manifest, before other instances do.
    pub fn upload(&self) -> Option<&str> {
        self.repository().filter(|_| self.action == Action::Push)
    }

    /// The parameter `n`, the number of entries that the client wants, as the client wrote it.
    pub fn page_size(&self) -> Option<&str> {
        self.query.first(Key::N)
    }

    /// The parameter `last`, the entry after which the list continues.
    pub fn last(&self) -> Option<&str> {
        self.query.first(Key::Last)
    }

    /// The location of a redirect to the canonical path. It keeps the query of the client, which may have parameters that only
    /// the client needs.
    fn canonical_location(&self, query: Option<&str>) -> String {
        let mut location = self.resource.path(self.repository());
        if let Some(query) = query.filter(|query| !query.is_empty()) {
            location.push('?');
            location.push_str(query);
        }
        location
    }
}

fn is_upload(resource: &Resource) -> bool {
    matches!(resource, Resource::UploadStart | Resource::Upload { .. })
}

/// Which parameters a request may have.
fn query_rules(method: &Method, resource: &Resource) -> QueryRules {
    match resource {
        Resource::UploadStart if method == Method::POST => QueryRules::StartsUpload,
        Resource::Upload { .. } => QueryRules::ContinuesUpload,
        Resource::Manifest { reference } if method == Method::PUT => match reference {
            Reference::Digest(_) => QueryRules::PushesByDigest,
            Reference::Tag(_) => QueryRules::PushesByTag,
        },
        Resource::Catalog | Resource::Tags | Resource::Referrers { .. } => QueryRules::Lists,
        _ => QueryRules::Other,
    }
}

/// The action of a method on a resource.
///
/// # Errors
/// [`RegistryError::Method`] if the resource does not have the method.
fn required_action(resource: &Resource, method: &Method) -> Result<Action, RegistryError> {
    let allow = allowed(resource);
    if !allow.split(", ").any(|known| known == method.as_str()) {
        return Err(RegistryError::Method { allow });
    }
    Ok(match resource {
        Resource::Base => Action::Ping,
        Resource::Catalog => Action::Catalog,
        // Reading the state of an upload and cancelling it are part of a push, because a session belongs to its writer.
        Resource::UploadStart | Resource::Upload { .. } => Action::Push,
        _ if method == Method::PUT => Action::Push,
        _ if method == Method::DELETE => Action::Delete,
        _ => Action::Pull,
    })
}

/// The value of the Allow field. `distribution` responds to HEAD of a list with 405, and to any method on `/v2/` with 200.
fn allowed(resource: &Resource) -> &'static str {
    match resource {
        Resource::Base => "GET, HEAD, OPTIONS",
        Resource::Catalog | Resource::Tags | Resource::Referrers { .. } => "GET, OPTIONS",
        Resource::Manifest { .. } => "GET, HEAD, OPTIONS, PUT, DELETE",
        Resource::Blob { .. } => "GET, HEAD, OPTIONS, DELETE",
        Resource::UploadStart => "OPTIONS, POST",
        Resource::Upload { .. } => "GET, HEAD, OPTIONS, POST, PUT, PATCH, DELETE",
    }
}
