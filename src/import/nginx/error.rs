//! Why an import produces no `proxy.toml`.

use crate::config::problem::Position;

/// Why an import produces no `proxy.toml`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A file that the command line names cannot be read.
    #[error("{file}: cannot be read: {why}\n    fix: {remedy}")]
    Unreadable {
        /// The path of the file.
        file: String,
        /// The error of the operating system.
        why: String,
        /// The remedy.
        remedy: &'static str,
    },
    /// The text is not nginx's syntax.
    #[error("{file}:{position}: {what}\n    fix: {remedy}")]
    Syntax {
        /// The path of the file.
        file: String,
        /// The position in the file.
        position: Position,
        /// What is wrong.
        what: String,
        /// The remedy.
        remedy: String,
    },
    /// The file is a template of another program.
    #[error(
        "{file}:{position}: the file is a template: another program replaces {mark} before nginx reads it\n    fix: import the file that nginx reads; nginx -T prints the whole configuration"
    )]
    Template {
        /// The path of the file.
        file: String,
        /// The position in the file.
        position: Position,
        /// What the other program replaces.
        mark: &'static str,
    },
    /// No server block could be translated.
    #[error("{what}\n    fix: {remedy}")]
    NoSite {
        /// The warnings, which have the reason.
        what: String,
        /// The remedy.
        remedy: &'static str,
    },
}
