//! The grammar of the registry API (OCI distribution specification 1.1): what a request asks for, of which repository, and
//! the canonical form of it.
//!
//! `service` parses every request of a registry route with [`Operation::parse`]. `access` decides whether the operation is
//! permitted, and `forward` sends [`Operation::target`], which is built from the parsed parts alone. `rejection` writes the
//! error bodies of [`errors`]. A [`Scope`] is the part of a token that names repositories; [`catalog`] is the list of
//! repositories. This module does no input or output, and knows no identities, grants or upstreams.

pub mod catalog;
pub mod errors;
mod operation;
mod path;
mod query;
mod scope;

pub use errors::RegistryError;
pub use operation::{Action, Mount, Operation, Parsed};
pub use path::{Reference, Resource, is_name, is_registry_path};
pub use scope::Scope;

#[cfg(test)]
mod tests;
