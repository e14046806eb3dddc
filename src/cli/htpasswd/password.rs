//! Where a password comes from: the terminal, without echo, or standard input.
//!
//! For `htpasswd` of `cli`. Whether it is fit for a hash is `make`'s to say.

use std::io::{self, BufRead, IsTerminal, Read};

use zeroize::Zeroizing;

use super::Failure;
use crate::cli::warn;
use crate::htpasswd::MAX_PASSWORD;
use crate::htpasswd::make::Recipe;
use crate::secret::Password;

/// The first line, without its end.
pub(super) fn from_stdin() -> Result<Password, Failure> {
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
pub(super) fn ask(prompt: &str) -> Result<Password, Failure> {
    if !io::stdin().is_terminal() {
        return Err("there is no terminal to ask for the password; pipe it to --stdin".into());
    }
    read(prompt)
}

/// Twice, for a new one; two that differ are asked for again.
pub(super) fn ask_twice(user: &str, recipe: Recipe) -> Result<Password, Failure> {
    if !io::stdin().is_terminal() {
        return Err("there is no terminal to ask for the password; pipe it to --stdin, or let --generate make one".into());
    }
    for _ in 0..TRIES {
        let first = read(&format!("New password for {user}: "))?;
        recipe.check(&first)?;
        let second = read("The same once more: ")?;
        if first.as_bytes() == second.as_bytes() {
            return Ok(first);
        }
        warn("the two passwords differ");
    }
    Err("nothing was changed".into())
}

/// Says the prompt on the terminal, not on standard output.
fn read(prompt: &str) -> Result<Password, Failure> {
    let typed = rpassword::prompt_password(prompt)
        .map_err(|error| format!("no password was typed: {error}; nothing was changed"))?;
    Ok(Password::new(typed.into_bytes()))
}

const TRIES: usize = 3;
/// One byte more than the longest password and its line end, so that a longer one is noticed.
const MAX_LINE: usize = MAX_PASSWORD + 3;
