//! A writer for HTML that escapes every value.
//!
//! Markup has the type `&'static str`, so a value from outside cannot become markup.

use std::fmt::{self, Display, Write as _};

/// A document that is being written.
#[derive(Debug, Default)]
pub(crate) struct Html(String);

impl Html {
    /// Appends markup unchanged.
    pub(crate) fn tags(&mut self, tags: &'static str) -> &mut Self {
        self.0.push_str(tags);
        self
    }

    /// Appends a value as text, or as the value of an attribute in quotation marks.
    pub(crate) fn text(&mut self, value: impl Display) -> &mut Self {
        // Writing to a string does not fail. If the value's own Display fails, the rest of the value is missing.
        let _ = write!(Escaped(&mut self.0), "{value}");
        self
    }

    /// Appends a value that a client or an upstream chose. `bdi` isolates its text direction from the text around it.
    pub(crate) fn name(&mut self, value: impl Display) -> &mut Self {
        self.tags("<bdi>").text(value).tags("</bdi>")
    }

    pub(crate) fn finish(self) -> String {
        self.0
    }
}

/// Escapes what is written to it.
struct Escaped<'a>(&'a mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for char in text.chars() {
            match char {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                char if is_visible(char) => self.0.push(char),
                _ => self.0.push(char::REPLACEMENT_CHARACTER),
            }
        }
        Ok(())
    }
}

/// Whether a character may appear in the page. Control characters and noncharacters are errors in HTML. Characters without
/// width and those that change the text direction can make a name look like another name.
fn is_visible(char: char) -> bool {
    !char.is_control()
        && !matches!(char,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fdd0}'..='\u{fdef}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
        && u32::from(char) & 0xfffe != 0xfffe
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn escaped(value: &str) -> String {
        let mut html = Html::default();
        html.text(value);
        html.finish()
    }

    /// The text that a browser shows.
    fn unescaped(html: &str) -> String {
        let mut text = html.to_owned();
        for (entity, char) in [
            ("&lt;", "<"),
            ("&gt;", ">"),
            ("&quot;", "\""),
            ("&#39;", "'"),
            ("&amp;", "&"),
        ] {
            text = text.replace(entity, char);
        }
        text
    }

    #[test]
    fn markup_in_a_value_is_escaped() {
        let hostile = "<script>alert(\"1\")</script>&amp;'";
        let expected = "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;amp;&#39;";
        assert_eq!(escaped(hostile), expected);
        assert_eq!(escaped("a\u{202e}b\0c\u{ffff}\r\n"), "a�b�c���");
        assert_eq!(escaped("größe 3\u{a0}MiB"), "größe 3\u{a0}MiB");
        let mut html = Html::default();
        html.tags("<b>").name("<i>").tags("</b>");
        assert_eq!(html.finish(), "<b><bdi>&lt;i&gt;</bdi></b>");
    }

    proptest! {
        #[test]
        fn no_value_becomes_markup(value in "\\PC*|(?s).*|[&<>'\"a-z;#0-9]*") {
            let html = escaped(&value);
            prop_assert!(!html.contains(['<', '>', '"', '\'']));
            let known = ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"];
            for rest in html.split('&').skip(1) {
                let is_known = |known: &&str| rest.starts_with(known.trim_start_matches('&'));
                prop_assert!(known.iter().any(is_known), "{}", rest);
            }
            let shown: String = value
                .chars()
                .map(|char| if is_visible(char) { char } else { char::REPLACEMENT_CHARACTER })
                .collect();
            prop_assert_eq!(unescaped(&html), shown);
            prop_assert!(!html.contains(char::is_control));
        }
    }
}
