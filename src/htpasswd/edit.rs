//! Edits of a password file's text: one user's line changes, every other byte stays.
//!
//! For `cli`, between reading and replacing by `store`. The grammar is `parse`'s, the hash comes from `make`; nothing
//! here touches a file.

use super::hash::{Rejection, Scheme};
use super::parse::{BYTE_ORDER_MARK, entry_of, split_hash};
use super::problem::MAX_USER;

/// A text with one user changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edited {
    /// All of the new text.
    pub bytes: Vec<u8>,
    /// The line, from 1, that decides about the user: now, or before it was removed.
    pub line: usize,
    /// Whether the user had a line.
    pub existed: bool,
    /// Later lines of the same user, which counted for nothing and are gone.
    pub duplicates: usize,
}

/// Why no line can be written for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Would admit requests that name nobody.
    #[error("the user name is empty")]
    Empty,
    /// Ends the name, in the file and in what a client sends.
    #[error("the user name contains a colon, which ends a name; leave it out")]
    Colon,
    /// Would end the line, or could not be typed.
    #[error("the user name contains a control character; leave it out")]
    Control,
    /// A comment.
    #[error(
        "the user name begins with #, which makes the line a comment; begin with another character"
    )]
    Comment,
    /// Longer than the parser accepts.
    #[error("the user name has more than {MAX_USER} bytes; choose a shorter one")]
    Long,
    /// Would be taken for a misplaced hash and not be named in messages.
    #[error(
        "the user name begins like a hash, and so may be one in the wrong place; it is tidegate htpasswd add FILE USER"
    )]
    Hash,
    /// Part of the name, and hardly ever meant.
    #[error(
        "the user name begins or ends with a space, which would be part of the name; leave it out"
    )]
    Space,
    /// Would be dropped on the first line, and counts on every other.
    #[error("the user name begins with a byte order mark; leave it out")]
    ByteOrderMark,
}

/// Whether [`set`] may write a line for this name. Removing takes any name.
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

/// Gives a user this hash: in the line that decides about the user, whose comment stays, or in a new last one. The
/// name must have passed [`check_name`].
pub fn set(text: &[u8], user: &[u8], hash: &[u8]) -> Edited {
    let mut edit = Edit::new(text);
    edit.pass(user, |rest| Some(renewed(user, hash, rest)));
    let line = match edit.first {
        Some(line) => line,
        None => edit.append(user, hash),
    };
    edit.finish(line)
}

/// Takes all lines of a user away; none when there is no such line.
pub fn remove(text: &[u8], user: &[u8]) -> Option<Edited> {
    let mut edit = Edit::new(text);
    edit.pass(user, |_| None);
    let line = edit.first?;
    Some(edit.finish(line))
}

/// The state of one pass.
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
            bytes: Vec::with_capacity(text.len() + ROOM),
            lines: 0,
            first: None,
            duplicates: 0,
            existed: false,
        }
    }

    /// Copies all lines but the user's; the deciding one becomes what `change` makes of the text after its name and colon.
    fn pass(&mut self, user: &[u8], change: impl Fn(&[u8]) -> Option<Vec<u8>>) {
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

    /// The new line has an end even where the last one had none: `htpasswd` and `echo >>` join theirs to a line
    /// without.
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

/// The line with another hash, without its line feed. `rest` is what follows the name and the colon.
fn renewed(user: &[u8], hash: &[u8], rest: &[u8]) -> Vec<u8> {
    let (field, _) = split_hash(rest);
    // The field is the beginning of the rest.
    let (_, mut after) = rest.split_at(field.len());
    if after.contains(&0) || is_readable(field) {
        // A NUL would make the new line void too; of a readable password with a colon the rest must not stay.
        after = if rest.ends_with(b"\r") { b"\r" } else { b"" };
    }
    [user, b":", hash, after].concat()
}

/// Whether the field held a password rather than a hash of it.
fn is_readable(field: &[u8]) -> bool {
    let field = field.trim_ascii();
    field.starts_with(b"{PLAIN}") || Scheme::parse(field) == Err(Rejection::PlainText)
}

/// That of the last line which has one.
fn line_end(text: &[u8]) -> &'static [u8] {
    let mut ends = text.rsplitn(2, |&byte| byte == b'\n');
    match (ends.next(), ends.next()) {
        (Some(_), Some(before)) if before.ends_with(b"\r") => b"\r\n",
        _ => b"\n",
    }
}

/// More than a name and a hash take.
const ROOM: usize = 512;

#[cfg(test)]
mod tests;
