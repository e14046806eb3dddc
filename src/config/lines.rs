//! From byte offsets to lines and columns.
//!
//! Made and asked by `document`. Asking costs the same anywhere, also at the end of a line of a megabyte.

use std::ops::Range;

use super::problem::Place;

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
    pub(super) fn place(&self, offset: usize) -> Place {
        let line = self.line(offset);
        let start = self.starts.get(line).copied().unwrap_or_default();
        let column = self
            .characters(offset)
            .saturating_sub(self.characters(start));
        Place {
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(text: &str, offset: usize) -> (usize, usize) {
        let place = Lines::new(text).place(offset);
        (place.line, place.column)
    }

    #[test]
    fn counts_characters_from_one() {
        let cases = [
            ("", 0, (1, 1)),
            ("", 9, (1, 1)),
            ("ab", 1, (1, 2)),
            ("ab", 2, (1, 3)),
            ("a\nb", 1, (1, 2)),
            ("a\nb", 2, (2, 1)),
            ("a\r\nb", 3, (2, 1)),
            ("a\rb", 2, (1, 3)),
            ("\n\n", 2, (3, 1)),
            ("äö€x", "äö€".len(), (1, 4)),
            ("ä\nö😀x", "ä\nö😀".len(), (2, 3)),
            ("\u{feff}ab", 4, (1, 2)),
        ];
        for (text, offset, expected) in cases {
            assert_eq!(place(text, offset), expected, "{text:?} at {offset}");
        }
    }

    #[test]
    fn knows_the_lines() {
        let lines = Lines::new("a\r\n\nlast");
        assert_eq!(lines.count(), 3);
        assert_eq!(
            (0..4).map(|line| lines.line_text(line)).collect::<Vec<_>>(),
            ["a\r\n", "\n", "last", ""]
        );
    }

    proptest! {
        #[test]
        fn agrees_with_counting_by_hand(text in "(\\PC|\n|ä|😀){0,700}", at: prop::sample::Index) {
            let boundaries: Vec<_> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
            let offset = *at.get(&boundaries);
            let before = &text[..offset];
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap().chars().count() + 1;
            prop_assume!(!text.starts_with('\u{feff}'));
            prop_assert_eq!(place(&text, offset), (line, column));
        }
    }
}
