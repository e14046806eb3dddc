//! Edits of the text of a password file: the line of one user changes, and every other byte stays.
//!
//! The command `tidegate htpasswd` edits the text between reading and replacing the file with [`store`](super::store). This
//! module does no input or output.

use super::hash::{Scheme, UnusableHash};
use super::parse::{BYTE_ORDER_MARK, entry_of, split_hash};
use super::problem::MAX_USER;

/// The result of an edit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edited {
    /// The new text.
    pub bytes: Vec<u8>,
    /// The number of the user's line that counts, from 1. After a removal, the number that it had.
    pub line: usize,
    /// Whether the user had a line before.
    pub existed: bool,
    /// The number of later lines of the same user, which did not count and were removed.
    pub duplicates: usize,
}

/// The reason why no line is written for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// The name is empty. Its line would accept requests without a user name.
    #[error("the user name is empty")]
    Empty,
    /// The name has a colon, which ends a name in the file and in Basic credentials.
    #[error("the user name contains a colon, which ends a name; leave it out")]
    Colon,
    /// The name has a control character, which could end the line or could not be typed.
    #[error("the user name contains a control character; leave it out")]
    Control,
    /// The name begins with `#`, so that the line would be a comment.
    #[error(
        "the user name begins with #, which makes the line a comment; begin with another character"
    )]
    Comment,
    /// The name is longer than the parser accepts.
    #[error("the user name has more than {MAX_USER} bytes; choose a shorter one")]
    Long,
    /// The name begins like a hash, so that messages would not show it.
    #[error(
        "the user name begins like a hash, which may be in the wrong place; the command is tidegate htpasswd add FILE USER"
    )]
    Hash,
    /// The name begins or ends with a space, which is hardly ever intended.
    #[error(
        "the user name begins or ends with a space, which would be part of the name; leave it out"
    )]
    Space,
    /// The name begins with a byte order mark, which is ignored on the first line and counts on every other.
    #[error("the user name begins with a byte order mark; leave it out")]
    ByteOrderMark,
}

/// Checks whether [`set`] may write a line for this name. [`remove`] accepts any name.
pub fn check_name(user: &[u8]) -> Result<(), BadName> {
    match user {
        [] => Err(BadName::Empty),
        _ if user.contains(&b':') => Err(BadName::Colon),
        _ if user.iter().any(u8::is_ascii_control) => Err(BadName::Control),
        [b'#', ..] => Err(BadName::Comment),
        _ if user.len() > MAX_USER => Err(BadName::Long),
        _ if matches!(user.trim_ascii_start(), [b'$' | b'{', ..]) => Err(BadName::Hash),
        _ if user.trim_ascii() != user => Err(BadName::Space),
        _ if user.starts_with(BYTE_ORDER_MARK) => Err(BadName::ByteOrderMark),
        _ => Ok(()),
    }
}

/// Sets the hash of a user, in the line that counts for the user, whose comment stays, or in a new last line. The caller has
/// checked the name with [`check_name`].
pub fn set(text: &[u8], user: &[u8], hash: &[u8]) -> Edited {
    let mut edit = Edit::new(text);
    edit.copy_lines(user, |rest| Some(with_hash(user, hash, rest)));
    let line = match edit.first {
        Some(line) => line,
        None => edit.append(user, hash),
    };
    edit.finish(line)
}

/// Removes all lines of a user. Returns `None` if there is none.
pub fn remove(text: &[u8], user: &[u8]) -> Option<Edited> {
    let mut edit = Edit::new(text);
    edit.copy_lines(user, |_| None);
    let line = edit.first?;
    Some(edit.finish(line))
}

/// The state of an edit.
struct Edit<'a> {
    text: &'a [u8],
    bytes: Vec<u8>,
    lines: usize,
    first: Option<usize>,
    duplicates: usize,
    existed: bool,
}

impl<'a> Edit<'a> {
    fn new(text: &'a [u8]) -> Self {
        Self {
            text,
            bytes: Vec::with_capacity(text.len() + EXTRA_CAPACITY),
            lines: 0,
            first: None,
            duplicates: 0,
            existed: false,
        }
    }

    /// Copies all lines except those of the user. The first of these is replaced by the result of `change`, which gets the part
    /// of the line after the colon.
    fn copy_lines(&mut self, user: &[u8], change: impl Fn(&[u8]) -> Option<Vec<u8>>) {
        let mut text = self.text;
        if let Some(after) = text.strip_prefix(BYTE_ORDER_MARK) {
            self.bytes.extend_from_slice(BYTE_ORDER_MARK);
            text = after;
        }
        for whole in text.split_inclusive(|&byte| byte == b'\n') {
            self.lines += 1;
            let (line, end) = match whole.split_last() {
                Some((b'\n', line)) => (line, b"\n".as_slice()),
                _ => (whole, b"".as_slice()),
            };
            match entry_of(line) {
                Some((name, _)) if name == user && self.first.is_some() => self.duplicates += 1,
                Some((name, rest)) if name == user => {
                    self.first = Some(self.lines);
                    self.existed = true;
                    if let Some(changed) = change(rest) {
                        self.bytes.extend_from_slice(&changed);
                        self.bytes.extend_from_slice(end);
                    }
                }
                _ => self.bytes.extend_from_slice(whole),
            }
        }
    }

    /// Appends a line and returns its number. The line ends with a line end even if the last line before it has none, because
    /// `htpasswd` and `echo >>` would append to an unterminated line.
    fn append(&mut self, user: &[u8], hash: &[u8]) -> usize {
        let end = line_end(self.text);
        match self.bytes.last() {
            _ if self.lines == 0 => {}
            Some(b'\n') => {}
            Some(b'\r') => self.bytes.push(b'\n'),
            _ => self.bytes.extend_from_slice(end),
        }
        self.bytes
            .extend_from_slice(&[user, b":", hash, end].concat());
        self.lines + 1
    }

    fn finish(self, line: usize) -> Edited {
        Edited {
            bytes: self.bytes,
            line,
            existed: self.existed,
            duplicates: self.duplicates,
        }
    }
}

/// The line with another hash, without its line feed. `rest` is the part of the line after the colon.
fn with_hash(user: &[u8], hash: &[u8], rest: &[u8]) -> Vec<u8> {
    let (field, _) = split_hash(rest);
    let (_, mut after) = rest.split_at(field.len());
    if after.contains(&0) || is_plain_text(field) {
        // A NUL byte would make the new line invalid too. After a readable password with a colon, the rest may be a part of it.
        after = if rest.ends_with(b"\r") { b"\r" } else { b"" };
    }
    [user, b":", hash, after].concat()
}

/// Whether the field has a password instead of a hash.
fn is_plain_text(field: &[u8]) -> bool {
    let field = field.trim_ascii();
    field.starts_with(b"{PLAIN}") || Scheme::parse(field) == Err(UnusableHash::PlainText)
}

/// The line end of the last line that has one.
fn line_end(text: &[u8]) -> &'static [u8] {
    let mut ends = text.rsplitn(2, |&byte| byte == b'\n');
    match (ends.next(), ends.next()) {
        (Some(_), Some(before)) if before.ends_with(b"\r") => b"\r\n",
        _ => b"\n",
    }
}

/// More bytes than a new line needs.
const EXTRA_CAPACITY: usize = 512;

#[cfg(test)]
mod tests;
