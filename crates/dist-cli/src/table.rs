//! Tables on standard output: columns padded with blanks, two blanks apart.

use std::fmt::{Display, Write as _};
use std::io::{self, Write};

/// A table that is printed once all its rows are known.
pub(crate) struct Table {
    /// The cells of all rows.
    text: String,
    cells: Vec<Cell>,
    /// The widest of each column.
    widths: Vec<usize>,
}

/// Where a cell ends, and how many places it takes on a terminal.
struct Cell {
    end: usize,
    width: usize,
}

impl Table {
    /// Starts a table with its head.
    pub(crate) fn new(head: &[&str]) -> Self {
        let mut table =
            Self { text: String::new(), cells: Vec::new(), widths: vec![0; head.len()] };
        table.add(head.iter().map(|cell| cell as &dyn Display));
        table
    }

    /// Adds a row; control characters in it are escaped.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.add(cells.iter().map(|cell| cell as &dyn Display));
    }

    /// As [`Table::row`], without a text for each cell.
    pub(crate) fn row_of<const N: usize>(&mut self, cells: [&dyn Display; N]) {
        self.add(cells.into_iter());
    }

    fn add<'a>(&mut self, cells: impl Iterator<Item = &'a dyn Display>) {
        for (cell, widest) in cells.zip(&mut self.widths) {
            let start = self.text.len();
            // Writing to a text fails only where a value says that it can't be shown.
            if write!(self.text, "{cell}").is_err() {
                self.text.truncate(start);
            }
            let width = match printed_width(&self.text[start..]) {
                Some(width) => width,
                None => {
                    let safe = printable(&self.text[start..]);
                    self.text.truncate(start);
                    self.text.push_str(&safe);
                    console::measure_text_width(&safe)
                }
            };
            *widest = width.max(*widest);
            self.cells.push(Cell { end: self.text.len(), width });
        }
    }

    /// Prints it. The last column is not padded, so that no line ends with blanks.
    pub(crate) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut line = String::new();
        let mut start = 0;
        for row in self.cells.chunks(self.widths.len()) {
            line.clear();
            let mut missing = 0;
            for (cell, widest) in row.iter().zip(&self.widths) {
                line.extend(std::iter::repeat_n(' ', missing));
                line.push_str(&self.text[start..cell.end]);
                missing = widest.saturating_sub(cell.width) + 2;
                start = cell.end;
            }
            line.truncate(line.trim_end().len());
            line.push('\n');
            out.write_all(line.as_bytes())?;
        }
        Ok(())
    }
}

/// How many places a text takes that a terminal prints as it is, character by character: nearly all
/// cells of long listings.
fn printed_width(text: &str) -> Option<usize> {
    // To the end always: many bytes are then looked at in one step.
    let plain = text.bytes().fold(true, |plain, byte| plain & matches!(byte, b' '..=b'~'));
    plain.then_some(text.len())
}

/// The text with everything escaped that a terminal would not print as itself.
pub(crate) fn printable(text: &str) -> String {
    if printed_width(text).is_some() {
        return text.to_owned();
    }
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
