//! One line of HTTP/1's framing, and what values on it are.
//!
//! Used by `framing` alone, which knows what the line stands in.

/// A line that is being read: as much of it as can matter.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) start: Vec<u8>,
    /// There is more than was kept.
    pub(super) is_cut: bool,
    pub(super) ends_in_cr: bool,
}

impl Line {
    /// More of the line.
    pub(super) fn push(&mut self, text: &[u8]) {
        let room = KEPT - self.start.len();
        self.start
            .extend_from_slice(text.get(..room).unwrap_or(text));
        self.is_cut |= text.len() > room;
    }

    /// Continues the line before it (RFC 9112 section 5.2).
    pub(super) fn is_folded(&self) -> bool {
        matches!(self.start.first(), Some(b' ' | b'\t'))
    }

    pub(super) fn clear(&mut self) {
        self.start.clear();
        (self.is_cut, self.ends_in_cr) = (false, false);
    }
}

/// Longer than every line that frames a body, unless somebody plays tricks.
const KEPT: usize = 64;

/// Without the optional white space around it (RFC 9110 section 5.6.3).
pub(super) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Without the white space behind it (RFC 9110 section 5.6.3).
pub(super) fn trim_end(mut value: &[u8]) -> &[u8] {
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Digits only: `str::parse` would take a sign, too.
pub(super) fn number(digits: &[u8], radix: u32) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = char::from(*digit).to_digit(radix)?;
        number.checked_mul(radix.into())?.checked_add(digit.into())
    })
}
