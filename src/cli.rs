//! The command line: parses the arguments, calls one module for each command, and returns the exit code.
//!
//! The modules below this one are the only ones that write to standard output and standard error. The work itself is done
//! elsewhere: by `server`, `snapshot`, `check`, `import` and `htpasswd`.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

mod admin_client;
mod args;
mod ca;
mod check;
mod client_commands;
mod completions;
mod htpasswd;
mod import;
mod init;
mod interventions;
mod logging;
mod output;
mod password_prompt;
mod progress;
mod reload;
mod serve;
mod status;
mod table;
mod version;

use args::ConfigArgs;

#[derive(Debug, Parser)]
#[command(
    name = "tidegate",
    version = version::SHORT,
    long_version = version::LONG,
    about = "A reverse proxy in front of a container registry",
    after_help = EXAMPLES
)]
struct CliArgs {
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Write a first proxy.toml and password file, and print the commands for each client
    #[command(after_help = init::EXAMPLES)]
    Init(init::InitArgs),
    /// Run the proxy until TERM or INT (HUP reloads, USR1 reopens the logs, USR2 upgrades the executable)
    Serve(ConfigArgs),
    /// Make the running proxy read its configuration again, and report the result (as nginx -s reload)
    Reload(ConfigArgs),
    /// Check whether a configuration would start, and report every problem (as nginx -t)
    Check(check::CheckArgs),
    /// Show what the running proxy does: transfers, endpoints, sites, certificates and recent rejections
    Status(status::StatusArgs),
    /// Let a client network log in again that has sent too many wrong passwords
    Unblock(interventions::UnblockArgs),
    /// End one transfer of the running proxy
    Cut(interventions::CutArgs),
    /// Add, remove, verify and list the users of a password file
    #[command(subcommand, after_help = htpasswd::EXAMPLES)]
    Htpasswd(htpasswd::HtpasswdCommand),
    /// Create a proxy.toml from the configuration of another proxy
    #[command(subcommand)]
    Import(import::ImportCommand),
    /// Print the CA certificate of the self-signed sites, and where each client expects it
    Ca(ConfigArgs),
    /// Print the completion script of a shell
    #[command(after_help = completions::EXAMPLES)]
    Completions(completions::CompletionsArgs),
}

/// The definition of the command line, from which `examples/man.rs` makes the manual pages.
pub fn command() -> clap::Command {
    CliArgs::command()
}

/// Parses the command line of this process and runs the command.
pub fn run() -> ExitCode {
    match CliArgs::parse().command {
        CliCommand::Init(args) => init::run(&args),
        CliCommand::Serve(args) => serve::run(&args.file),
        CliCommand::Reload(args) => reload::run(&args.file),
        CliCommand::Check(args) => check::run(&args),
        CliCommand::Status(args) => status::run(&args),
        CliCommand::Unblock(args) => interventions::unblock(&args),
        CliCommand::Cut(args) => interventions::cut(&args),
        CliCommand::Htpasswd(command) => htpasswd::run(&command),
        CliCommand::Import(command) => import::run(&command),
        CliCommand::Ca(args) => ca::run(&args),
        CliCommand::Completions(args) => completions::run(&args, command()),
    }
}

const EXAMPLES: &str = "Examples:
  tidegate init                    write a first configuration; asks for what it needs
  tidegate check -c proxy.toml     would this configuration start?
  tidegate check --live            do the registries and certificates work as well?
  tidegate serve -c proxy.toml     run the proxy with it
  tidegate htpasswd add users al   add a user, or give a user a new password
  tidegate import nginx /etc/nginx/nginx.conf > proxy.toml
                                   translate a configuration of nginx
  tidegate check --who alice --may push team/app
                                   may alice push there, and by which grant?
  tidegate reload -c proxy.toml    read it again, without losing a transfer
  tidegate status --watch          what does the running proxy do?
  tidegate unblock 192.0.2.7       let this client log in again
  tidegate cut 12                  end the transfer with this ID";
