//! tidegate: a reverse proxy in front of a container registry.
//!
//! The program is [`cli`]. The public API of this crate is for its tests and its demo, and promises nothing to other users.
//!
//! `ARCHITECTURE.md` has the path of a request, the words and the module levels, and `docs/decisions.md` the decisions that
//! span modules. Read [`service`] first: it has the whole life of a request. The modules below are in the order of their
//! levels; a module imports only modules that stand before it.

// Level 0: basics. The blank lines keep rustfmt from sorting a module before those that it imports.
mod bounded_file;
mod buffer_pool;
mod percent;
pub mod secret;
mod stable_hash;
mod state_file;
pub mod template;
mod text;

pub mod log;
pub mod metrics;

pub mod net;

pub mod activity;
pub mod body;
mod file_watch;

// Level 1: parts that do not know each other.
pub mod forwarded;
pub mod htpasswd;
pub mod registry;
pub mod target;
pub mod tls;
pub mod upstream;
pub mod www_authenticate;

// Level 2: identity, and the connection of a client.
pub mod acme;
pub mod auth;
pub mod connection;

// Level 3: rights.
pub mod access;

// Level 4: forwarding to the upstream.
pub mod forward;

// Level 5: what surrounds a request.
pub mod access_log;
pub mod rejection;
pub mod site;

// Level 6: the life of a request.
pub mod service;

// Level 7: the configuration file.
pub mod config;

// Level 8: everything that is built from one configuration.
pub mod snapshot;

// Level 9: the state that outlives a snapshot.
pub mod state;

// Level 10: observation, diagnosis and fuzzing.
pub mod admin;
pub mod check;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;

// Level 11: the running process.
pub mod server;

// Level 12: the importer.
pub mod import;

// Level 13: the command line.
pub mod cli;
