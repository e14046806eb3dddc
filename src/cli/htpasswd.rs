//! `tidegate htpasswd`: users of a password file added, removed, tried and listed.
//!
//! Called by `cli`. What a line may hold, how it is hashed and how the file is replaced is `htpasswd`'s; here are the
//! words, the prompts and the exit codes.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Subcommand, ValueEnum};

use super::{CliArgs, fail, print_line, warn};
use crate::htpasswd::edit::{self, Edited};
use crate::htpasswd::generate::{self, HashParams, USUAL_COST};
use crate::htpasswd::{self, MAX_COST, store};
use crate::secret::Password;

pub(super) mod password;
mod table;
mod terminal;
mod unknown;

use unknown::unknown;

#[derive(Debug, Subcommand)]
pub(super) enum HtpasswdCommand {
    /// Add a user, or give one a new password
    #[command(after_help = ADD_EXAMPLES)]
    Add(AddArgs),
    /// Remove a user
    Remove(User),
    /// Say whether a password is a user's (exit code 0: it is, 1: it is not)
    Verify(VerifyArgs),
    /// List all users, how safe their hashes are, and lines that let nobody in
    List(FileArgs),
}

#[derive(Debug, Args)]
pub(super) struct FileArgs {
    /// The password file
    file: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct User {
    /// The password file
    file: PathBuf,
    /// The user's name
    user: OsString,
}

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    of: User,
    /// Take the password from the first line of standard input
    #[arg(long)]
    stdin: bool,
}

#[derive(Debug, Args)]
pub(super) struct AddArgs {
    #[command(flatten)]
    of: User,
    /// Take the password from the first line of standard input
    #[arg(long, conflicts_with = "generate")]
    stdin: bool,
    /// Make a random password and print it, alone, to standard output
    #[arg(long)]
    generate: bool,
    /// The format of the hash; the others are for old readers of the same file
    #[arg(long, value_enum, default_value = "bcrypt")]
    scheme: Format,
    /// bcrypt's cost; each step doubles the time of a check, for the gate and for who has stolen the file [default: 10]
    #[arg(long, value_parser = clap::value_parser!(u8).range(4..=i64::from(MAX_COST)))]
    cost: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Bcrypt,
    Sha512,
    Sha256,
    Apr1,
}

/// Why a command did not do what it should, for the one who gave it.
type Failure = Box<dyn std::error::Error>;

pub(super) fn run(verb: &HtpasswdCommand) -> ExitCode {
    let done = match verb {
        HtpasswdCommand::Add(words) => add(words),
        HtpasswdCommand::Remove(words) => remove(words),
        HtpasswdCommand::Verify(words) => verify(words),
        HtpasswdCommand::List(words) => list(words),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => fail(&why.to_string()),
    }
}

fn add(words: &AddArgs) -> Result<(), Failure> {
    let recipe = recipe(words);
    let (file, user) = (&words.of.file, words.of.user.as_bytes());
    edit::check_name(user)?;
    store::read_to_edit(file)?;
    let password = new_password(words, recipe)?;
    let hash = recipe.hash(&password)?;
    // The hash takes long, the lock is held for milliseconds.
    let (edited, is_new) =
        store::update_or_create(file, WAIT, |text| edit::set(text, user, &hash))?;
    // With --generate standard output is the password's alone.
    let tell = if words.generate { warn } else { print_line };
    if is_new {
        tell(&format!(
            "created {}; if the gate runs as another user, give it to that user's group with chgrp",
            file.display()
        ));
    }
    tell(&added(&words.of, &edited));
    if words.generate {
        print_password(&password)?;
    }
    Ok(())
}

fn recipe(words: &AddArgs) -> HashParams {
    let recipe = match words.scheme {
        Format::Bcrypt => HashParams::Bcrypt {
            cost: words.cost.unwrap_or(USUAL_COST),
        },
        Format::Sha512 => HashParams::Sha512,
        Format::Sha256 => HashParams::Sha256,
        Format::Apr1 => HashParams::Apr1,
    };
    match (recipe, words.cost) {
        (HashParams::Bcrypt { cost }, _) if cost < USUAL_COST => warn(&format!(
            "warning: with cost {cost} whoever has the file guesses passwords {} times as fast as with {USUAL_COST}",
            1 << (USUAL_COST - cost)
        )),
        (HashParams::Apr1, None) => warn(
            "warning: with apr1 whoever has the file soon guesses passwords; take it only if another reader of the file needs it",
        ),
        (HashParams::Bcrypt { .. }, _) | (_, None) => {}
        (_, Some(_)) => CliArgs::command()
            .error(
                ErrorKind::ArgumentConflict,
                "--cost is bcrypt's; leave it out with another --scheme",
            )
            .exit(),
    }
    recipe
}

fn new_password(words: &AddArgs, recipe: HashParams) -> Result<Password, Failure> {
    let password = if words.generate {
        generate::password()?
    } else if words.stdin {
        password::from_stdin()?
    } else {
        return password::ask_twice(&shown(&words.of.user), recipe);
    };
    recipe.check(&password)?;
    Ok(password)
}

fn added(of: &User, edited: &Edited) -> String {
    let (user, file) = (shown(&of.user), of.file.display());
    let what = if edited.existed {
        format!("changed the password of {user} in {file}")
    } else {
        format!("added {user} to {file}")
    };
    format!(
        "{what}, line {}{}",
        edited.line,
        duplicates(edited.duplicates)
    )
}

fn duplicates(count: usize) -> String {
    match count {
        0 => String::new(),
        1 => "; a later line of the same user, which counted for nothing, is gone".to_owned(),
        _ => format!("; {count} later lines of the same user, which counted for nothing, are gone"),
    }
}

fn print_password(password: &Password) -> Result<(), Failure> {
    let line = zeroize::Zeroizing::new([password.as_bytes(), b"\n"].concat());
    let mut out = std::io::stdout();
    out.write_all(&line)
        .and_then(|()| out.flush())
        .map_err(|error| {
            format!("the password is set but could not be printed: {error}; set another one").into()
        })
}

fn remove(words: &User) -> Result<(), Failure> {
    let user = words.user.as_bytes();
    let Some(edited) = store::update(&words.file, WAIT, |text| edit::remove(text, user))? else {
        return Err(unknown(words, &store::read(&words.file)?));
    };
    print_line(&format!(
        "removed {} from {}{}",
        shown(&words.user),
        words.file.display(),
        duplicates(edited.duplicates)
    ));
    if htpasswd::parse(&edited.bytes).users.is_empty() {
        warn(&format!(
            "nobody can sign in with {} any more",
            words.file.display()
        ));
    }
    Ok(())
}

fn verify(words: &VerifyArgs) -> Result<(), Failure> {
    let user = &words.of.user;
    let text = store::read(&words.of.file)?;
    let loaded = htpasswd::parse(&text);
    let Some(entry) = loaded.users.find(user.as_bytes()) else {
        return Err(unknown(&words.of, &text));
    };
    let password = if words.stdin {
        password::from_stdin()?
    } else {
        password::ask(&format!("Password of {}: ", shown(user)))?
    };
    let place = format!("{}, line {}", entry.scheme(), entry.line());
    if entry.verify(&password) {
        print_line(&format!("right: the password of {} ({place})", shown(user)));
        return Ok(());
    }
    Err(format!("wrong: not the password of {} ({place})", shown(user)).into())
}

fn list(words: &FileArgs) -> Result<(), Failure> {
    let listed = htpasswd::list(&store::read(&words.file)?);
    if listed.is_empty() {
        warn(&format!("{}: no users", words.file.display()));
        return Ok(());
    }
    print_line(&table::of(&listed));
    Ok(())
}

/// Printable, whatever the bytes.
fn shown(user: &OsStr) -> String {
    user.to_string_lossy().escape_debug().to_string()
}

/// Other writers need milliseconds.
const WAIT: Duration = Duration::from_secs(5);
const ADD_EXAMPLES: &str = "Examples:
  tidegate htpasswd add users alice                       asks for the password, twice
  tidegate htpasswd add users alice --generate            makes one and prints it
  pass show registry | tidegate htpasswd add users alice --stdin
  tidegate htpasswd add users alice --cost 12             four times as dear to guess, and to check
  tidegate htpasswd add users alice --scheme sha512       for a reader that knows no bcrypt

The file is replaced in one step; its comments, order, owner and mode stay. A running gate takes the change up by
itself within two seconds.";
/// After `tidegate htpasswd --help`.
pub(super) const EXAMPLES: &str = "Examples:
  tidegate htpasswd add users alice --generate    a new user with a random password
  tidegate htpasswd add users alice               a new password for the same user
  tidegate htpasswd list users                    who is there, and whose hash is weak
  tidegate htpasswd verify users alice            is this the password?
  tidegate htpasswd remove users alice            and out

Exit codes: 0 done, 1 failed (verify: wrong password or no such user), 2 wrong command line.";
