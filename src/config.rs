//! The configuration: one TOML file, and the files that it includes, which are read once, with all problems in one report.
//!
//! `check`, start and reload call [`load`]. The result is [`Config`], the typed settings of all modules. Apart from `include`,
//! none of the files that the configuration names is opened here: `snapshot` does that.
//!
//! - `document` parses the texts, and knows the position of every value. `include` reads the included files and adds them to it.
//! - `keys` is the table of keys. Each key has a `form`, and `table` reads a TOML table with the keys that it may have. `value`,
//!   `address` and `url` parse strings, in which `variables` has replaced `${NAME}`.
//! - `build` fills the settings of the whole process, and calls `listen`, `acme` and `sites`. A site has `served_on` and
//!   `routes`, and a route has `auth`, `upstreams` and `grants`. `grant_file` reads a file that has grants only, whenever it
//!   changes.
//! - `exposure` warns of what is open to every client, or cannot work.
//! - `problem` is what the user sees, `nearest` finds the key or word that was probably meant, and `reference` compares
//!   `proxy.toml` with the table of keys.

use std::path::Path;

use crate::bounded_file;
use crate::htpasswd::shell_word;

use document::Document;
use problem::{Problem, Problems};

mod acme;
pub(crate) mod address;
mod auth;
mod build;
mod document;
mod exposure;
mod form;
mod grant_file;
mod grants;
mod include;
mod keys;
mod listen;
pub(crate) mod nearest;
pub mod problem;
mod reference;
mod routes;
mod served_on;
mod sites;
mod table;
mod upstreams;
pub(crate) mod url;
mod value;
mod variables;

pub use acme::Acme;
pub use address::AdminSocket;
pub use auth::Auth;
pub use build::{Config, Log, Places};
pub use document::Spanned;
pub use grant_file::GrantFile;
pub use grants::RouteGrants;
pub use keys::key_paths;
pub(crate) use listen::runtime_directory;
pub use listen::{Admin, Listen};
pub use reference::reference_faults;
pub use routes::Route;
pub use sites::{Certificate, ClientAuth, Site};
pub use upstreams::{ClientFiles, Upstream};
pub use value::Secret;
pub(crate) use value::{location as redirect_location, toml_string};

/// Reads a configuration file.
///
/// A config may be returned in spite of errors, so that the files it names can be checked in the same run. It must not be used
/// if the problems have an error.
pub fn load(file: &Path) -> (Option<Config>, Problems) {
    match bounded_file::read(file, MAX_FILE_SIZE) {
        Ok(bytes) => match Document::parse(file, &bytes) {
            Ok(document) => {
                let included = include::read(&document);
                let document = include::merge(document, &included);
                build(document, file)
            }
            Err(problems) => (None, problems),
        },
        Err(error) => {
            let mut problems = Problems::new(file);
            let error = std::io::Error::from(error);
            problems.push(unreadable(file, &error));
            (None, problems)
        }
    }
}

/// The problem of a configuration file that cannot be read.
fn unreadable(file: &Path, error: &std::io::Error) -> Problem {
    if file.is_dir() {
        let usual = file.join("proxy.toml");
        let fix = if usual.is_file() {
            let usual = shell_word(&usual.to_string_lossy());
            format!("did you mean -c {usual}?")
        } else {
            "name a file with -c FILE, or let tidegate init DIR write a first one".to_owned()
        };
        return Problem::error(None, "this is a directory, not a configuration").fix(fix);
    }
    let fix = if error.kind() == std::io::ErrorKind::NotFound {
        "name another file with -c FILE, or let tidegate init DIR write a first one"
    } else {
        "name another file with -c FILE, or let the user of the proxy read this one"
    };
    Problem::error(None, format!("cannot read the configuration: {error}")).fix(fix)
}

/// The maximum size of a configuration file in bytes. It is enough for thousands of sites.
pub(crate) const MAX_FILE_SIZE: u64 = 4 << 20;

/// Parses the bytes of a configuration file. The paths in it are relative to the folder of `file`. Files that it includes are not
/// read. As for [`load`], a config may be returned in spite of errors.
pub fn parse(file: &Path, bytes: &[u8]) -> (Option<Config>, Problems) {
    match Document::parse(file, bytes) {
        Ok(document) => build(document, file),
        Err(problems) => (None, problems),
    }
}

fn build(document: Document<'_>, file: &Path) -> (Option<Config>, Problems) {
    let base = file.parent().unwrap_or_else(|| Path::new(""));
    let config = build::config(&document, base);
    (config, document.into_problems())
}

#[cfg(test)]
mod tests;
