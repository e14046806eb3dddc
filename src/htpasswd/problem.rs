//! What is wrong with a password file, in words for the one who keeps it.
//!
//! The parser makes them, `snapshot` reports them. They name the line and the user, never the hash: a problem is
//! safe to print anywhere.

use std::fmt;
use std::path::Path;

use super::MAX_LISTED;
use super::hash::{Rejection, Scheme};

/// One remark about one line. `Display` is a sentence: what, why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// From 1; 0 for the file as a whole.
    pub line: usize,
    /// The user's name, made printable; none when the line has none, or when the "name" may be a misplaced hash.
    pub user: Option<String>,
    /// What is wrong.
    pub kind: ProblemKind,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProblemKind {
    /// The line itself is unusable.
    #[error("{0}")]
    Line(BadLine),
    /// The hash is unusable.
    #[error("{0}")]
    Hash(Rejection),
    /// The hash works, and is easily broken.
    #[error("{} is accepted, but {}; set the password anew with {RENEW}", .0, .0.weakness())]
    Weak(Scheme),
    /// A user's second line.
    #[error(
        "the same user stands on line {first}, which alone counts; remove one of the two lines"
    )]
    Duplicate {
        /// The line that counts.
        first: usize,
    },
    /// The line works, perhaps not as meant.
    #[error("{0}")]
    Untidy(LineWarning),
    /// Of the file, not of a line.
    #[error(
        "every user of this machine can get at the file (mode {mode:04o}), and whoever has the hashes guesses passwords at leisure; chmod o= it, and let the gate's group read it"
    )]
    Exposed {
        /// The file's permissions.
        mode: u32,
    },
    /// Stands for those that are not listed; its line is the first of them.
    #[error("{count} more {severity} from here on are not listed; repair the listed ones first")]
    Omitted {
        /// Of which severity.
        severity: Severity,
        /// How many.
        count: usize,
    },
}

/// Why a line is nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    /// Perhaps a hash or a password alone: nothing of it is printed.
    #[error("there is no colon, so the line is nobody's and is ignored; add users with {RENEW}")]
    NoColon,
    /// Would admit requests that name nobody.
    #[error(
        "there is no name before the colon, so nobody can sign in with this line; add users with {RENEW}"
    )]
    EmptyUser,
    /// Longer than any client sends in earnest.
    #[error(
        "the user name has more than 255 bytes, so this line is refused; choose a shorter name"
    )]
    LongUser,
    /// A sign of a damaged file, or of UTF-16.
    #[error(
        "there is a NUL byte, as in a damaged or UTF-16 file, so the user cannot sign in; write the line anew with {RENEW}"
    )]
    Nul,
}

/// What works, perhaps not as meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineWarning {
    /// nginx takes it for a part of the first name.
    #[error(
        "the file begins with a byte order mark, which is ignored here and by no other server; save it as UTF-8 without BOM"
    )]
    ByteOrderMark,
    /// Seldom meant.
    #[error(
        "spaces at an end of the user name are part of the name; remove them if the user cannot sign in"
    )]
    SpaceInName,
    /// Two names that look the same are two users.
    #[error(
        "the user name holds a character that cannot be seen and is part of the name; write the name without it, unless clients send it"
    )]
    InvisibleInName,
    /// nginx and Apache let nobody in.
    #[error(
        "there are spaces beside the hash, which are ignored here and by no other server; remove them"
    )]
    SpaceAroundHash,
    /// A file of an old Mac, or two joined lines.
    #[error(
        "there is a carriage return within the line, and what follows it is ignored; end lines with a line feed"
    )]
    TextAfterReturn,
}

/// What a problem means for its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Nobody can sign in with this line.
    UserDisabled,
    /// The line works, or another line of the same user counts.
    Warning,
}

impl Problem {
    /// What it means for the user.
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

    /// What is wrong, and what to do about it; a command names `file` and, where there is one, the user.
    pub fn explain(&self, file: &Path) -> (String, String) {
        self.kind.explain(file, self.user.as_deref())
    }

    pub(super) fn new(line: usize, name: Option<&[u8]>, kind: ProblemKind) -> Self {
        // Fields in the wrong order put a hash where the name belongs.
        let swapped = |name: &&[u8]| {
            kind == ProblemKind::Hash(Rejection::PlainText) && Scheme::parse(name).is_ok()
        };
        Self {
            line,
            user: name.filter(|name| !swapped(name)).and_then(printable),
            kind,
        }
    }
}

impl ProblemKind {
    /// Whether two lines have the same problem, and may share one report. Of duplicates each has its own first line.
    pub fn is_like(self, other: Self) -> bool {
        match (self, other) {
            (Self::Duplicate { .. }, Self::Duplicate { .. }) => false,
            _ => self == other,
        }
    }

    /// What is wrong, and what to do about it; a command names `file` and, where there is one, the user.
    pub fn explain(&self, file: &Path, user: Option<&str>) -> (String, String) {
        let sentence = self.to_string().replace(RENEW, &add_command(file, user));
        match sentence.split_once("; ") {
            Some((what, remedy)) => (what.to_owned(), remedy.to_owned()),
            None => (sentence, String::new()),
        }
    }
}

/// The command that sets a user's password. A name that was escaped to be printed cannot be typed, so `USER` stands in
/// its place.
pub fn add_command(file: &Path, user: Option<&str>) -> String {
    let typed = user.map(|user| user.replace("\\'", "'").replace("\\\"", "\""));
    let typed = typed.filter(|user| !user.contains('\\') && !user.starts_with('-'));
    format!(
        "tidegate htpasswd add {} {}",
        shell_word(&file.to_string_lossy()),
        typed.map_or_else(|| "USER".to_owned(), |user| shell_word(&user))
    )
}

/// `text` as one word of a POSIX shell.
pub fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "_./:@%+=,-".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Characters of a name that are printed as nothing or as a blank, or that change the order of the text around them.
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
            Self::UserDisabled => "lines with which nobody can sign in",
            Self::Warning => "warnings",
        })
    }
}

/// Problems in the making, bounded.
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
        let tally = match problem.severity() {
            Severity::UserDisabled => &mut self.disabled,
            Severity::Warning => &mut self.warnings,
        };
        if tally.listed < MAX_LISTED {
            tally.listed += 1;
            self.listed.push(problem);
            return;
        }
        if tally.omitted == 0 {
            tally.first_omitted = problem.line;
        }
        tally.omitted += 1;
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

/// A name without control characters or line ends; none for what begins like a hash.
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

/// The remedy for nearly everything: a template, in which [`ProblemKind::explain`] fills in file and user.
pub(super) const RENEW: &str = "tidegate htpasswd add FILE USER";
/// Bytes of a user name.
pub(super) const MAX_USER: usize = 255;
