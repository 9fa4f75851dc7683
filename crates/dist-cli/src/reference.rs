//! Image names as people type them, checked before anything is done with them.

use std::fmt;

use dist_core::{Error, ErrorKind, Reference, ReferenceError, Result};

use crate::report;
use crate::table::printable;

/// The schemes that are not registries.
pub(crate) const SCHEMES: &[&str] = &["oci"];

/// Reads a name in a registry; `redis` is `docker.io/library/redis:latest`.
pub(crate) fn parse(text: &str) -> Result<Reference> {
    Reference::parse_familiar(text).map_err(|error| {
        let scheme = text.split_once("://");
        let bad = BadReference { text: text.to_owned(), error };
        let error = Error::new(ErrorKind::InvalidArgument, "parse reference").with_source(bad);
        match scheme {
            Some((_, rest)) => report::advise(error, format!("leave out the scheme: {rest}")),
            None => error,
        }
    })
}

/// Checks a name that is one in a registry or has a scheme, such as `oci:path:tag`.
pub(crate) fn check(text: &str) -> Result<()> {
    match dist_core::scheme(text, SCHEMES) {
        Some(_) => Ok(()), // its resolver knows its grammar
        None => parse(text).map(drop),
    }
}

/// Why a text is no reference, with the text.
#[derive(Debug)]
pub(crate) struct BadReference {
    text: String,
    error: ReferenceError,
}

impl BadReference {
    /// The text, and below it a caret under the first byte that is wrong.
    pub(crate) fn caret(&self) -> String {
        const MOST: usize = 60;
        let at = boundary(&self.text, self.error.at);
        // Of a long text only the surroundings are printed.
        let from = boundary(&self.text, at.saturating_sub(MOST));
        let to = boundary(&self.text, at + MOST);
        let before = printable(&self.text[from..at]);
        let after = printable(&self.text[at..to]);
        let column = console::measure_text_width(&before);
        format!("  {before}{after}\n  {}^\n", " ".repeat(column))
    }
}

/// The last place at or before `at` where a character begins or the text ends.
fn boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

impl fmt::Display for BadReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for BadReference {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn caret(text: &str) -> String {
        let Err(error) = parse(text) else { panic!("{text:?} is a reference") };
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        error.find::<BadReference>().unwrap().caret()
    }

    #[test]
    fn the_caret_stands_under_the_fault() {
        assert_eq!(caret("UPPER/x"), "  UPPER/x\n  ^\n");
        assert_eq!(caret("x:tag:tag"), "  x:tag:tag\n       ^\n");
        assert_eq!(caret("x\ny"), "  x\\ny\n   ^\n");
        assert_eq!(caret(""), "  \n  ^\n");
        assert_eq!(caret("h.io/x:"), "  h.io/x:\n         ^\n");
    }

    #[test]
    fn schemes_are_left_to_their_resolvers() {
        assert!(check("oci:/tmp/Some Dir:tag").is_ok());
        assert!(check("redis:7").is_ok());
        assert!(check("-rf").is_err());
    }

    proptest! {
        #[test]
        fn carets_never_panic(text in "\\PC{0,200}") {
            if let Err(error) = parse(&text) {
                prop_assert!(error.find::<BadReference>().unwrap().caret().ends_with("^\n"));
            }
        }
    }
}
