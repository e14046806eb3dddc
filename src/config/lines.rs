//! From byte offsets to lines and columns.
//!
//! Made and asked by `document`. Asking costs the same anywhere, also at the end of a line of a megabyte.

use std::ops::Range;

use super::problem::Position;

/// Where the lines of a text begin, and how many characters stand before every block of it.
#[derive(Debug)]
pub(super) struct Lines {
    text: String,
    starts: Vec<usize>,
    blocks: Vec<usize>,
}

impl Lines {
    /// Lines end at a line feed; a carriage return before it is the line's last character.
    pub(super) fn new(text: &str) -> Self {
        // A byte order mark is no character of the first line to any editor.
        let first = text.len() - text.trim_start_matches('\u{feff}').len();
        let feeds = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            text: text.to_owned(),
            starts: std::iter::once(first).chain(feeds).collect(),
            blocks: count_blocks(text),
        }
    }

    /// The text itself.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The place of the character at `offset`; behind the text, the place after its last one.
    pub(super) fn place(&self, offset: usize) -> Position {
        let line = self.line(offset);
        let start = self.starts.get(line).copied().unwrap_or_default();
        let column = self
            .characters(offset)
            .saturating_sub(self.characters(start));
        Position {
            line: line + 1,
            column: column + 1,
        }
    }

    /// The number, from 0, of the line that `offset` stands in.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.starts
            .partition_point(|start| *start <= offset)
            .saturating_sub(1)
    }

    /// How many lines there are; an empty text is one.
    pub(super) fn count(&self) -> usize {
        self.starts.len()
    }

    /// The bytes of a line, its line feed included; empty when there is no such line.
    pub(super) fn range(&self, line: usize) -> Range<usize> {
        let end = self.text.len();
        let start = self.starts.get(line).copied().unwrap_or(end);
        start..self.starts.get(line + 1).copied().unwrap_or(end)
    }

    /// The text of a line.
    pub(super) fn line_text(&self, line: usize) -> &str {
        self.text.get(self.range(line)).unwrap_or_default()
    }

    /// How many characters begin before `offset`.
    fn characters(&self, offset: usize) -> usize {
        let offset = offset.min(self.text.len());
        let block = offset / BLOCK;
        let counted = self.blocks.get(block).copied().unwrap_or_default();
        let rest = self.text.as_bytes().get(block * BLOCK..offset);
        counted + count_characters(rest.unwrap_or_default())
    }
}

/// The characters before the first block, before the second, and so on.
fn count_blocks(text: &str) -> Vec<usize> {
    let mut total = 0;
    let ends = text.as_bytes().chunks(BLOCK).map(|block| {
        total += count_characters(block);
        total
    });
    std::iter::once(0).chain(ends).collect()
}

/// A character begins at every byte that continues none (RFC 3629 §3).
fn count_characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

const BLOCK: usize = 256;

#[cfg(test)]
mod tests;
