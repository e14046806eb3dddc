//! The parser of password files: from the bytes of a file to users and problems.
//!
//! Which hashes are accepted is decided in `hash`.
//!
//! The grammar is that of nginx (`ngx_http_auth_basic_module.c`): a line is `USER:HASH[:COMMENT]`; a line whose first byte is
//! `#` or CR is skipped; the hash ends at LF, CR or `:`; and the first line of a user counts. Where nginx silently rejects
//! every login with a line, this parser reports the line by its number.

use std::collections::HashMap;

use super::hash::Scheme;
use super::problem::{
    BadLine, LineWarning, MAX_USER, Problem, ProblemKind, ProblemList, is_invisible, printable,
};
use super::users::{Entry, Users};

/// The result of parsing a file.
#[derive(Debug, Default)]
pub struct LoadedUsers {
    /// The users whose lines are valid.
    pub users: Users,
    /// The problems in the order of the lines. At most [`MAX_LISTED`](super::MAX_LISTED) of each severity are listed, and a
    /// further one counts the rest.
    pub problems: Vec<Problem>,
}

/// Parses the content of a file. No content is an error: with an invalid line its user cannot sign in, and other users are
/// not affected.
pub fn parse(bytes: &[u8]) -> LoadedUsers {
    let mut parser = Parser::default();
    let text = match bytes.strip_prefix(BYTE_ORDER_MARK) {
        Some(text) => {
            parser.report(1, None, ProblemKind::Untidy(LineWarning::ByteOrderMark));
            text
        }
        None => bytes,
    };
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        parser.parse_line(index + 1, line);
    }
    parser.finish()
}

/// The content of one line, for the command that lists users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineInfo {
    /// The number of the line, from 1.
    pub line: usize,
    /// The name of the user in printable form; `None` in the same cases as [`Problem::user`].
    pub user: Option<String>,
    /// The format of the hash, or the reason why no user can sign in with this line.
    pub scheme: Result<Scheme, ProblemKind>,
}

impl LineInfo {
    /// The weakness of a hash that is accepted, if it has one.
    pub fn weakness(&self) -> Option<&'static str> {
        let scheme = self.scheme.ok()?;
        scheme.is_weak().then(|| scheme.weakness())
    }
}

/// Lists all lines except comments and blank lines, in the order of the file.
pub fn list(bytes: &[u8]) -> Vec<LineInfo> {
    let text = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let mut first_lines = HashMap::new();
    let lines = text.split(|&byte| byte == b'\n').enumerate();
    lines
        .filter(|(_, line)| !is_comment_or_blank(line))
        .map(|(index, line)| list_line(index + 1, line, &mut first_lines))
        .collect()
}

fn list_line<'a>(
    number: usize,
    line: &'a [u8],
    first_lines: &mut HashMap<&'a [u8], usize>,
) -> LineInfo {
    let (name, scheme) = match split_name(line) {
        Err(bad) => (None, Err(ProblemKind::Line(bad))),
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

/// The name in a line, and the part after its colon. `None` for a comment, a blank line, and a line without a usable name.
pub(super) fn entry_of(line: &[u8]) -> Option<(&[u8], &[u8])> {
    if is_comment_or_blank(line) {
        return None;
    }
    split_name(line).ok()
}

/// Whether the text is a PEM file, such as a private key, which an operator may name by mistake.
pub(super) fn is_pem(text: &[u8]) -> bool {
    let mut lines = text.split(|&byte| byte == b'\n');
    lines.any(|line| line.starts_with(b"-----BEGIN "))
}

/// Whether the text is probably that of another kind of file: no line has a hash, and not every line has the form
/// `USER:PASSWORD`. A file of settings has lines with a colon, too: TOML with a URL, YAML, `/etc/passwd`.
pub(super) fn is_of_another_kind(text: &[u8]) -> bool {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let lines = text.split(|&byte| byte == b'\n');
    let entries: Vec<_> = lines
        .filter(|line| !is_comment_or_blank(line))
        .map(entry_of)
        .collect();
    let has_hash = |(_, rest): &(&[u8], &[u8])| classify_hash(rest).is_ok();
    let may_have_password = |(name, rest): &(&[u8], &[u8])| {
        let is_name = name.trim_ascii() == *name && !name.starts_with(b"{");
        is_name && !rest.starts_with(b" ") && !rest.contains(&b':')
    };
    !entries.iter().flatten().any(has_hash)
        && !entries
            .iter()
            .all(|entry| entry.as_ref().is_some_and(may_have_password))
}

/// The state of parsing a file.
#[derive(Default)]
struct Parser {
    entries: HashMap<Box<[u8]>, Entry>,
    /// The names whose first line is unusable, with the number of that line. A later line of the same user must not count.
    disabled: HashMap<Box<[u8]>, usize>,
    problems: ProblemList,
}

impl Parser {
    fn parse_line(&mut self, number: usize, line: &[u8]) {
        if is_comment_or_blank(line) {
            return;
        }
        let (name, rest) = match split_name(line) {
            Ok(parts) => parts,
            Err(bad) => return self.report(number, None, ProblemKind::Line(bad)),
        };
        if let Some(first) = self.effective_line(name) {
            return self.report(number, Some(name), ProblemKind::Duplicate { first });
        }
        match self.parse_entry(number, name, rest) {
            Ok(entry) => {
                self.entries.insert(name.into(), entry);
            }
            Err(kind) => {
                self.disabled.insert(name.into(), number);
                self.report(number, Some(name), kind);
            }
        }
    }

    /// Parses the part of a line after the name.
    fn parse_entry(&mut self, line: usize, name: &[u8], rest: &[u8]) -> Result<Entry, ProblemKind> {
        let (stored, scheme) = classify_hash(rest)?;
        let (field, has_hidden_text) = split_hash(rest);
        let warnings = [
            (name.trim_ascii() != name).then_some(ProblemKind::Untidy(LineWarning::SpaceInName)),
            has_invisible(name).then_some(ProblemKind::Untidy(LineWarning::InvisibleInName)),
            (stored != field).then_some(ProblemKind::Untidy(LineWarning::SpaceAroundHash)),
            has_hidden_text.then_some(ProblemKind::Untidy(LineWarning::TextAfterReturn)),
            scheme.is_weak().then_some(ProblemKind::Weak(scheme)),
        ];
        for warning in warnings.into_iter().flatten() {
            self.report(line, Some(name), warning);
        }
        Ok(Entry::new(scheme, line, stored))
    }

    /// The line that counts for a user, if there is one before.
    fn effective_line(&self, name: &[u8]) -> Option<usize> {
        let usable = self.entries.get(name).map(Entry::line);
        usable.or_else(|| self.disabled.get(name).copied())
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

/// Whether a name has an invisible character. Bytes that are not UTF-8 do not count, because they are shown as U+FFFD.
fn has_invisible(name: &[u8]) -> bool {
    std::str::from_utf8(name).is_ok_and(|name| name.chars().any(is_invisible))
}

/// Whether a line is a comment or blank.
fn is_comment_or_blank(line: &[u8]) -> bool {
    matches!(line.first(), Some(b'#' | b'\r')) || line.trim_ascii().is_empty()
}

/// The hash in the part of a line after the name, and its format.
fn classify_hash(rest: &[u8]) -> Result<(&[u8], Scheme), ProblemKind> {
    if rest.contains(&0) {
        return Err(ProblemKind::Line(BadLine::Nul));
    }
    let stored = split_hash(rest).0.trim_ascii();
    let scheme = Scheme::parse(stored).map_err(ProblemKind::Hash)?;
    Ok((stored, scheme))
}

/// Splits a line at its first colon. A name cannot have a colon, but a password can.
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

/// The hash field of the part after the name, and whether a CR within the line hides text after it.
pub(super) fn split_hash(rest: &[u8]) -> (&[u8], bool) {
    let mut fields = rest.split(|byte| matches!(byte, b':' | b'\r'));
    let has_hidden_text = rest.trim_ascii_end().contains(&b'\r');
    (fields.next().unwrap_or_default(), has_hidden_text)
}

/// U+FEFF in UTF-8, which editors on Windows write at the start of a file. nginx takes it for a part of the first name.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
