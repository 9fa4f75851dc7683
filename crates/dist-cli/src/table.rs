//! Tables on standard output: columns padded with blanks, two blanks apart.

use std::io::{self, Write};

/// A table that is printed once all its rows are known.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Starts a table with its head.
    pub(crate) fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(ToString::to_string).collect()] }
    }

    /// Adds a row; control characters in it are escaped.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.iter().map(|cell| printable(cell)).collect());
    }

    /// Prints it. The last column is not padded, so that no line ends with blanks.
    pub(crate) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let columns = self.rows.first().map_or(0, Vec::len);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells.map(|cell| console::measure_text_width(cell)).max().unwrap_or(0)
            })
            .collect();
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                line.push_str(cell);
                if column + 1 < row.len() {
                    let width = console::measure_text_width(cell);
                    line.push_str(&" ".repeat(widths[column].saturating_sub(width) + 2));
                }
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// The text with everything escaped that a terminal would not print as itself.
pub(crate) fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        // The bidirectional controls reorder what stands around them.
        if c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(table: &Table) -> String {
        let mut out = Vec::new();
        table.print(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns() {
        let mut table = Table::new(&["REF", "SIZE"]);
        table.row(["a".into(), "1 B".into()]);
        table.row(["long-name".into(), String::new()]);
        assert_eq!(print(&table), "REF        SIZE\na          1 B\nlong-name\n");
    }

    #[test]
    fn wide_characters_count_twice() {
        let mut table = Table::new(&["A", "B"]);
        table.row(["\u{4e2d}".into(), "x".into()]);
        assert_eq!(print(&table), "A   B\n\u{4e2d}  x\n");
    }

    #[test]
    fn nothing_reaches_the_terminal_raw() {
        assert_eq!(printable("a\x1b[31m\n\u{202e}"), "a\\u{1b}[31m\\n\\u{202e}");
        assert_eq!(printable("r\u{e9}dis"), "r\u{e9}dis");
    }
}
