//! Writing to standard output and standard error, and the exit codes of all commands.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use crate::config::problem::{Problems, escape};

/// The exit code for a rejected configuration: `EX_CONFIG` of sysexits.h.
pub(crate) const EXIT_CONFIG_REJECTED: u8 = 78;
/// The exit code for a wrong command line, which clap uses as well.
pub(crate) const EXIT_USAGE: u8 = 2;

/// Writes text to standard output as it is. A failure is an error, because output that was cut short must not be taken for the
/// whole.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// Writes a line to standard output. A reader that has closed the pipe is not an error.
pub(crate) fn print_line(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Writes a line to standard error.
pub(crate) fn warn(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// The lines of a response of the admin listener, without characters that a terminal would interpret. They contain names that a
/// client chose, and another program may listen at the address.
pub(crate) fn escape_lines(text: &str) -> String {
    let lines: Vec<_> = text.trim_end().lines().map(escape).collect();
    lines.join("\n")
}

/// Writes a line to standard error, and returns exit code 1.
pub(crate) fn fail(reason: &str) -> ExitCode {
    warn(reason);
    ExitCode::FAILURE
}

/// All problems of a rejected configuration, and a last line with their number. If the file is missing, and the working directory
/// has a `proxy.toml`, that one was probably meant, unless the path is relative to this directory, as the default is not.
pub(crate) fn rejection_message(problems: &Problems) -> String {
    let file = problems.file();
    let here = Path::new("proxy.toml");
    let suggestion = if file.is_absolute() && !file.exists() && here.is_file() {
        "\nthis directory has a proxy.toml; to use it, add: -c proxy.toml"
    } else {
        ""
    };
    format!(
        "{problems}\n{}: the configuration is rejected: {}{suggestion}",
        file.display(),
        problems.summary()
    )
}

#[cfg(test)]
mod tests {
    use super::escape_lines;

    #[test]
    fn a_response_cannot_control_the_terminal_and_keeps_its_lines() {
        let text = "ready\nwarning: \u{1b}[2J\u{202e}x\r\n";
        let expected = "ready\nwarning: \\u{1b}[2J\\u{202e}x";
        assert_eq!(escape_lines(text), expected);
    }
}
