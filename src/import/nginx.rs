//! A proxy.toml out of the files of an nginx that stands before a registry.
//!
//! Called by `cli` for `tidegate import nginx`. `lex` and `tree` read nginx's syntax, `include` puts the files
//! together, `translate` makes a `draft` of the parts that `site`, `routes` and their neighbours understand, and
//! `write` prints it with the `remarks`. Of the files that a configuration names (certificates, passwords) none is
//! opened. A directive that restricts access and has no counterpart closes its route. It is not proved that this finds every
//! restriction, so the file asks the operator to review each route.

use std::path::{Path, PathBuf};

use crate::config::problem::{Position, quote};

mod access;
mod condition;
mod draft;
mod fallen;
mod files;
mod glob;
mod headers;
mod hosts;
mod include;
mod lex;
mod listen;
mod location;
mod networks;
mod path;
mod process;
mod remarks;
mod route;
mod routes;
mod scope;
mod site;
mod translate;
mod tree;
mod units;
mod upstream;
mod write;

pub use files::{FileSource, FsSource};

/// What came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// The text of a proxy.toml.
    pub toml: String,
    /// What needs a look, each with its file and line, in the order of the files.
    pub warnings: Vec<String>,
    /// How many directives fell away without one.
    pub fallen: usize,
}

/// Why nothing came out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A file that is named on the command line, or a folder below which files are included.
    #[error("{file}: cannot be read: {why}\n    fix: {remedy}")]
    Unreadable {
        /// Which.
        file: String,
        /// The system's words.
        why: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The text is not nginx's.
    #[error("{file}:{place}: {what}\n    fix: {remedy}")]
    Syntax {
        /// Which file.
        file: String,
        /// Where in it.
        place: Position,
        /// What is wrong.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// No server block could be taken over.
    #[error("{what}\n    fix: {remedy}")]
    Nothing {
        /// Why there is none.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
}

/// Reads the files, with all that they include, as one configuration. Relative paths are relative to `prefix`.
///
/// # Errors
///
/// A file that is named cannot be read, the syntax is wrong, or nothing in it can be taken over.
pub fn import(files: &dyn FileSource, names: &[PathBuf], prefix: &Path) -> Result<Import, Error> {
    let input = include::read(files, names, prefix)?;
    let (draft, remarks) = translate::translate(&input, prefix)?;
    Ok(Import {
        toml: write::write(&draft, &remarks, &input.names),
        warnings: remarks.warnings(&input.names),
        fallen: remarks.count(),
    })
}

/// A name as it is written in messages.
fn shown(path: &Path) -> String {
    let text = path.to_string_lossy();
    let is_plain = |c: char| !c.is_control() && !c.is_whitespace();
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.into_owned();
    }
    quote(&text)
}

#[cfg(test)]
mod tests;
