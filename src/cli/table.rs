//! Tables and paragraphs that fit into the width of a terminal.

/// A table with a title above each column. Columns are as wide as their cells, and the widest are shortened until a line fits.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    title: &'static str,
    is_number: bool,
}

impl Column {
    /// A column of text, whose cells begin at the left.
    pub(crate) const fn text(title: &'static str) -> Self {
        Self {
            title,
            is_number: false,
        }
    }

    /// A column of numbers, whose cells end at the right.
    pub(crate) const fn number(title: &'static str) -> Self {
        Self {
            title,
            is_number: true,
        }
    }
}

impl Table {
    pub(crate) fn new(columns: impl Into<Vec<Column>>) -> Self {
        let columns = columns.into();
        let titles = columns.iter().map(|column| column.title.to_owned());
        Self {
            rows: vec![titles.collect()],
            columns,
        }
    }

    /// Adds a row with one cell for each column.
    pub(crate) fn push(&mut self, row: impl Into<Vec<String>>) {
        self.rows.push(row.into());
    }

    /// The lines of the table, each at most `width` characters wide.
    pub(crate) fn lines(&self, width: usize) -> Vec<String> {
        let widths = self.widths(width);
        let line = |row: &Vec<String>| {
            let mut line = String::new();
            for ((cell, column), width) in row.iter().zip(&self.columns).zip(&widths) {
                let cell = shorten(cell, *width);
                line.push_str(INDENT);
                line.push_str(&match column.is_number {
                    true => format!("{cell:>width$}"),
                    false => format!("{cell:<width$}"),
                });
            }
            line.trim_end().to_owned()
        };
        self.rows.iter().map(line).collect()
    }

    fn widths(&self, width: usize) -> Vec<usize> {
        let widest = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = (0..self.columns.len()).map(widest).collect();
        let room = width.saturating_sub(widths.len() * INDENT.len());
        while widths.iter().sum::<usize>() > room {
            match widths.iter_mut().max() {
                Some(widest) if *widest > 1 => *widest -= 1,
                _ => break,
            }
        }
        widths
    }
}

/// Breaks a text at its spaces into lines of at most `width` characters. Further lines are indented.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let is_first = line.trim().is_empty();
        if !is_first && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::replace(&mut line, INDENT.to_owned()));
            line.push_str(word);
        } else {
            line.push_str(if is_first { "" } else { " " });
            line.push_str(word);
        }
    }
    lines.push(line);
    lines
}

/// The text, or its beginning and an ellipsis if it has more than `width` characters.
fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept = text.chars().take(width.saturating_sub(1));
    kept.chain(['…']).collect()
}

const INDENT: &str = "  ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_widest_column_is_shortened_until_a_line_fits() {
        let mut table = Table::new([Column::number("ID"), Column::text("REPOSITORY")]);
        table.push(["7".to_owned(), "team/application".to_owned()]);
        table.push(["12".to_owned(), "é".to_owned()]);
        let wide = ["  ID  REPOSITORY", "   7  team/application", "  12  é"];
        assert_eq!(table.lines(80), wide);
        let narrow = ["  ID  REPOSIT…", "   7  team/ap…", "  12  é"];
        assert_eq!(table.lines(14), narrow);
        assert!(table.lines(0).iter().all(|line| line.chars().count() < 8));
    }

    #[test]
    fn a_paragraph_breaks_at_spaces() {
        assert_eq!(wrap("warning: a b", 10), ["warning: a", "  b"]);
        assert_eq!(wrap("averylongword b", 4), ["averylongword", "  b"]);
        assert_eq!(wrap("", 4), [""]);
    }
}
