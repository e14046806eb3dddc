//! Password files in the format of Apache's `htpasswd`: parsing, verifying, reloading and editing them.
//!
//! `snapshot` loads a file as [`LiveUsers`], and `server` polls the file for changes. `auth` calls [`Users::find`] and
//! [`Entry::verify`]. The command `tidegate htpasswd` edits files with [`edit`], [`generate`] and [`store`]. This module does
//! not count guesses, cache logins or start threads: one verification may take seconds, and the caller decides where it
//! runs.

pub mod edit;
pub mod generate;
mod hash;
mod live;
mod parse;
mod problem;
pub mod store;
mod users;

pub use hash::{MAX_COST, Scheme, UnusableHash};
pub use live::{Change, Event, LiveUsers, LoadError, MAX_FILE, load};
pub use parse::{LineInfo, LoadedUsers, list, parse};
pub use problem::{
    BadLine, LineWarning, MAX_LISTED, Problem, ProblemKind, Severity, add_command, is_invisible,
    shell_word,
};
pub use users::{Entry, MAX_PASSWORD, UnevenTimes, Users};

#[cfg(test)]
mod tests;
