//! `tidegate import nginx`: writes a proxy.toml to standard output, and what needs a review to standard error.
//!
//! The translation is in `import::nginx`; this module has the arguments, the output and the exit codes.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::output::{fail, print, warn};
use crate::import::nginx::{self, FsSource};

#[derive(Debug, Subcommand)]
pub(crate) enum ImportCommand {
    /// Translate nginx configurations: all server blocks with an upstream, with a comment for each directive that has no exact
    /// equivalent. Review each route before it serves: the translation may permit requests that nginx rejected
    #[command(after_help = EXAMPLES)]
    Nginx(NginxArgs),
}

#[derive(Debug, Args)]
pub(crate) struct NginxArgs {
    /// The directory that relative paths are relative to, as nginx -V reports it
    #[arg(long, value_name = "DIR", default_value = "/etc/nginx")]
    prefix: PathBuf,
    /// nginx.conf, or files with server blocks; included files are read as well
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(crate) fn run(command: &ImportCommand) -> ExitCode {
    let ImportCommand::Nginx(args) = command;
    // With a relative prefix, the paths in the result would be relative to the proxy.toml. If the prefix cannot be made
    // absolute, the working directory is gone, and reading the files fails.
    let prefix = std::path::absolute(&args.prefix).unwrap_or_else(|_| args.prefix.clone());
    let import = match nginx::import(&FsSource, &args.files, &prefix) {
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
        "{} to look at, {} without an equivalent; all of them are in the file as comments",
        pluralize(import.warnings.len(), "warning"),
        pluralize(import.unsupported, "directive"),
    ));
    warn(
        "review each route against the nginx configuration before it serves: the top of the file lists what to compare",
    );
    ExitCode::SUCCESS
}

fn pluralize(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

const EXAMPLES: &str = "Exit code 0: a proxy.toml was written to standard output. 1: none was written, and standard error has the reason.

Examples:
  tidegate import nginx /etc/nginx/nginx.conf > proxy.toml
  tidegate import nginx /etc/nginx/sites-enabled/registry > proxy.toml
  tidegate import nginx --prefix ./nginx ./nginx/conf.d/registry.conf ./nginx/conf.d/harbor.conf > proxy.toml
  tidegate check -c proxy.toml";
