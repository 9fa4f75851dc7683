//! Image names as people type them, checked before anything is done with them.

use std::fmt;
use std::path::Path;

use dist_core::{Error, ErrorKind, Reference, ReferenceError, Result};
use dist_registry::ShortNameMode;

use crate::config::Config;
use crate::report;
use crate::table::printable;

/// The schemes that are not registries.
pub(crate) const SCHEMES: &[&str] = &["oci", "http", "https"];

/// Those of addresses on web servers.
pub(crate) const WEB: &[&str] = &["http", "https"];

/// What others write before names that lead elsewhere, and this program before some.
const TRANSPORTS: &[&str] = &[
    "oci",
    "oci-archive",
    "docker-archive",
    "dir",
    "store",
    "daemon",
    "bundle",
    "docker-daemon",
    "containers-storage",
    "ostree",
];

/// Reads a name in a registry; `redis` is `docker.io/library/redis:latest`.
pub(crate) fn parse(text: &str) -> Result<Reference> {
    // `bundle:1` would be an image of Docker Hub's library.
    if let Some((transport, _)) = dist_core::scheme(text, TRANSPORTS) {
        let message = format!("read name {text:?}: this takes no names with {transport}:");
        let error = Error::new(ErrorKind::InvalidArgument, message);
        let hint = match (transport, Reference::parse_familiar(text)) {
            ("bundle", _) => {
                "`dist bundle load` loads it; `dist copy` reads it as oci-archive:FILE:NAME".into()
            }
            (_, Ok(name)) => format!("an image that is called so in a registry is {name}"),
            ("oci-archive" | "docker-archive", _) => {
                "`dist import FILE` brings it into the store".into()
            }
            ("oci" | "dir", _) => "`dist copy` brings it into the store: store:NAME".into(),
            _ => "`dist copy --help` lists the kinds of names that it takes".into(),
        };
        return Err(report::advise(error, hint));
    }
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

/// What is named in place of a file, where that is an address on a web server.
pub(crate) fn address(file: &Path) -> Option<&str> {
    file.to_str().filter(|text| dist_core::scheme(text, WEB).is_some())
}

/// Checks a name that is one in a registry or has a scheme, such as `oci:path:tag`.
pub(crate) fn check(text: &str) -> Result<()> {
    match dist_core::scheme(text, SCHEMES) {
        Some(_) => Ok(()), // its resolver knows its grammar
        None => parse(text).map(drop),
    }
}

/// What a name may stand for, in the order in which that is tried: itself, unless it is a short name
/// that containers' `registries.conf` has something about.
pub(crate) fn meant(config: &Config, text: &str) -> Result<Vec<String>> {
    let (mode, names) = candidates(config, text)?;
    if mode == ShortNameMode::Enforcing && names.len() > 1 {
        return Err(unclear(text, &names));
    }
    Ok(names)
}

/// The one thing that a name stands for.
pub(crate) fn one(config: &Config, text: &str) -> Result<String> {
    let (_, mut names) = candidates(config, text)?;
    if names.len() > 1 {
        return Err(unclear(text, &names));
    }
    Ok(names.swap_remove(0))
}

/// All that a name may stand for, whoever may have to choose.
pub(crate) fn candidates(config: &Config, text: &str) -> Result<(ShortNameMode, Vec<String>)> {
    check(text)?;
    if dist_core::scheme(text, SCHEMES).is_some() {
        return Ok((ShortNameMode::Disabled, vec![text.to_owned()]));
    }
    let meant = config.registry_without_credentials().meant(text)?;
    let names = match meant.source {
        Some(_) => meant.names.iter().map(ToString::to_string).collect(),
        None => vec![text.to_owned()],
    };
    Ok((meant.mode, names))
}

fn unclear(text: &str, names: &[String]) -> Error {
    let message = format!("read name {text:?}: it may be {}", names.join(" or "));
    let error = Error::new(ErrorKind::InvalidArgument, message);
    report::advise(error, "write the whole name, or an alias for it into registries.conf")
}

/// Does something with one name after the other until one is there.
pub(crate) async fn first_of<T>(
    names: &[String],
    mut act: impl AsyncFnMut(&str) -> Result<T>,
) -> Result<T> {
    let mut failures: Vec<String> = Vec::new();
    let (mut left, mut next) = (names.iter().peekable(), None);
    while let Some(name) = left.next() {
        match act(name).await {
            Err(error) if left.peek().is_some() && may_be_elsewhere(&error) => {
                tracing::debug!(name, %error, "trying the next name");
                failures.push(report::one_line(&error));
            }
            Err(error) if failures.is_empty() => return Err(error),
            Err(error) => {
                next = Some(error);
            }
            done => return done,
        }
    }
    let Some(error) = next else {
        return Err(Error::new(ErrorKind::Internal, "try names: there are none"));
    };
    let message = format!("{}; then", failures.join("; then "));
    Err(Error::new(error.kind(), message).with_source(error))
}

/// Whether a name of the same image in another registry may be the one that is there.
fn may_be_elsewhere(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound
            | ErrorKind::Unavailable
            | ErrorKind::Unauthenticated
            | ErrorKind::PermissionDenied
    )
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
        assert!(check("https://h/image.tar#redis:7").is_ok());
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
