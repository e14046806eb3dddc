//! The problems of a password file, with messages for its administrator.
//!
//! The parser creates problems, and `snapshot` and the command `tidegate htpasswd` report them. A problem names the line
//! and the user, never the hash, so that it may be printed anywhere.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::hash::{RENEW, Scheme, UnusableHash};

/// A problem of one line. `Display` is a sentence: what is wrong, why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The number of the line, from 1; 0 for the file as a whole.
    pub line: usize,
    /// The name of the user in printable form. `None` if the line has no name, or if the name may be a misplaced hash.
    pub user: Option<String>,
    /// The kind of problem.
    pub kind: ProblemKind,
}

/// The kind of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProblemKind {
    /// The line itself is unusable.
    #[error("{0}")]
    Line(BadLine),
    /// The hash is unusable.
    #[error("{0}")]
    Hash(UnusableHash),
    /// The hash is accepted, but is easily broken.
    #[error("{} is accepted, but {}; set the password again with {RENEW}", .0, .0.weakness())]
    Weak(Scheme),
    /// The user has an earlier line.
    #[error(
        "the same user is on line {first}, and only that line counts; remove one of the two lines"
    )]
    Duplicate {
        /// The number of the line that counts.
        first: usize,
    },
    /// The line is accepted, but perhaps does not mean what was intended.
    #[error("{0}")]
    Untidy(LineWarning),
    /// Every user of the machine may read or write the file.
    #[error(
        "every user of this machine can {} the file (mode {mode:04o}), and can {}; {CLOSE}", exposure(*mode), danger(*mode)
    )]
    Exposed {
        /// The mode of the file.
        mode: u32,
    },
    /// Represents the problems that are not listed. Its line is that of the first of them.
    #[error("{count} more {severity} from here on are not listed; repair the listed ones first")]
    Omitted {
        /// Their severity.
        severity: Severity,
        /// Their number.
        count: usize,
    },
}

/// The reason why a line has no user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    /// The line has no colon. It may be a hash or a password alone, so nothing of it is printed.
    #[error("the line has no colon, so it has no user and is ignored; add users with {RENEW}")]
    NoColon,
    /// The name is empty. Such a line would accept requests without a user name.
    #[error(
        "there is no name before the colon, so no user can sign in with this line; add users with {RENEW}"
    )]
    EmptyUser,
    /// The name is longer than any that a client sends.
    #[error(
        "the user name has more than 255 bytes, so this line is rejected; choose a shorter name"
    )]
    LongUser,
    /// The line has a NUL byte, as in a damaged file or in UTF-16.
    #[error(
        "there is a NUL byte, as in a damaged or UTF-16 file, so the user cannot sign in; write the line again with {RENEW}"
    )]
    Nul,
}

/// What is unusual about a line that is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineWarning {
    /// The file begins with a byte order mark. nginx takes it for a part of the first name.
    #[error(
        "the file begins with a byte order mark, which tidegate ignores and other servers do not; save it as UTF-8 without BOM"
    )]
    ByteOrderMark,
    /// The name begins or ends with a space, which is seldom intended.
    #[error(
        "spaces at an end of the user name are part of the name; remove them if the user cannot sign in"
    )]
    SpaceInName,
    /// The name has an invisible character. Two names that look the same are then two users.
    #[error(
        "the user name has a character that cannot be seen and is part of the name; write the name without it, unless clients send it"
    )]
    InvisibleInName,
    /// There are spaces around the hash. nginx and Apache reject every login with such a line.
    #[error(
        "there are spaces around the hash, which tidegate ignores and other servers do not; remove them"
    )]
    SpaceAroundHash,
    /// The line has a carriage return before its end, as in a file of an old Mac, or in two joined lines.
    #[error(
        "there is a carriage return within the line, and the text after it is ignored; end lines with a line feed"
    )]
    TextAfterReturn,
}

/// The effect of a problem on its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// No user can sign in with this line.
    UserDisabled,
    /// The line is accepted, or another line of the same user counts.
    Warning,
}

impl Problem {
    /// The effect on the user.
    pub fn severity(&self) -> Severity {
        match self.kind {
            ProblemKind::Line(_) | ProblemKind::Hash(_) => Severity::UserDisabled,
            ProblemKind::Weak(_)
            | ProblemKind::Duplicate { .. }
            | ProblemKind::Untidy(_)
            | ProblemKind::Exposed { .. } => Severity::Warning,
            ProblemKind::Omitted { severity, .. } => severity,
        }
    }

    /// The problem and its remedy as two texts. A command in the remedy names `file` and the user, if there is one.
    pub fn explain(&self, file: &Path) -> (String, String) {
        self.kind.explain(file, self.user.as_deref())
    }

    pub(super) fn new(line: usize, name: Option<&[u8]>, kind: ProblemKind) -> Self {
        // If the fields are in the wrong order, the name is a hash and must not be printed.
        let swapped = |name: &&[u8]| {
            kind == ProblemKind::Hash(UnusableHash::PlainText) && Scheme::parse(name).is_ok()
        };
        Self {
            line,
            user: name.filter(|name| !swapped(name)).and_then(printable),
            kind,
        }
    }
}

impl ProblemKind {
    /// Whether two lines have the same problem, so that one report can name both. Two duplicates differ, because each has its
    /// own first line.
    pub fn is_like(self, other: Self) -> bool {
        match (self, other) {
            (Self::Duplicate { .. }, Self::Duplicate { .. }) => false,
            _ => self == other,
        }
    }

    /// The problem and its remedy as two texts. A command in the remedy names `file` and the user, if there is one.
    pub fn explain(&self, file: &Path, user: Option<&str>) -> (String, String) {
        let sentence = self.to_string().replace(RENEW, &add_command(file, user));
        let sentence = sentence.replace(CLOSE, &close_command(file));
        match sentence.split_once("; ") {
            Some((what, remedy)) => (what.to_owned(), remedy.to_owned()),
            None => (sentence, String::new()),
        }
    }
}

/// The placeholder of [`close_command`] in messages.
const CLOSE: &str = "chmod o= FILE";

/// The command that takes the rights of other users away. If the file belongs to the group of root, the proxy's user could not
/// read the file then, so the command changes the group as well.
fn close_command(file: &Path) -> String {
    let word = shell_word(&file.to_string_lossy());
    let is_of_root = fs::metadata(file).is_ok_and(|file| file.gid() == 0);
    match is_of_root {
        true => format!(
            "chmod o= {word}, or, if the proxy runs as the user tidegate, chgrp tidegate {word} && chmod g+r,o= {word}"
        ),
        false => format!("chmod o= {word}"),
    }
}

/// What other users can do with a file of this mode.
fn exposure(mode: u32) -> &'static str {
    match (mode & 0o004 != 0, mode & 0o002 != 0) {
        (true, true) => "read and write",
        (false, true) => "write",
        _ => "read",
    }
}

/// Why that matters.
fn danger(mode: u32) -> &'static str {
    match mode & 0o002 != 0 {
        true => "add users to it",
        false => "guess passwords offline from the hashes",
    }
}

/// The command that sets the password of a user. A name that was escaped to be printable cannot be typed, so the command
/// then has `USER` in its place.
pub fn add_command(file: &Path, user: Option<&str>) -> String {
    let typed = user.map(|user| user.replace("\\'", "'").replace("\\\"", "\""));
    let typed = typed.filter(|user| !user.contains('\\') && !user.starts_with('-'));
    format!(
        "tidegate htpasswd add {} {}",
        shell_word(&file.to_string_lossy()),
        typed.map_or_else(|| "USER".to_owned(), |user| shell_word(&user))
    )
}

/// Quotes `text` so that a POSIX shell reads it as one word.
pub fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "_./:@%+=,-".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Whether a character is displayed as nothing or as a blank, or changes the order of the text around it.
pub fn is_invisible(character: char) -> bool {
    character != ' '
        && (character.is_control()
            || character.is_whitespace()
            || matches!(
                character,
                '\u{ad}'
                    | '\u{34f}'
                    | '\u{61c}'
                    | '\u{115f}'..='\u{1160}'
                    | '\u{17b4}'..='\u{17b5}'
                    | '\u{180b}'..='\u{180f}'
                    | '\u{200b}'..='\u{200f}'
                    | '\u{202a}'..='\u{202e}'
                    | '\u{2060}'..='\u{206f}'
                    | '\u{2800}'
                    | '\u{3164}'
                    | '\u{fe00}'..='\u{fe0f}'
                    | '\u{feff}'
                    | '\u{ffa0}'
                    | '\u{e0000}'..='\u{e0fff}'
            ))
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.user {
            None if self.line == 0 => self.kind.fmt(f),
            Some(user) => write!(f, "line {}, user \"{user}\": {}", self.line, self.kind),
            None => write!(f, "line {}: {}", self.line, self.kind),
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UserDisabled => "lines with which no user can sign in",
            Self::Warning => "warnings",
        })
    }
}

/// A list of problems that keeps at most [`MAX_LISTED`] of each severity and counts the rest.
#[derive(Default)]
pub(super) struct ProblemList {
    listed: Vec<Problem>,
    disabled: ProblemCount,
    warnings: ProblemCount,
}

#[derive(Default)]
struct ProblemCount {
    listed: usize,
    omitted: usize,
    first_omitted: usize,
}

impl ProblemList {
    pub(super) fn push(&mut self, problem: Problem) {
        let count = match problem.severity() {
            Severity::UserDisabled => &mut self.disabled,
            Severity::Warning => &mut self.warnings,
        };
        if count.listed < MAX_LISTED {
            count.listed += 1;
            self.listed.push(problem);
            return;
        }
        if count.omitted == 0 {
            count.first_omitted = problem.line;
        }
        count.omitted += 1;
    }

    pub(super) fn finish(self) -> Vec<Problem> {
        let mut problems = self.listed;
        problems.extend(self.disabled.rest(Severity::UserDisabled));
        problems.extend(self.warnings.rest(Severity::Warning));
        problems
    }
}

impl ProblemCount {
    fn rest(&self, severity: Severity) -> Option<Problem> {
        let kind = ProblemKind::Omitted {
            severity,
            count: self.omitted,
        };
        (self.omitted > 0).then(|| Problem::new(self.first_omitted, None, kind))
    }
}

/// A name with control characters, line ends and invisible characters escaped. `None` for a name that begins like a hash.
pub(super) fn printable(name: &[u8]) -> Option<String> {
    if name.len() > MAX_USER || matches!(name.trim_ascii_start(), [] | [b'$' | b'{', ..]) {
        return None;
    }
    let mut printable = String::new();
    for character in String::from_utf8_lossy(name).chars() {
        if is_invisible(character) && !character.is_control() {
            printable.extend(character.escape_unicode());
        } else {
            printable.extend(character.escape_debug());
        }
    }
    Some(printable)
}

/// The maximum number of problems of one severity that are listed, so that a file with 100,000 weak hashes does not produce as
/// many log lines.
pub const MAX_LISTED: usize = 1000;
/// The maximum length of a user name in bytes.
pub(super) const MAX_USER: usize = 255;
