//! From a file's bytes to users and problems: the grammar of the lines.
//!
//! For `load` and for everyone who has the bytes already. What a hash field may hold is `hash`'s to judge.
//!
//! The grammar is nginx's (`ngx_http_auth_basic_module.c`): a line is `USER:HASH[:COMMENT]`, a first byte `#` or CR
//! skips it, the hash ends at LF, CR or `:`, and the first line of a user decides. Where nginx says nothing and
//! lets nobody in, the line is reported by number.

use std::collections::HashMap;

use super::hash::Scheme;
use super::problem::{
    BadLine, LineWarning, MAX_USER, Problem, ProblemKind, ProblemList, is_invisible, printable,
};
use super::{Entry, LoadedUsers, Users};

/// Parses the content of a file. Any bytes have a result: bad lines cost their user the login and nobody else.
pub fn parse(bytes: &[u8]) -> LoadedUsers {
    let mut reader = Reader::default();
    let text = match bytes.strip_prefix(BYTE_ORDER_MARK) {
        Some(text) => {
            reader.report(1, None, ProblemKind::Untidy(LineWarning::ByteOrderMark));
            text
        }
        None => bytes,
    };
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        reader.read_line(index + 1, line);
    }
    reader.finish()
}

/// What one line says, for a list of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineInfo {
    /// From 1.
    pub line: usize,
    /// The user's name, made printable; none as in [`Problem::user`].
    pub user: Option<String>,
    /// With what the user signs in, or why nobody does with this line.
    pub scheme: Result<Scheme, ProblemKind>,
}

impl LineInfo {
    /// What is weak about a hash that is accepted; none for a good one.
    pub fn weakness(&self) -> Option<&'static str> {
        let scheme = self.scheme.ok()?;
        scheme.is_weak().then(|| scheme.weakness())
    }
}

/// Every line but comments and blank ones, in the order of the file.
pub fn list(bytes: &[u8]) -> Vec<LineInfo> {
    let text = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let mut first_lines = HashMap::new();
    let lines = text.split(|&byte| byte == b'\n').enumerate();
    let speaking = lines.filter(|(_, line)| !is_comment_or_blank(line));
    speaking
        .map(|(index, line)| list_line(index + 1, line, &mut first_lines))
        .collect()
}

fn list_line<'a>(
    number: usize,
    line: &'a [u8],
    first_lines: &mut HashMap<&'a [u8], usize>,
) -> LineInfo {
    let (name, scheme) = match split_name(line) {
        Err(fault) => (None, Err(ProblemKind::Line(fault))),
        Ok((name, rest)) => match *first_lines.entry(name).or_insert(number) {
            first if first == number => (Some(name), classify_hash(rest).map(|(_, scheme)| scheme)),
            first => (Some(name), Err(ProblemKind::Duplicate { first })),
        },
    };
    let user = match scheme {
        Ok(_) => name.and_then(printable),
        Err(kind) => Problem::new(number, name, kind).user,
    };
    LineInfo {
        line: number,
        user,
        scheme,
    }
}

/// The name of a line and what follows the colon; none for a comment, an empty line, and a line without a usable name.
pub(super) fn entry_of(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let speaking = Some(line).filter(|line| !is_comment_or_blank(line))?;
    split_name(speaking).ok()
}

/// The state of one pass over a file.
#[derive(Default)]
struct Reader {
    entries: HashMap<Box<[u8]>, Entry>,
    /// Names whose deciding line was refused: a later line must not let them in.
    disabled: HashMap<Box<[u8]>, usize>,
    problems: ProblemList,
}

impl Reader {
    fn read_line(&mut self, number: usize, line: &[u8]) {
        if is_comment_or_blank(line) {
            return;
        }
        let (name, rest) = match split_name(line) {
            Ok(parts) => parts,
            Err(fault) => return self.report(number, None, ProblemKind::Line(fault)),
        };
        if let Some(first) = self.effective_line(name) {
            return self.report(number, Some(name), ProblemKind::Duplicate { first });
        }
        match self.read_hash(number, name, rest) {
            Ok(entry) => {
                self.entries.insert(name.into(), entry);
            }
            Err(kind) => {
                self.disabled.insert(name.into(), number);
                self.report(number, Some(name), kind);
            }
        }
    }

    fn read_hash(&mut self, line: usize, name: &[u8], rest: &[u8]) -> Result<Entry, ProblemKind> {
        let (stored, scheme) = classify_hash(rest)?;
        let (field, after) = split_hash(rest);
        let remarks = [
            (name.trim_ascii() != name).then_some(ProblemKind::Untidy(LineWarning::SpaceInName)),
            has_invisible(name).then_some(ProblemKind::Untidy(LineWarning::InvisibleInName)),
            (stored != field).then_some(ProblemKind::Untidy(LineWarning::SpaceAroundHash)),
            after.then_some(ProblemKind::Untidy(LineWarning::TextAfterReturn)),
            scheme.is_weak().then_some(ProblemKind::Weak(scheme)),
        ];
        for remark in remarks.into_iter().flatten() {
            self.report(line, Some(name), remark);
        }
        Ok(Entry {
            scheme,
            line,
            stored: stored.into(),
        })
    }

    fn effective_line(&self, name: &[u8]) -> Option<usize> {
        let good = self.entries.get(name).map(|entry| entry.line);
        good.or_else(|| self.disabled.get(name).copied())
    }

    fn report(&mut self, line: usize, name: Option<&[u8]>, kind: ProblemKind) {
        self.problems.push(Problem::new(line, name, kind));
    }

    fn finish(self) -> LoadedUsers {
        LoadedUsers {
            users: Users::new(self.entries),
            problems: self.problems.finish(),
        }
    }
}

/// Whether a name of the file holds a character that cannot be seen. Bytes that are no UTF-8 are another matter: they are
/// shown as U+FFFD.
fn has_invisible(name: &[u8]) -> bool {
    std::str::from_utf8(name).is_ok_and(|name| name.chars().any(is_invisible))
}

/// A comment, or blank.
fn is_comment_or_blank(line: &[u8]) -> bool {
    matches!(line.first(), Some(b'#' | b'\r')) || line.trim_ascii().is_empty()
}

/// The hash in what follows the name, and its format.
fn classify_hash(rest: &[u8]) -> Result<(&[u8], Scheme), ProblemKind> {
    if rest.contains(&0) {
        return Err(ProblemKind::Line(BadLine::Nul));
    }
    let stored = split_hash(rest).0.trim_ascii();
    let scheme = Scheme::parse(stored).map_err(ProblemKind::Hash)?;
    Ok((stored, scheme))
}

/// The name, and what follows its colon. A colon cannot be part of a name, but may be part of a password.
pub(super) fn split_name(line: &[u8]) -> Result<(&[u8], &[u8]), BadLine> {
    let mut parts = line.splitn(2, |&byte| byte == b':');
    let (Some(name), Some(rest)) = (parts.next(), parts.next()) else {
        return Err(BadLine::NoColon);
    };
    match name {
        [] => Err(BadLine::EmptyUser),
        _ if name.contains(&0) => Err(BadLine::Nul),
        _ if name.len() > MAX_USER => Err(BadLine::LongUser),
        _ => Ok((name, rest)),
    }
}

/// The hash field, and whether a CR inside the line hides text after it.
pub(super) fn split_hash(rest: &[u8]) -> (&[u8], bool) {
    let mut fields = rest.split(|byte| matches!(byte, b':' | b'\r'));
    let hidden = rest.trim_ascii_end().contains(&b'\r');
    (fields.next().unwrap_or_default(), hidden)
}

/// U+FEFF in UTF-8, which editors on Windows write; to nginx it is part of the first name.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
