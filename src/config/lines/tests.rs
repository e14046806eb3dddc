//! Places by hand and by block.

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
        let before = text.get(..offset).unwrap();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap().chars().count() + 1;
        prop_assume!(!text.starts_with('\u{feff}'));
        prop_assert_eq!(place(&text, offset), (line, column));
    }
}
