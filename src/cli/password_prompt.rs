//! Reads a password from the terminal without echo, or from standard input. Used by `tidegate htpasswd` and `tidegate check`.
//!
//! The terminal code is our own, and not that of the crate `rpassword`, for three properties that the tests rely on:
//!
//! - Ctrl-C and Ctrl-\ during a prompt restore the terminal and end the command with an error. With the default handling of
//!   SIGINT, the process would end with the echo still off.
//! - The echo is off from before the first prompt until after the last one, so that a password that is typed ahead between two
//!   prompts is not shown.
//! - Every buffer that held a password is zeroed, and a line that is longer than the terminal's line buffer is an error instead
//!   of a shortened password.
//!
//! Without a terminal the result is an error that names `--stdin`.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};
use zeroize::Zeroizing;

use super::output::warn;
use crate::htpasswd::MAX_PASSWORD;
use crate::htpasswd::generate::HashParams;
use crate::secret::Password;

/// A message for the operator.
pub(crate) type Error = Box<dyn std::error::Error>;

/// Reads the first line of standard input, without its line end.
pub(crate) fn from_stdin() -> Result<Password, Error> {
    // Allocated once: a buffer that grows would leave a copy of the password in freed memory.
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_STDIN_LINE));
    let limit = u64::try_from(MAX_STDIN_LINE).unwrap_or(u64::MAX);
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

/// Prompts once, for the password of an existing user.
pub(crate) fn ask(prompt: &str) -> Result<Password, Error> {
    if !io::stdin().is_terminal() {
        return Err("there is no terminal to ask for the password; pipe it to --stdin".into());
    }
    open_terminal()?.read_password(prompt)
}

/// Prompts twice for a new password that suits the hash, and again if the two entries differ.
pub(crate) fn ask_twice(user: &str, hash: HashParams) -> Result<Password, Error> {
    if !io::stdin().is_terminal() {
        return Err("there is no terminal to ask for the password; pipe it to --stdin, or let --generate make one".into());
    }
    // One value for all prompts, so that the echo stays off in between.
    let mut terminal = open_terminal()?;
    for _ in 0..MAX_ATTEMPTS {
        let first = terminal.read_password(&format!("New password for {user}: "))?;
        hash.check(&first)?;
        let second = terminal.read_password("The same once more: ")?;
        if first.as_bytes() == second.as_bytes() {
            return Ok(first);
        }
        warn("the two passwords differ");
    }
    Err("nothing was changed".into())
}

fn open_terminal() -> Result<Terminal, Error> {
    Terminal::open().map_err(|error| not_typed(&error))
}

fn not_typed(error: &io::Error) -> Error {
    format!("no password was typed: {error}; nothing was changed").into()
}

/// The controlling terminal of the process, whatever standard input and output are, with the echo off. Dropping the value
/// restores the settings. The kernel edits the lines (canonical mode).
struct Terminal {
    file: File,
    original: Termios,
}

impl Terminal {
    fn open() -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
        let original = tcgetattr(&file)?;
        let mut silent = original.clone();
        silent
            .local_modes
            .remove(LocalModes::ECHO | LocalModes::ECHONL);
        silent.local_modes.insert(LocalModes::ICANON);
        // A signal would end the process before the settings are restored. Without ISIG the two keys are ordinary bytes, and as
        // end-of-line characters they end the read, so that `read_line` sees them.
        silent.local_modes.remove(LocalModes::ISIG);
        silent.special_codes[SpecialCodeIndex::VEOL] = CTRL_C;
        silent.special_codes[SpecialCodeIndex::VEOL2] = CTRL_BACKSLASH;
        tcsetattr(&file, OptionalActions::Now, &silent)?;
        Ok(Self { file, original })
    }

    fn read_password(&mut self, prompt: &str) -> Result<Password, Error> {
        let typed = self.prompt(prompt).map_err(|error| not_typed(&error))?;
        Ok(Password::new(typed.to_vec()))
    }

    /// Writes the prompt, and reads a line without its end. The line feed that the operator types is not echoed, so it is
    /// written here.
    fn prompt(&mut self, prompt: &str) -> io::Result<Zeroizing<Vec<u8>>> {
        self.file.write_all(prompt.as_bytes())?;
        let line = self.read_line();
        self.file.write_all(b"\n")?;
        line
    }

    fn read_line(&mut self) -> io::Result<Zeroizing<Vec<u8>>> {
        // In canonical mode one read returns one line, and never more than the line buffer holds.
        let mut line = Zeroizing::new(vec![0; MAX_TERMINAL_LINE]);
        let length = self.file.read(&mut line)?;
        line.truncate(length);
        match line.last() {
            None => Err(io::ErrorKind::UnexpectedEof.into()),
            Some(&(CTRL_C | CTRL_BACKSLASH)) => Err(io::ErrorKind::Interrupted.into()),
            // The kernel has dropped the bytes that did not fit.
            Some(_) if length >= MAX_TERMINAL_LINE => Err(io::ErrorKind::FileTooLarge.into()),
            Some(b'\n') => {
                line.truncate(length - 1);
                Ok(line)
            }
            Some(_) => Ok(line),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Fails only if the terminal is gone.
        let _ = tcsetattr(&self.file, OptionalActions::Now, &self.original);
    }
}

const CTRL_C: u8 = 0x03;
const CTRL_BACKSLASH: u8 = 0x1c;
/// How often a new password is asked for if the two entries differ.
const MAX_ATTEMPTS: usize = 3;
/// The longest password, a CR and an LF, and one byte more, so that a longer password is noticed.
const MAX_STDIN_LINE: usize = MAX_PASSWORD + 3;
/// The line buffer of Linux: 4095 bytes and the line end.
const MAX_TERMINAL_LINE: usize = 4096;
