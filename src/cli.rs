//! The command line: words in, calls out, and an exit code.
//!
//! The only module that prints, with those below it. What the words mean is done elsewhere.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::problem::Problems;
use crate::config::{self, Config};
use crate::inspect;
use crate::snapshot::rights::{Answer, Question, Unclear};
use crate::snapshot::{Purpose, Snapshot};

mod htpasswd;
mod import;
mod log;
mod reload;
mod serve;

#[derive(Debug, Parser)]
#[command(name = "tidegate", version, about = "The gate in front of a container registry", after_help = EXAMPLES)]
struct Words {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve until told to stop (HUP reloads, USR1 reopens logs, USR2 upgrades, TERM drains)
    Serve(Which),
    /// Make the gate that serves with this configuration read it again, and say what came of it (as nginx -s reload)
    Reload(Which),
    /// Say whether a configuration would start, and everything that is odd about it (as nginx -t)
    Check(Checking),
    /// Add, remove, try and list the users of a password file
    #[command(subcommand, after_help = htpasswd::EXAMPLES)]
    Htpasswd(htpasswd::Verb),
    /// Make a proxy.toml out of the files of another proxy
    #[command(subcommand)]
    Import(import::Verb),
}

#[derive(Debug, clap::Args)]
struct Which {
    /// The configuration
    #[arg(short = 'c', long = "config", value_name = "FILE", default_value = DEFAULT)]
    file: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Checking {
    #[command(flatten)]
    which: Which,
    /// Look around as well: ask every upstream, look at certificates, and whether a registry can be reached past the gate.
    /// Exit code 1 when something is wrong
    #[arg(long, conflicts_with = "who")]
    live: bool,
    /// Ask for the rights of this user, or of @anonymous or @network
    #[arg(long, value_name = "USER", requires = "may")]
    who: Option<String>,
    /// What is asked for: pull, push, delete or catalog, and where. Exit code 0 is yes, 1 is no
    #[arg(long, num_args = 2, value_names = ["ACTION", "REPOSITORY"], requires = "who")]
    may: Option<Vec<String>>,
    /// Ask the site of this host only
    #[arg(long, value_name = "HOST", requires = "who")]
    host: Option<String>,
}

impl Checking {
    fn question(&self) -> Result<Option<Question>, Unclear> {
        let (Some(who), Some([action, repository])) = (&self.who, self.may.as_deref()) else {
            return Ok(None);
        };
        Question::new(who, action, repository, self.host.as_deref()).map(Some)
    }
}

/// Reads the command line and does what it says.
pub fn run() -> ExitCode {
    match Words::parse().command {
        Verb::Serve(which) => serve::run(&which.file),
        Verb::Reload(which) => reload::run(&which.file),
        Verb::Check(checking) => check(&checking),
        Verb::Htpasswd(verb) => htpasswd::run(&verb),
        Verb::Import(verb) => import::run(&verb),
    }
}

fn check(checking: &Checking) -> ExitCode {
    let file = &checking.which.file;
    let question = match checking.question() {
        Ok(question) => question,
        Err(unclear) => return misuse(&unclear),
    };
    let (config, mut problems) = config::load(file);
    let built = config.and_then(|config| {
        let snapshot = Snapshot::build(&config, None, Purpose::Check, &mut problems)?;
        Some((config, snapshot))
    });
    let Some((config, snapshot)) = built else {
        return refuse(&problems);
    };
    if let Some(question) = question {
        return match question.answer(&config, &snapshot, file) {
            Ok(answer) => tell(&answer),
            Err(unclear) => misuse(&unclear),
        };
    }
    if checking.live {
        match look_around(&config, &snapshot, &mut problems) {
            Ok(facts) => say(&facts.join("\n")),
            Err(error) => return fail(&format!("cannot look around: {error}")),
        }
        if problems.has_errors() {
            let file = file.display();
            return fail(&format!(
                "{problems}\n{file}: not all is well: {}",
                problems.summary()
            ));
        }
    }
    if problems.is_empty() {
        say(&format!("{}: the configuration is good", file.display()));
    } else {
        say(&format!(
            "{problems}\n{}: the configuration would start, with {}",
            file.display(),
            problems.summary()
        ));
    }
    ExitCode::SUCCESS
}

fn look_around(
    config: &Config,
    snapshot: &Snapshot,
    problems: &mut Problems,
) -> std::io::Result<Vec<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(inspect::run(config, snapshot, problems)))
}

fn tell(answer: &Answer) -> ExitCode {
    say(&answer.lines.join("\n"));
    if answer.is_yes {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
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

fn misuse(unclear: &Unclear) -> ExitCode {
    warn(&unclear.to_string());
    ExitCode::from(MISUSED)
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
fn say(text: &str) {
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
