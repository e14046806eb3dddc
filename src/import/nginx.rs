//! Translates nginx configurations for a registry into a `proxy.toml`.
//!
//! `cli` calls [`import`] for `tidegate import nginx`. The steps, each with its files:
//!
//! 1. Read: `lexer` and `parser` have nginx's syntax, `includes` and `template_files` the files, `scope` the inheritance of directives.
//! 2. Translate by the usual meaning: `importer` the server blocks, `site` one of them, `routes` its locations by means of `access`,
//!    `method_access`, `upstream`, `headers` and `if_blocks`; `main_context` the tables of the whole process, `webroot` the files of ACME
//!    clients. `unsupported` has the reason of each directive that is not translated.
//! 3. Compare: `compare` closes what tidegate (`tidegate_model`) would forward and nginx (`nginx_model`, with `exchange` and
//!    `location_search`) would not, for the requests of `probes`. `stricter` lists the opposite.
//! 4. Write: `output` writes the result with the `remarks`.
//!
//! The importer does not open the files that a configuration names, such as certificates and password files. A directive that restricts
//! access and has no counterpart, or that the importer does not know, closes its route. It is not proved that the importer finds every
//! restriction, so the output asks the operator to review each route.

use std::path::{Path, PathBuf};

mod access;
mod client_rules;
mod compare;
mod context;
mod error;
mod exchange;
mod headers;
mod if_blocks;
mod importer;
mod includes;
mod lexer;
mod listen;
mod location;
mod location_search;
mod main_context;
mod method_access;
pub mod models;
mod nginx_model;
mod output;
mod parser;
mod pattern;
mod placeholders;
mod probes;
mod remarks;
mod request;
mod routes;
mod scope;
mod server_block;
mod server_names;
mod site;
mod stricter;
mod template_files;
mod tidegate_model;
mod units;
mod unsupported;
mod upstream;
mod verdict;
mod webroot;

pub use error::Error;
pub use includes::{FileSource, FsSource};

/// The result of an import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// The text of a `proxy.toml`.
    pub toml: String,
    /// The warnings with their file and line, in the order of the files.
    pub warnings: Vec<String>,
    /// The number of directives without a counterpart.
    pub unsupported: usize,
}

/// Reads the files and all files that they include as one configuration. Relative paths are relative to `prefix`.
///
/// # Errors
///
/// A file that is named cannot be read, the syntax is wrong, or no server block can be translated.
pub fn import(files: &dyn FileSource, names: &[PathBuf], prefix: &Path) -> Result<Import, Error> {
    let input = includes::read(files, names, prefix)?;
    let (output, remarks) = importer::translate(&input, prefix)?;
    Ok(Import {
        toml: output::write(&output, &remarks, &input.names),
        warnings: remarks.warnings(&input.names),
        unsupported: remarks.unsupported_count(),
    })
}

#[cfg(test)]
mod tests;
