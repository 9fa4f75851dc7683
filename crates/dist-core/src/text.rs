//! Texts that people write, and what is wrong in them.

/// What is wrong with a text, in one line: the number of the line that `at`, an offset in bytes, is in, and
/// the problem without its own line ends.
#[must_use]
pub fn on_line(text: &str, at: usize, problem: &str) -> String {
    let line = text.get(..at).unwrap_or_default().matches('\n').count() + 1;
    format!("line {line}: {}", problem.replace('\n', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_from_one() {
        assert_eq!(on_line("a\nb\nc", 0, "x"), "line 1: x");
        assert_eq!(on_line("a\nb\nc", 2, "x\ny"), "line 2: x y");
        assert_eq!(on_line("a\nb\nc", 99, "x"), "line 1: x");
    }
}
