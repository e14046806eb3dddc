//! `tidegate htpasswd`: adds, removes, verifies and lists the users of a password file.
//!
//! The module `htpasswd` parses the lines, hashes the passwords and replaces the file; this module has the arguments, the
//! messages and the exit codes.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, Subcommand, ValueEnum};

use super::output::{fail, print_line, warn};
use super::password_prompt;
use super::progress::Progress;
use crate::config::nearest::nearest;
use crate::htpasswd::edit::{self, Edited};
use crate::htpasswd::generate::{self, HashParams, USUAL_COST};
use crate::htpasswd::{self, LineInfo, MAX_COST, ProblemKind, Scheme, store};
use crate::secret::Password;

#[derive(Debug, Subcommand)]
pub(crate) enum HtpasswdCommand {
    /// Add a user, or give a user a new password
    #[command(after_help = ADD_EXAMPLES)]
    Add(AddArgs),
    /// Remove a user
    Remove(UserArgs),
    /// Verify the password of a user (exit code 0: it is right, 1: it is wrong)
    Verify(VerifyArgs),
    /// List all users, the strength of their hashes, and the lines with which a user cannot log in
    List(FileArgs),
}

#[derive(Debug, Args)]
pub(crate) struct FileArgs {
    /// The password file
    file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct UserArgs {
    /// The password file
    file: PathBuf,
    /// The user's name
    user: OsString,
}

impl UserArgs {
    fn printable_user(&self) -> String {
        printable(&self.user)
    }
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    target: UserArgs,
    /// Take the password from the first line of standard input
    #[arg(long)]
    stdin: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    #[command(flatten)]
    target: UserArgs,
    /// Take the password from the first line of standard input
    #[arg(long, conflicts_with = "generate")]
    stdin: bool,
    /// Generate a random password and print it, alone, to standard output
    #[arg(long)]
    generate: bool,
    /// The format of the hash; the others are for other programs that read the same file
    #[arg(long, value_enum, default_value = "bcrypt")]
    scheme: SchemeArg,
    /// bcrypt's cost; each step doubles the time of a check, for the proxy and for an attacker who has the file [default: 10]
    #[arg(long, value_parser = clap::value_parser!(u8).range(4..=i64::from(MAX_COST)))]
    cost: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SchemeArg {
    Bcrypt,
    Sha512,
    Sha256,
    Apr1,
}

/// The reason why a command failed, as a message for the operator.
type CommandError = Box<dyn std::error::Error>;

pub(crate) fn run(command: &HtpasswdCommand) -> ExitCode {
    let result = match command {
        HtpasswdCommand::Add(args) => add(args),
        HtpasswdCommand::Remove(args) => remove(args),
        HtpasswdCommand::Verify(args) => verify(args),
        HtpasswdCommand::List(args) => list(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string()),
    }
}

fn add(args: &AddArgs) -> Result<(), CommandError> {
    let params = hash_params(args);
    let (file, user) = (&args.target.file, args.target.user.as_bytes());
    // Everything that can fail is tried before the operator is asked for a password.
    edit::check_name(user)?;
    if !file.exists() && Path::new(&args.target.user).is_file() {
        let (file, user) = (file.display(), args.target.printable_user());
        return Err(format!(
            "there is no file {file}, and {user} is a file, not a user; the file comes first: tidegate htpasswd add {user} {file}"
        )
        .into());
    }
    store::read_to_edit(file)?;
    let password = new_password(args, params)?;
    let progress = Progress::start();
    progress.show("hashing the password");
    let hash = params.hash(&password)?;
    drop(progress);
    // The password is hashed before the lock is taken, because hashing is slow. The lock is held for milliseconds.
    let (edited, is_new_file) =
        store::update_or_create(file, LOCK_TIMEOUT, |text| edit::set(text, user, &hash))?;
    // With --generate, standard output has the password only.
    let report = if args.generate { warn } else { print_line };
    if is_new_file {
        report(&format!(
            "created {}; if the proxy runs as another user, give the file to that user's group with chgrp",
            file.display()
        ));
    }
    report(&added_message(&args.target, &edited));
    if args.generate {
        print_password(&password)?;
    }
    Ok(())
}

/// The parameters of the hash. Warns of weak ones, and ends the process if `--cost` does not apply to the scheme.
fn hash_params(args: &AddArgs) -> HashParams {
    let params = match args.scheme {
        SchemeArg::Bcrypt => HashParams::Bcrypt {
            cost: args.cost.unwrap_or(USUAL_COST),
        },
        SchemeArg::Sha512 => HashParams::Sha512,
        SchemeArg::Sha256 => HashParams::Sha256,
        SchemeArg::Apr1 => HashParams::Apr1,
    };
    match (params, args.cost) {
        (HashParams::Bcrypt { cost }, _) if cost < USUAL_COST => warn(&format!(
            "warning: with cost {cost} an attacker who has the file guesses passwords {} times as fast as with {USUAL_COST}",
            1 << (USUAL_COST - cost)
        )),
        (HashParams::Apr1, None) => warn(
            "warning: with apr1 an attacker who has the file soon guesses passwords; use it only if another program that reads the file needs it",
        ),
        (HashParams::Bcrypt { .. }, _) | (_, None) => {}
        (_, Some(_)) => AddArgs::augment_args(clap::Command::new("tidegate htpasswd add"))
            .error(
                ErrorKind::ArgumentConflict,
                "--cost is a parameter of bcrypt; leave it out with another --scheme",
            )
            .exit(),
    }
    params
}

fn new_password(args: &AddArgs, params: HashParams) -> Result<Password, CommandError> {
    let password = if args.generate {
        generate::password()?
    } else if args.stdin {
        password_prompt::from_stdin()?
    } else {
        return password_prompt::ask_twice(&args.target.printable_user(), params);
    };
    params.check(&password)?;
    Ok(password)
}

fn added_message(target: &UserArgs, edited: &Edited) -> String {
    let (user, file) = (target.printable_user(), target.file.display());
    let what = if edited.existed {
        format!("changed the password of {user} in {file}")
    } else {
        format!("added {user} to {file}")
    };
    format!(
        "{what}, line {}{}",
        edited.line,
        duplicates_message(edited.duplicates)
    )
}

/// Only the first line of a user counts, so later ones are removed.
fn duplicates_message(count: usize) -> String {
    match count {
        0 => String::new(),
        1 => "; a later line of the same user, which had no effect, was removed".to_owned(),
        _ => format!("; {count} later lines of the same user, which had no effect, were removed"),
    }
}

fn print_password(password: &Password) -> Result<(), CommandError> {
    let line = zeroize::Zeroizing::new([password.as_bytes(), b"\n"].concat());
    let mut out = std::io::stdout();
    out.write_all(&line)
        .and_then(|()| out.flush())
        .map_err(|error| {
            format!("the password is set but could not be printed: {error}; set another one").into()
        })
}

fn remove(args: &UserArgs) -> Result<(), CommandError> {
    let user = args.user.as_bytes();
    let edited = store::update(&args.file, LOCK_TIMEOUT, |text| edit::remove(text, user))?;
    let Some(edited) = edited else {
        return Err(unknown_user(args, &store::read(&args.file)?));
    };
    print_line(&format!(
        "removed {} from {}{}",
        args.printable_user(),
        args.file.display(),
        duplicates_message(edited.duplicates)
    ));
    if htpasswd::parse(&edited.bytes).users.is_empty() {
        warn(&format!(
            "no user can log in with {} any more",
            args.file.display()
        ));
    }
    Ok(())
}

fn verify(args: &VerifyArgs) -> Result<(), CommandError> {
    let user = args.target.printable_user();
    let text = store::read(&args.target.file)?;
    let parsed = htpasswd::parse(&text);
    let Some(entry) = parsed.users.find(args.target.user.as_bytes()) else {
        return Err(unknown_user(&args.target, &text));
    };
    let password = if args.stdin {
        password_prompt::from_stdin()?
    } else {
        password_prompt::ask(&format!("Password of {user}: "))?
    };
    let place = format!("{}, line {}", entry.scheme(), entry.line());
    if entry.verify(&password) {
        print_line(&format!("right: the password of {user} ({place})"));
        return Ok(());
    }
    Err(format!("wrong: not the password of {user} ({place})").into())
}

/// The error for a user without a usable line: the problem of the user's line, or the most similar name in the file.
fn unknown_user(target: &UserArgs, text: &[u8]) -> CommandError {
    let (user, file) = (target.printable_user(), target.file.display());
    let lines = htpasswd::list(text);
    let own_line = lines.iter().find(|line| line.user.as_ref() == Some(&user));
    if let Some((line, Err(kind))) = own_line.map(|info| (info.line, info.scheme)) {
        let (what, remedy) = kind.explain(&target.file, Some(&user));
        return format!("{file}, line {line}, user {user}: {what}; {remedy}").into();
    }
    let names = lines.iter().filter_map(|line| line.user.as_deref());
    let hint =
        nearest(&user, names).map_or_else(String::new, |name| format!("; did you mean {name}?"));
    format!("{file}: there is no user {user}{hint}").into()
}

fn list(args: &FileArgs) -> Result<(), CommandError> {
    let lines = htpasswd::list(&store::read(&args.file)?);
    if lines.is_empty() {
        warn(&format!("{}: no users", args.file.display()));
        return Ok(());
    }
    print_line(&user_table(&lines));
    Ok(())
}

/// The columns line, user, scheme and strength, aligned.
fn user_table(lines: &[LineInfo]) -> String {
    let head = ["line", "user", "scheme", "strength"].map(str::to_owned);
    let rows: Vec<_> = [head]
        .into_iter()
        .chain(lines.iter().map(table_row))
        .collect();
    let widths = [0, 1, 2].map(|column| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    });
    let [line, user, scheme] = widths;
    let rows = rows
        .iter()
        .map(|[a, b, c, d]| format!("{a:>line$}  {b:user$}  {c:scheme$}  {d}"));
    rows.collect::<Vec<_>>().join("\n")
}

fn table_row(line: &LineInfo) -> [String; 4] {
    let scheme = line.scheme.map(|scheme| scheme.to_string());
    [
        line.line.to_string(),
        // A line without a colon has no user. Its text is not shown, because it may be a hash.
        line.user.clone().unwrap_or_else(|| "-".to_owned()),
        scheme.unwrap_or_else(|_| "-".to_owned()),
        strength(line),
    ]
}

fn strength(line: &LineInfo) -> String {
    match (line.scheme, line.weakness()) {
        (Err(kind @ ProblemKind::Duplicate { .. }), _) => format!("ignored: {}", reason(kind)),
        (Err(kind), _) => format!("disabled: {}", reason(kind)),
        (Ok(_), Some(weakness)) => format!("weak: {weakness}"),
        (Ok(Scheme::Bcrypt { cost }), None) if cost < USUAL_COST => {
            format!("fair: a cost of {USUAL_COST} or more withstands guessing longer")
        }
        (Ok(_), None) => "strong".to_owned(),
    }
}

/// The problem without its remedy, which follows a semicolon and is too long for a table.
fn reason(kind: ProblemKind) -> String {
    let sentence = kind.to_string();
    sentence.split("; ").next().unwrap_or_default().to_owned()
}

/// The name with escape sequences in the place of bytes that are not printable.
fn printable(user: &OsStr) -> String {
    user.to_string_lossy().escape_debug().to_string()
}

/// The time to wait for the lock on the file. Another writer holds it for milliseconds.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
const ADD_EXAMPLES: &str = "Examples:
  tidegate htpasswd add users alice                       asks for the password, twice
  tidegate htpasswd add users alice --generate            makes one and prints it
  pass show registry | tidegate htpasswd add users alice --stdin
  tidegate htpasswd add users alice --cost 12             four times the time for a guess, and for a check
  tidegate htpasswd add users alice --scheme sha512       for a program that cannot read bcrypt

The file is replaced in one step; its comments, order, owner and mode stay. A running proxy reads the change by
itself within two seconds.";
/// After `tidegate htpasswd --help`.
pub(crate) const EXAMPLES: &str = "Examples:
  tidegate htpasswd add users alice --generate    a new user with a random password
  tidegate htpasswd add users alice               a new password for the same user
  tidegate htpasswd list users                    all users, and which hashes are weak
  tidegate htpasswd verify users alice            is this the password?
  tidegate htpasswd remove users alice            remove the user

Exit codes: 0 done, 1 failed (verify: wrong password or no such user), 2 wrong command line.";
