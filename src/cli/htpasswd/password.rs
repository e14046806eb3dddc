//! Where a password comes from: the terminal, without echo, or standard input.
//!
//! For `htpasswd` and `check` of `cli`. Whether it is fit for a hash is `make`'s to say.

use std::io::{self, BufRead, IsTerminal, Read};

use zeroize::Zeroizing;

use super::Failure;
use super::terminal::Terminal;
use crate::cli::warn;
use crate::htpasswd::MAX_PASSWORD;
use crate::htpasswd::generate::HashParams;
use crate::secret::Password;

/// The first line, without its end.
pub(in crate::cli) fn from_stdin() -> Result<Password, Failure> {
    // Never grown, which would leave a copy behind.
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_LINE));
    let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
    io::stdin()
        .lock()
        .take(limit)
        .read_until(b'\n', &mut line)
        .map_err(|error| format!("cannot read the password from standard input: {error}"))?;
    let text = line.strip_suffix(b"\n").unwrap_or(&line);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    if text.is_empty() {
        return Err(
            "the first line of standard input is empty; it should be the password, and nothing else"
                .into(),
        );
    }
    Ok(Password::new(text.to_vec()))
}

/// Once, for one that exists.
pub(in crate::cli) fn ask(prompt: &str) -> Result<Password, Failure> {
    if !io::stdin().is_terminal() {
        return Err("there is no terminal to ask for the password; pipe it to --stdin".into());
    }
    read(&mut terminal()?, prompt)
}

/// Twice, for a new one; two that differ are asked for again.
pub(super) fn ask_twice(user: &str, recipe: HashParams) -> Result<Password, Failure> {
    if !io::stdin().is_terminal() {
        return Err("there is no terminal to ask for the password; pipe it to --stdin, or let --generate make one".into());
    }
    // Silent from before the first prompt to after the last answer: nothing typed early is shown either.
    let mut terminal = terminal()?;
    for _ in 0..TRIES {
        let first = read(&mut terminal, &format!("New password for {user}: "))?;
        recipe.check(&first)?;
        let second = read(&mut terminal, "The same once more: ")?;
        if first.as_bytes() == second.as_bytes() {
            return Ok(first);
        }
        warn("the two passwords differ");
    }
    Err("nothing was changed".into())
}

fn terminal() -> Result<Terminal, Failure> {
    Terminal::open().map_err(|error| not_typed(&error))
}

fn read(terminal: &mut Terminal, prompt: &str) -> Result<Password, Failure> {
    let typed = terminal.ask(prompt).map_err(|error| not_typed(&error))?;
    Ok(Password::new(typed.to_vec()))
}

fn not_typed(error: &io::Error) -> Failure {
    format!("no password was typed: {error}; nothing was changed").into()
}

const TRIES: usize = 3;
/// One byte more than the longest password and its line end, so that a longer one is noticed.
const MAX_LINE: usize = MAX_PASSWORD + 3;
