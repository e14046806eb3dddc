//! The registry API's grammar: what a request asks, of which repository, and how that is said canonically.
//!
//! `service` parses every request of a registry route with [`Operation::parse`]; `access` decides on what it says,
//! `forward` sends [`Operation::target`], which is built from the parsed parts alone, and `refusal` writes
//! [`errors`]. A [`Scope`] is what a token is asked for; [`catalog`] is the list of repositories. Does no input or output
//! and knows no identity, grant or upstream.

use std::fmt;

pub mod catalog;
pub mod errors;
mod grammar;
mod operation;
mod query;
mod route;
mod scope;

pub use grammar::is_name;
pub use operation::{Mount, Operation, Parsed};
pub use route::{Reference, Resource};
pub use scope::Scope;

/// What is asked; the word of grants, logs and token scopes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// `/v2/`: is there a registry, and am I let in?
    Ping,
    /// Reading manifests, blobs, tags and referrers.
    Pull,
    /// Writing, and everything on upload sessions, reading and cancelling included: they are the writer's own.
    Push,
    /// Removing a manifest or a blob.
    Delete,
    /// Listing the repositories.
    Catalog,
}

/// Why a request is no operation of the registry API. The words are for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// The repository, or the one a mount names, and why.
    #[error("invalid repository name: {0}")]
    Name(&'static str),
    /// Neither a tag nor a digest.
    #[error(
        "invalid tag: at most 128 letters, digits, '_', '.' and '-', not starting with '.' or '-'"
    )]
    Tag,
    /// In the path, or as `digest` or `mount`.
    #[error("invalid digest: expected algorithm:value, as in sha256: and 64 lower case hex digits")]
    Digest,
    /// What is wrong with the query.
    #[error("invalid query: {0}")]
    Query(&'static str),
    /// A read of a manifest by a reference that no manifest can have. It is 404, as for any manifest that is not there:
    /// the OCI conformance suite asks for `.INVALID`, and a reader need not know the grammar to hear "not found".
    #[error(
        "manifest unknown: its reference is neither a tag (at most 128 letters, digits, '_', '.' and '-', not starting \
         with '.' or '-') nor a digest (algorithm:value)"
    )]
    UnknownManifest,
    /// More `tag` parameters than one push may have.
    #[error("too many tags for one push: at most {}", query::MAX_TAGS)]
    TooManyTags,
    /// `n` is no number, or one that is too large.
    #[error("invalid number of results requested: at most {}", catalog::MAX_SIZE)]
    PageSize,
    /// What is wrong with the path.
    #[error("invalid path: {0}")]
    Path(&'static str),
    /// No route of the API.
    #[error("the registry API has no such endpoint")]
    NotFound,
    /// The route exists, for the methods of this Allow value.
    #[error("method not allowed here; allowed: {allow}")]
    Method {
        /// The value of the Allow header.
        allow: &'static str,
    },
}

/// Whether the registry API owns this canonical path.
pub fn is_registry_path(canonical_path: &str) -> bool {
    canonical_path
        .strip_prefix("/v2")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
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

#[cfg(test)]
mod tests;
