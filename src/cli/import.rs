//! `tidegate import nginx`: a proxy.toml on standard output, what needs a look on standard error.
//!
//! Called by `cli`. The translation is `import::nginx`'s; here are the words and the exit codes.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{fail, print, warn};
use crate::import::nginx;
use crate::import::nginx::FsSource;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// From nginx: all server blocks that lead somewhere, with a remark for what changed or fell away. Review each route
    /// before it serves: the translation may let in requests that nginx refused
    #[command(after_help = EXAMPLES)]
    Nginx(Nginx),
}

#[derive(Debug, Args)]
pub(super) struct Nginx {
    /// The folder that relative paths are relative to, as nginx -V says it
    #[arg(long, value_name = "DIR", default_value = "/etc/nginx")]
    prefix: PathBuf,
    /// nginx.conf, or files with server blocks; what they include is read, too
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) fn run(verb: &Verb) -> ExitCode {
    let Verb::Nginx(words) = verb;
    // The paths in the file would else be relative to the file.
    let prefix = std::path::absolute(&words.prefix).unwrap_or_else(|_| words.prefix.clone());
    let import = match nginx::import(&FsSource, &words.files, &prefix) {
        Ok(import) => import,
        Err(error) => return fail(&error.to_string()),
    };
    if let Err(error) = print(&import.toml) {
        return fail(&format!("cannot write to standard output: {error}"));
    }
    for warning in &import.warnings {
        warn(warning);
    }
    warn(&format!(
        "{} to look at, {} without a line of their own; both stand in the file as comments",
        pluralize(import.warnings.len(), "warning"),
        pluralize(import.fallen, "directive"),
    ));
    warn(
        "review each route against the nginx configuration before it serves: the top of the file says what to compare",
    );
    ExitCode::SUCCESS
}

fn pluralize(count: usize, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}

const EXAMPLES: &str = "Exit code 0: a proxy.toml is on standard output. 1: there is none, and standard error says why.

Examples:
  tidegate import nginx /etc/nginx/nginx.conf > proxy.toml
  tidegate import nginx /etc/nginx/sites-enabled/registry > proxy.toml
  tidegate import nginx --prefix ./nginx ./nginx/conf.d/registry.conf ./nginx/conf.d/harbor.conf > proxy.toml
  tidegate check -c proxy.toml";
