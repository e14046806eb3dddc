//! `tidegate import nginx`: writes a proxy.toml to standard output, and what needs a review to standard error.
//!
//! The translation is in `import::nginx`; this module has the arguments, the output and the exit codes.

use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::output::{fail, print, warn};
use super::progress::Progress;
use crate::import::nginx::{self, FileSource, FsSource};

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
    let progress = Progress::start();
    let source = ReportingSource {
        progress: &progress,
        count: Cell::new(0),
    };
    let imported = nginx::import(&source, &args.files, &prefix);
    drop(progress);
    let import = match imported {
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

/// The file system, with a progress line. The last line stays while the importer translates what it has read.
struct ReportingSource<'a> {
    progress: &'a Progress,
    count: Cell<usize>,
}

impl FileSource for ReportingSource<'_> {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.count.set(self.count.get() + 1);
        let files = pluralize(self.count.get(), "file");
        self.progress.show(&format!(
            "reading {files}, and comparing the result with a model of nginx"
        ));
        FsSource.read(path)
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<String>> {
        FsSource.names(directory)
    }

    fn canonical(&self, path: &Path) -> PathBuf {
        FsSource.canonical(path)
    }
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
