//! `tidegate check`: whether a configuration would start, what is around it, and who may do what by it.
//!
//! Called by `cli`.

use std::process::ExitCode;

use super::htpasswd::password;
use super::{ConfigArgs, MISUSED, fail, print_line, refuse, warn};
use crate::check::live;
use crate::check::live::Push;
use crate::check::rights::{AccessQuery, AccessReport, QueryError};
use crate::config::problem::Problems;
use crate::config::{self, Config};
use crate::snapshot::{BuildMode, Snapshot};

#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    which: ConfigArgs,
    /// Look around as well: ask every upstream, look at certificates, and whether a registry can be reached past the gate.
    /// Exit code 1 when something is wrong
    #[arg(long, conflicts_with = "who")]
    live: bool,
    /// Push a tiny blob into this repository through the running proxy, pull it, and say what is left of it; implies --live
    #[arg(long, value_name = "REPOSITORY", conflicts_with = "who")]
    push: Option<String>,
    /// Log in as this user for the push
    #[arg(long, value_name = "USER", requires = "push")]
    user: Option<String>,
    /// Take the password from the first line of standard input
    #[arg(long, requires = "user")]
    stdin: bool,
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

impl CheckArgs {
    /// Asks for the password, where one is needed.
    fn push(&self) -> Result<Option<Push>, Box<dyn std::error::Error>> {
        let Some(repository) = self.push.clone() else {
            return Ok(None);
        };
        let login = match self.user.clone() {
            None => None,
            Some(user) if self.stdin => Some((user, password::from_stdin()?)),
            Some(user) => {
                let prompt = format!("Password of {}: ", user.escape_debug());
                let password = password::ask(&prompt)?;
                Some((user, password))
            }
        };
        Ok(Some(Push { repository, login }))
    }

    fn question(&self) -> Result<Option<AccessQuery>, QueryError> {
        let (Some(who), Some([action, repository])) = (&self.who, self.may.as_deref()) else {
            return Ok(None);
        };
        AccessQuery::new(who, action, repository, self.host.as_deref()).map(Some)
    }
}

pub(super) fn run(checking: &CheckArgs) -> ExitCode {
    let file = &checking.which.file;
    let question = match checking.question() {
        Ok(question) => question,
        Err(unclear) => return misuse(&unclear),
    };
    let (config, mut problems) = config::load(file);
    let built = config.and_then(|config| {
        let snapshot = Snapshot::build(&config, None, BuildMode::Check, &mut problems)?;
        Some((config, snapshot))
    });
    let Some((config, snapshot)) = built else {
        return refuse(&problems);
    };
    if let Some(question) = question {
        return match question.evaluate(&config, &snapshot, file) {
            Ok(answer) => report(&answer),
            Err(unclear) => misuse(&unclear),
        };
    }
    if checking.live || checking.push.is_some() {
        let push = match checking.push() {
            Ok(push) => push,
            Err(why) => return fail(&why.to_string()),
        };
        match run_live_check(&config, &snapshot, push.as_ref(), &mut problems) {
            Ok(facts) => print_line(&facts.join("\n")),
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
        let mut facts = live::run(config, snapshot, problems).await;
        if let Some(push) = push {
            facts.extend(live::try_push(push, config, snapshot, problems).await);
        }
        facts
    }))
}

fn report(answer: &AccessReport) -> ExitCode {
    print_line(&answer.lines.join("\n"));
    if answer.is_allowed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn misuse(unclear: &QueryError) -> ExitCode {
    warn(&unclear.to_string());
    ExitCode::from(MISUSED)
}
