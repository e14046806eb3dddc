//! The command line: parses the arguments, calls one module for each command, and returns the exit code.
//!
//! The modules below this one are the only ones that write to standard output and standard error. The work itself is done
//! elsewhere: by `server`, `snapshot`, `check`, `import` and `htpasswd`.

use std::process::ExitCode;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
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

use crate::htpasswd::shell_word;

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
    let args = CliArgs::try_parse().unwrap_or_else(|error| with_tip(error).exit());
    match args.command {
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

/// Adds a tip to the error for a configuration that is named without `-c`, or before the command.
fn with_tip(mut error: clap::Error) -> clap::Error {
    let arguments = std::env::args_os().skip(1);
    let arguments: Vec<_> = arguments
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    if error.kind() == ErrorKind::UnknownArgument
        && let Some(ContextValue::String(unknown)) = error.get(ContextKind::InvalidArg)
        && let Some(tip) = config_tip(unknown, &arguments)
    {
        let tip = vec![StyledStr::from(tip)];
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tip));
    }
    error
}

/// The command that was probably meant when `unknown` was rejected: with `-c` before the file, after the name of the command.
fn config_tip(unknown: &str, arguments: &[String]) -> Option<String> {
    let command = command();
    let has_config = |name: &&String| {
        let found = command.find_subcommand(name.as_str());
        found.is_some_and(|found| {
            found
                .get_arguments()
                .any(|known| known.get_short() == Some('c'))
        })
    };
    let is_option = |argument: &str| argument == "-c" || argument == "--config";
    let name = arguments.iter().find(has_config);
    let is_command = |argument: &String| command.find_subcommand(argument).is_some();
    if name.is_none() && arguments.iter().any(is_command) {
        return None;
    }
    let file = if is_option(unknown) {
        let at = arguments.iter().position(|argument| is_option(argument))?;
        arguments.get(at + 1).map(String::as_str)
    } else if unknown.starts_with('-') || arguments.iter().any(|argument| is_option(argument)) {
        return None;
    } else {
        name?;
        Some(unknown)
    };
    let name = name.map_or("serve", String::as_str);
    Some(format!("tidegate {name} -c {}", shell_word(file?)))
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

#[cfg(test)]
mod tests {
    use super::config_tip;

    #[test]
    fn a_file_without_its_option_gets_a_tip() {
        let tip = |unknown: &str, line: &str| {
            let arguments: Vec<_> = line.split(' ').map(str::to_owned).collect();
            config_tip(unknown, &arguments)
        };
        let check = Some("tidegate check -c first/proxy.toml".to_owned());
        assert_eq!(tip("first/proxy.toml", "check first/proxy.toml"), check);
        assert_eq!(tip("-c", "-c first/proxy.toml check"), check);
        assert_eq!(tip("--config", "--config first/proxy.toml check"), check);
        let serve = Some("tidegate serve -c 'a b'".to_owned());
        assert_eq!(
            config_tip("a b", &["serve", "a b"].map(str::to_owned)),
            serve
        );
        for (unknown, line) in [
            ("more", "check -c proxy.toml more"),
            ("--lvie", "check --lvie"),
            ("x", "completions bash x"),
            ("-c", "-c"),
            ("-c", "htpasswd add -c users alice"),
        ] {
            assert_eq!(tip(unknown, line), None, "{line}");
        }
    }
}
