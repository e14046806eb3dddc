//! `tidegate check`: reports whether a configuration would start; with `--live` whether its surroundings work; with `--who`
//! whether a user may perform an action.
//!
//! The checks themselves are in `config`, `snapshot` and `check`; this module has the arguments, the output and the exit codes.

use std::path::Path;
use std::process::ExitCode;

use http::Method;

use super::admin_client::AdminClient;
use super::args::ConfigArgs;
use super::output::{
    EXIT_CONFIG_REJECTED, EXIT_USAGE, escape_lines, fail, print_line, rejection_message, warn,
};
use super::password_prompt;
use super::progress::Progress;
use crate::check::live::{self, Push};
use crate::check::rights::{AccessQuery, AccessReport, QueryError};
use crate::config::problem::Problems;
use crate::config::{self, Config};
use crate::snapshot::{BuildMode, Snapshot};

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("subject").args(["who", "push"]).multiple(true))]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Check the surroundings as well: every upstream, the served certificates, and whether a registry can be reached past the
    /// proxy. Exit code 1 if there is a problem
    #[arg(long, conflicts_with = "who")]
    live: bool,
    /// Only ask the running proxy whether it is ready (/readyz), as a health check of a container does. Exit code 0 means ready
    #[arg(long, conflicts_with_all = ["who", "live", "push"])]
    ready: bool,
    /// Push a tiny blob into this repository through the running proxy, pull it, and report what is left of it; implies --live
    #[arg(long, value_name = "REPOSITORY", conflicts_with = "who")]
    push: Option<String>,
    /// Log in as this user for the push
    #[arg(long, value_name = "USER", requires = "push")]
    user: Option<String>,
    /// Take the password from the first line of standard input
    #[arg(long, requires = "user")]
    stdin: bool,
    /// Report the rights of this user, or of @anonymous or @network
    #[arg(long, value_name = "USER", requires = "may")]
    who: Option<String>,
    /// The action (pull, push, delete or catalog) and the repository, which catalog does not need. Exit code 0 means yes, 1 means
    /// no
    #[arg(long, num_args = 1..=2, value_names = ["ACTION", "REPOSITORY"], requires = "who")]
    may: Option<Vec<String>>,
    /// Report the rights at the site of this host only, or push to this host; without it, --push takes the first site that has a
    /// route for the repository
    #[arg(long, value_name = "HOST", requires = "subject")]
    host: Option<String>,
}

impl CheckArgs {
    fn access_query(&self) -> Result<Option<AccessQuery>, QueryError> {
        let (Some(who), Some([action, rest @ ..])) = (&self.who, self.may.as_deref()) else {
            return Ok(None);
        };
        let repository = rest.first().map(String::as_str);
        AccessQuery::new(who, action, repository, self.host.as_deref()).map(Some)
    }

    /// The push to try, if one is wanted. Prompts for the password if a user is given.
    fn push(&self) -> Result<Option<Push>, password_prompt::Error> {
        let Some(repository) = self.push.clone() else {
            return Ok(None);
        };
        let login = match self.user.clone() {
            None => None,
            Some(user) if self.stdin => Some((user, password_prompt::from_stdin()?)),
            Some(user) => {
                let prompt = format!("Password of {}: ", user.escape_debug());
                let password = password_prompt::ask(&prompt)?;
                Some((user, password))
            }
        };
        Ok(Some(Push {
            repository,
            login,
            host: self.host.as_deref().map(str::to_ascii_lowercase),
        }))
    }
}

pub(crate) fn run(args: &CheckArgs) -> ExitCode {
    let file = &args.config.file;
    if args.ready {
        return check_ready(file);
    }
    let query = match args.access_query() {
        Ok(query) => query,
        Err(error) => return usage_error(&error),
    };
    let (config, mut problems) = config::load(file);
    let built = config.and_then(|config| {
        let snapshot = Snapshot::build(&config, None, BuildMode::Check, &mut problems)?;
        Some((config, snapshot))
    });
    let Some((config, snapshot)) = built else {
        warn(&rejection_message(&problems));
        return ExitCode::from(EXIT_CONFIG_REJECTED);
    };
    if let Some(query) = query {
        return match query.evaluate(&config, &snapshot, &problems) {
            Ok(report) => print_access_report(&report),
            Err(error) => usage_error(&error),
        };
    }
    if args.live || args.push.is_some() {
        let push = match args.push() {
            Ok(push) => push,
            Err(error) => return fail(&error.to_string()),
        };
        match run_live_check(&config, &snapshot, push.as_ref(), &mut problems) {
            // All that one run reports goes to one stream: to standard error if there is an error.
            Ok(facts) if problems.has_errors() => warn(&facts.join("\n")),
            Ok(facts) => print_line(&facts.join("\n")),
            Err(error) => return fail(&format!("cannot run the live check: {error}")),
        }
        if problems.has_errors() {
            let file = file.display();
            return fail(&format!(
                "{problems}\n{file}: the live check found problems: {}",
                problems.summary()
            ));
        }
    }
    if problems.is_empty() {
        print_line(&format!("{}: the configuration is good", file.display()));
    } else {
        print_line(&format!(
            "{problems}\n{}: the configuration would start, with {}",
            file.display(),
            problems.summary()
        ));
    }
    ExitCode::SUCCESS
}

/// Asks the running proxy whether it is ready.
fn check_ready(file: &Path) -> ExitCode {
    let client = match AdminClient::find(file) {
        Ok(client) => client,
        Err(error) => return error.report(),
    };
    match client.send(&Method::GET, "/readyz") {
        Ok(response) if response.is_success() => {
            print_line(&escape_lines(&response.text()));
            ExitCode::SUCCESS
        }
        Ok(response) => fail(&escape_lines(&response.text())),
        Err(error) => fail(&error),
    }
}

fn run_live_check(
    config: &Config,
    snapshot: &Snapshot,
    push: Option<&Push>,
    problems: &mut Problems,
) -> std::io::Result<Vec<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(async {
        let progress = Progress::start();
        let on_step = |what: &str| progress.show(what);
        let mut facts = live::run(config, snapshot, problems, &on_step).await;
        if let Some(push) = push {
            facts.extend(live::try_push(push, config, snapshot, problems, &on_step).await);
        }
        facts
    }))
}

fn print_access_report(report: &AccessReport) -> ExitCode {
    print_line(&report.lines.join("\n"));
    if report.is_allowed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn usage_error(error: &QueryError) -> ExitCode {
    warn(&error.to_string());
    ExitCode::from(EXIT_USAGE)
}
