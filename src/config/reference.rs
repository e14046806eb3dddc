//! The comparison of the commented reference, `proxy.toml`, with the table of keys.
//!
//! A test calls it, so that a key, a default or a range cannot change without its documentation.

use super::document::Document;
use super::form::paths;
use super::keys::KEYS;
use super::table::Table;

/// Returns what the reference does not document, or documents differently from the table of keys; empty if all is right.
///
/// Every key must occur, in a block of lines that has its documentation and its range. The value in the block must be the
/// default, unless the text says that it is an example. A key without a default must be described as required or optional.
pub fn reference_faults(reference: &str) -> Vec<String> {
    let text = uncommented(reference);
    let document = match Document::parse("proxy.toml", text.as_bytes()) {
        Ok(document) => document,
        Err(problems) => return vec![problems.to_string()],
    };
    let root = Table::root(&document, KEYS);
    let mut occurrences = Vec::new();
    collect(&mut occurrences, "", &root);
    let blocks = blocks(reference);
    let whole = normalized(reference);
    let mut faults = Vec::new();
    for (path, key) in paths(KEYS) {
        let found: Vec<_> = occurrences
            .iter()
            .filter(|found| found.path == path)
            .collect();
        let texts = || {
            found.iter().map(|found| match blocks.get(found.line) {
                // The keys of an inline table are described where the table is described in full.
                Some(block) if !found.is_inline => block,
                _ => &whole,
            })
        };
        let mut fault = |what: &str| faults.push(format!("{path}: {what}"));
        let doc = normalized(key.doc());
        let doc = doc.trim().trim_end_matches('.');
        if found.is_empty() {
            fault("the key is not named");
            continue;
        }
        if key.keys().is_empty() && !texts().any(|text| text.contains(doc)) {
            fault(&format!("the block does not contain: {doc}"));
        }
        let range = key.range().map(|range| normalized(&range));
        if let Some(range) = range.filter(|range| !texts().any(|text| text.contains(range))) {
            fault(&format!("the range is not named: {range}"));
        }
        let is_described =
            |words: &[&str]| texts().any(|text| words.iter().any(|word| text.contains(word)));
        match found.iter().filter_map(|found| found.is_default).max() {
            Some(true) => {}
            Some(false) if !is_described(&["example"]) => fault("the value is not the default"),
            None if !is_described(&["required", "example", "default"]) => {
                fault("it is neither required nor optional");
            }
            Some(false) | None => {}
        }
    }
    faults
}

/// One place where a key is written.
struct Occurrence {
    path: String,
    /// The number of the line, from 0.
    line: usize,
    is_inline: bool,
    /// Whether the value is the default; `None` if the key has no fixed default.
    is_default: Option<bool>,
}

fn collect(found: &mut Vec<Occurrence>, prefix: &str, table: &Table<'_>) {
    for key in table.keys() {
        let Some(place) = table.place_of(*key) else {
            continue;
        };
        let path = format!("{prefix}{}", key.name());
        found.push(Occurrence {
            path: path.clone(),
            line: place.line - 1,
            is_inline: place.column > 1,
            is_default: table.item(*key).and_then(|item| key.is_default(&item)),
        });
        for inner in table.tables_at(*key) {
            collect(found, &format!("{path}."), &inner);
        }
    }
}

/// Returns the text with every commented-out key as a key. The comments have a space after the `#`.
fn uncommented(text: &str) -> String {
    let is_key = |c: char| c.is_ascii_lowercase() || c == '[';
    let lines = text.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(is_key) => rest,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Returns for each line the text of its block, the lines around it up to the next empty ones.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    for block in text.split("\n\n") {
        let text = normalized(block);
        let lines = block.matches('\n').count() + 2;
        blocks.extend(std::iter::repeat_n(text, lines));
    }
    blocks
}

/// Returns the text in lower case, without the signs of comments, and with one space between two words.
fn normalized(text: &str) -> String {
    let lines = text.lines().map(|line| line.trim_start_matches('#'));
    let words = lines.flat_map(str::split_whitespace);
    words.collect::<Vec<_>>().join(" ").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::reference_faults;

    #[test]
    fn a_missing_key_and_a_wrong_default_range_or_text_are_faults() {
        let reference = include_str!("../../proxy.toml");
        assert_eq!(reference_faults(reference), [""; 0]);
        for (right, wrong, fault) in [
            ("#drain = \"30s\"", "", "limits.drain: the key is not named"),
            (
                "#idle = \"75s\"",
                "#idle = \"76s\"",
                "limits.idle: the value is not the default",
            ),
            (
                "10 to 100;",
                "10 to 99;",
                "limits.head_fields: the range is not named: 10 to 100",
            ),
            (
                "# Bytes of path and query",
                "# Bytes of the target",
                "limits.target_size: the block does not contain: bytes of path and query",
            ),
        ] {
            assert_eq!(reference.matches(right).count(), 1, "{right}");
            assert_eq!(reference_faults(&reference.replace(right, wrong)), [fault]);
        }
    }
}
