//! The line on a terminal that reports what a command is doing while it takes time.
//!
//! The line goes to standard error, is replaced by the next one, and is erased at the end. Where standard error is not a
//! terminal, nothing is written, so that scripts and logs contain results only.

use std::io::{self, IsTerminal as _, Write as _};

use rustix::termios::tcgetwinsize;

/// Shows what a command is doing. Dropping the value erases the line.
#[derive(Debug)]
pub(crate) struct Progress {
    is_terminal: bool,
}

impl Progress {
    pub(crate) fn start() -> Self {
        Self {
            is_terminal: io::stderr().is_terminal(),
        }
    }

    /// Replaces the line.
    pub(crate) fn show(&self, what: &str) {
        if self.is_terminal {
            // A line that wraps could not be erased.
            let columns = tcgetwinsize(io::stderr()).map_or(0, |size| usize::from(size.ws_col));
            let columns = if columns == 0 { USUAL_COLUMNS } else { columns };
            let line: String = format!("{what} …").chars().take(columns - 1).collect();
            write(&format!("{ERASE}{line}"));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_terminal {
            write(ERASE);
        }
    }
}

/// A terminal that cannot be written to is no reason to fail.
fn write(text: &str) {
    let mut terminal = io::stderr();
    let _ = terminal
        .write_all(text.as_bytes())
        .and_then(|()| terminal.flush());
}

/// Back to the first column, and erase to the end of the line (ECMA-48 EL).
const ERASE: &str = "\r\x1b[K";
const USUAL_COLUMNS: usize = 80;
