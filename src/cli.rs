//! The command line: words in, calls out, and an exit code.
//!
//! The only module that prints, with those below it. What the words mean is done elsewhere.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::problem::Problems;

mod check;
mod htpasswd;
mod import;
mod log;
mod reload;
mod serve;

#[derive(Debug, Parser)]
#[command(name = "tidegate", version, about = "The gate in front of a container registry", after_help = EXAMPLES)]
struct CliArgs {
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Serve until told to stop (HUP reloads, USR1 reopens logs, USR2 upgrades, TERM drains)
    Serve(ConfigArgs),
    /// Make the gate that serves with this configuration read it again, and say what came of it (as nginx -s reload)
    Reload(ConfigArgs),
    /// Say whether a configuration would start, and everything that is odd about it (as nginx -t)
    Check(check::CheckArgs),
    /// Add, remove, try and list the users of a password file
    #[command(subcommand, after_help = htpasswd::EXAMPLES)]
    Htpasswd(htpasswd::HtpasswdCommand),
    /// Make a proxy.toml out of the files of another proxy
    #[command(subcommand)]
    Import(import::Verb),
}

#[derive(Debug, clap::Args)]
struct ConfigArgs {
    /// The configuration
    #[arg(short = 'c', long = "config", value_name = "FILE", default_value = DEFAULT)]
    file: PathBuf,
}

/// Reads the command line and does what it says.
pub fn run() -> ExitCode {
    match CliArgs::parse().command {
        CliCommand::Serve(which) => serve::run(&which.file),
        CliCommand::Reload(which) => reload::run(&which.file),
        CliCommand::Check(checking) => check::run(&checking),
        CliCommand::Htpasswd(verb) => htpasswd::run(&verb),
        CliCommand::Import(verb) => import::run(&verb),
    }
}

fn refuse(problems: &Problems) -> ExitCode {
    warn(&format!(
        "{problems}\n{}: the configuration is refused: {}",
        problems.file().display(),
        problems.summary()
    ));
    ExitCode::from(REFUSED)
}

fn fail(what: &str) -> ExitCode {
    warn(what);
    ExitCode::FAILURE
}

/// To standard output, as it is; a file cut short must not pass for a whole one.
fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// To standard output; a reader that left is no reason to fail.
fn print_line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn warn(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// `EX_CONFIG` of sysexits.h.
const REFUSED: u8 = 78;
/// As clap's own.
const MISUSED: u8 = 2;
const DEFAULT: &str = "/etc/tidegate/proxy.toml";
const EXAMPLES: &str = "Examples:
  tidegate check -c proxy.toml     is this file good?
  tidegate check --live            and is all well around it: registries, certificates?
  tidegate serve -c proxy.toml     serve with it
  tidegate htpasswd add users al   a user, or a new password for one
  tidegate import nginx /etc/nginx/nginx.conf > proxy.toml
                                   the way over from nginx
  tidegate check --who alice --may push team/app
                                   may she, and by which grant?
  tidegate reload -c proxy.toml    read it again, without losing a transfer";
