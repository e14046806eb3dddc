//! Lines that go out in one write, and the write itself.
//!
//! Called by the thread of `log`. It neither waits for lines nor counts those that are lost.

use std::io::{self, Write};

/// Lines that go out in one write.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) text: Vec<u8>,
    /// Where each line ends.
    pub(super) ends: Vec<usize>,
}

impl Batch {
    pub(super) fn push(&mut self, line: &[u8]) {
        self.text.extend_from_slice(line);
        self.ends.push(self.text.len());
    }

    /// Where the line of this number begins.
    pub(super) fn begin(&self, line: usize) -> usize {
        let before = line.checked_sub(1).and_then(|before| self.ends.get(before));
        before.copied().unwrap_or(0)
    }

    /// How many of the lines that end at `ends`, the first of which begins at `from`, go into a write of `most` bytes: one at
    /// least, however long it is.
    pub(super) fn fitting(from: usize, ends: &[usize], most: usize) -> usize {
        ends.partition_point(|end| *end <= from + most).max(1)
    }

    /// The same with nothing in it, and the room it has; but not that for a line of unusual length.
    pub(super) fn emptied(mut self) -> Self {
        self.text.clear();
        self.text.shrink_to(BATCH);
        self.ends.clear();
        self
    }
}

/// What follows a line that went out in part begins on a line of its own. Returns how many bytes of `text` went out.
pub(super) fn write_lines(file: &mut impl Write, is_torn: &mut bool, text: &[u8]) -> usize {
    if *is_torn {
        if file.write_all(b"\n").is_err() {
            return 0;
        }
        *is_torn = false;
    }
    let mut written = 0;
    while let Some(rest) = text.get(written..)
        && !rest.is_empty()
    {
        match file.write(rest) {
            Ok(count) if count > 0 => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(_) | Err(_) => {
                let sent = text.get(..written).unwrap_or_default();
                *is_torn = !sent.is_empty() && !sent.ends_with(b"\n");
                break;
            }
        }
    }
    written
}

/// Most of one write to a file.
pub(super) const BATCH: usize = 64 * 1024;
