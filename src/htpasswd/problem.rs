//! What is wrong with a password file, in words for the one who keeps it.
//!
//! The parser makes them, `snapshot` reports them. They name the line and the user, never the hash: a problem is
//! safe to print anywhere.

use std::fmt;

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
    Untidy(Untidy),
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
pub enum Untidy {
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
pub(super) struct List {
    listed: Vec<Problem>,
    disabled: Tally,
    warnings: Tally,
}

#[derive(Default)]
struct Tally {
    listed: usize,
    omitted: usize,
    first_omitted: usize,
}

impl List {
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

impl Tally {
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
    Some(String::from_utf8_lossy(name).escape_debug().to_string())
}

/// The remedy for nearly everything.
pub(super) const RENEW: &str = "tidegate htpasswd add FILE USER";
/// Bytes of a user name.
pub(super) const MAX_USER: usize = 255;
