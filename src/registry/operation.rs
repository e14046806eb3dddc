//! An operation: what one request asks of the registry, and the one way to say it to the upstream.
//!
//! `service` parses, `access` permits, `forward` sends [`Operation::target`]. Decides nothing about identities, and
//! does not look at headers or bodies; that form bodies never reach an upload is the caller's part.

use http::Method;

use super::query::{Key, Query, Rules};
use super::route::{Located, Reference, Resource, Route, Spelling};
use super::{Action, RegistryError};

/// A request of the registry API, well formed in every part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    action: Action,
    repository: Option<String>,
    resource: Resource,
    query: Query,
}

/// What a request turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// To be permitted and sent on.
    Operation(Operation),
    /// To be permitted and answered with a 301: a GET or HEAD with a slash too many or, for `/v2`, too few; also one with
    /// two slashes in a row.
    Redirect {
        /// What the client means, for the permission.
        operation: Operation,
        /// The canonical path and the query as sent; begins with `/v2/`.
        location: String,
    },
    /// To be permitted and answered with `invalid`: a GET or HEAD of what cannot exist in a repository.
    Missing {
        /// A read of that repository, for the permission. It stands for the request and is never sent.
        operation: Operation,
        /// What the client is told once it is permitted.
        invalid: RegistryError,
    },
}

/// A blob to be taken over from elsewhere instead of being uploaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mount<'a> {
    /// Which blob.
    pub digest: &'a str,
    /// The repository to be read; without it the registry chooses one, or starts a plain upload.
    pub from: Option<&'a str>,
}

impl Operation {
    /// Parses what the head says; `raw_path` and `query` as sent, the query without its `?`.
    ///
    /// The path is judged before the method, the method before the query. OPTIONS is taken for the GET of its route,
    /// with the rights of it; methods are case-sensitive.
    ///
    /// A read of a manifest by an invalid reference is [`Parsed::Missing`]. An invalid digest of a blob is an error: it
    /// tells more than 404. So is one of referrers, for which the specification demands 400.
    pub fn parse(
        method: &Method,
        raw_path: &str,
        query: Option<&str>,
    ) -> Result<Parsed, RegistryError> {
        let is_read = matches!(*method, Method::GET | Method::HEAD);
        let route = match Located::parse(raw_path)? {
            Located::At(route) => route,
            Located::BadReference { repository, .. } if is_read => {
                return Ok(Parsed::Missing {
                    operation: Self::read_of(repository),
                    invalid: RegistryError::UnknownManifest,
                });
            }
            Located::BadReference { fault, .. } => return Err(fault),
        };
        match route.spelling {
            Spelling::Plain => {
                let action = required_actions(&route.resource, method)?;
                return Self::build(method, route, action, query).map(Parsed::Operation);
            }
            Spelling::EmptySegment if !is_read || is_upload(&route.resource) => {
                return Err(RegistryError::Path(
                    "an empty segment: there are two slashes in a row, write one",
                ));
            }
            Spelling::OtherEnd if !is_read => return Err(RegistryError::NotFound),
            Spelling::EmptySegment | Spelling::OtherEnd => {}
        }
        let action = required_actions(&route.resource, &Method::GET)?;
        let operation = Self::build(method, route, action, query)?;
        let location = operation.canonical_method(query);
        Ok(Parsed::Redirect {
            operation,
            location,
        })
    }

    fn build(
        method: &Method,
        route: Route,
        action: Action,
        query: Option<&str>,
    ) -> Result<Self, RegistryError> {
        let query = Query::parse(query, rules(method, &route.resource))?;
        Ok(Self {
            action,
            repository: route.repository,
            resource: route.resource,
            query,
        })
    }

    /// A read of a repository that names nothing in it.
    fn read_of(repository: String) -> Self {
        Self {
            action: Action::Pull,
            repository: Some(repository),
            resource: Resource::Tags,
            query: Query::default(),
        }
    }

    /// What a grant must allow.
    pub fn action(&self) -> Action {
        self.action
    }

    /// The repository asked of; none for ping and catalog.
    pub fn repository(&self) -> Option<&str> {
        self.repository.as_deref()
    }

    /// The resource named by the path.
    pub fn resource(&self) -> &Resource {
        &self.resource
    }

    /// Path and query for the upstream, rebuilt from the parsed parts: two requests the upstream could take for
    /// different ones have different parts here, too.
    pub fn target(&self) -> String {
        let mut target = self.resource.path(self.repository());
        self.query.write_to(&mut target);
        target
    }

    /// The mount asked for. Its `from` demands the right to pull, as the blob becomes readable here.
    pub fn mount(&self) -> Option<Mount<'_>> {
        let digest = self.query.first(Key::Mount)?;
        Some(Mount {
            digest,
            from: self.query.first(Key::From),
        })
    }

    /// The same upload without its mount: the specification's way to say no to one.
    #[must_use]
    pub fn without_mount(mut self) -> Self {
        self.query.remove(&[Key::Mount, Key::From]);
        self
    }

    /// The same list at another place: `size` entries, or as many as the upstream likes, after `last`.
    #[must_use]
    pub fn at_page(mut self, size: Option<usize>, last: Option<&str>) -> Self {
        // They name the client's own place in the list.
        self.query.forget_vendor_keys();
        self.query.set(Key::N, size.map(|size| size.to_string()));
        self.query.set(Key::Last, last.map(str::to_owned));
        self
    }

    /// Whether the upstream would read a form in the body: the caller refuses form bodies here and sends
    /// `application/octet-stream` whatever the client said.
    pub fn is_upload(&self) -> bool {
        is_upload(&self.resource)
    }

    /// The repository, when this belongs to an upload: a registry knows its sessions, and the blobs a manifest names, before
    /// others do.
    pub fn upload(&self) -> Option<&str> {
        self.repository().filter(|_| self.action == Action::Push)
    }

    /// `n`, how many entries of a list are wanted, as the client wrote it.
    pub fn page_size(&self) -> Option<&str> {
        self.query.first(Key::N)
    }

    /// `last`, the entry after which a list goes on.
    pub fn last(&self) -> Option<&str> {
        self.query.first(Key::Last)
    }

    /// The query is the client's own: what the registry does not know may still matter to the one that follows.
    fn canonical_method(&self, query: Option<&str>) -> String {
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

/// Which parameters mean something in a request.
fn rules(method: &Method, resource: &Resource) -> Rules {
    match resource {
        Resource::UploadStart if method == Method::POST => Rules::StartsUpload,
        Resource::Upload { .. } => Rules::ContinuesUpload,
        Resource::Manifest { reference } if method == Method::PUT => match reference {
            Reference::Digest(_) => Rules::PushesByDigest,
            Reference::Tag(_) => Rules::PushesByTag,
        },
        Resource::Catalog | Resource::Tags | Resource::Referrers { .. } => Rules::Lists,
        _ => Rules::Other,
    }
}

/// The action behind a method on a resource, or the methods there are.
fn required_actions(resource: &Resource, method: &Method) -> Result<Action, RegistryError> {
    let allow = allowed(resource);
    if !allow.split(", ").any(|known| known == method.as_str()) {
        return Err(RegistryError::Method { allow });
    }
    Ok(match resource {
        Resource::Base => Action::Ping,
        Resource::Catalog => Action::Catalog,
        // Asking for an upload and cancelling it belong to pushing: a session is its writer's own.
        Resource::UploadStart | Resource::Upload { .. } => Action::Push,
        _ if method == Method::PUT => Action::Push,
        _ if method == Method::DELETE => Action::Delete,
        _ => Action::Pull,
    })
}

/// The Allow value. `distribution` answers HEAD on lists with 405 and any method on `/v2/` with 200.
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
