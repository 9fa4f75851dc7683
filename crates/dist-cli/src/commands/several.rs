//! One thing done to each of several arguments.

use std::fmt;

use dist_core::{Error, Result};

use crate::report;

/// The cause of an error that was printed already.
#[derive(Debug)]
pub(crate) struct Reported(Error);

impl fmt::Display for Reported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Reported {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// The cause of an error that some had, and others had not.
#[derive(Debug)]
pub(crate) struct Partial(Reported);

impl Partial {
    /// The error for a command of whose parts some were done, and one failed with `error`, which was
    /// printed.
    pub(crate) fn of(error: Error) -> Error {
        Error::new(error.kind(), "some failed").with_source(Self(Reported(error)))
    }
}

impl fmt::Display for Partial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Partial {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// Errors that are printed when they happen; the first one gives the exit code.
#[derive(Default)]
pub(crate) struct Failures(Option<Error>);

impl Failures {
    /// Prints an error and keeps the first one.
    ///
    /// # Errors
    /// That one, where it ends everything.
    pub(crate) fn add(&mut self, error: Error) -> Result<()> {
        if report::is_over(&error) {
            return Err(error);
        }
        report::report(&error);
        self.0.get_or_insert(error);
        Ok(())
    }

    /// The first error, where there was one.
    pub(crate) fn result(self) -> Result<()> {
        match self.0 {
            None => Ok(()),
            Some(error) => Err(reported(error)),
        }
    }
}

/// The error for one that was printed.
pub(crate) fn reported(error: Error) -> Error {
    Error::new(error.kind(), "some failed").with_source(Reported(error))
}

/// Does `work` for every item, also after one has failed.
pub(crate) fn each<T>(items: &[T], mut work: impl FnMut(&T) -> Result<()>) -> Result<()> {
    let mut failures = Failures::default();
    for item in items {
        if let Err(error) = work(item) {
            failures.add(error)?;
        }
    }
    failures.result()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dist_core::ErrorKind;

    #[test]
    fn all_are_tried_and_the_first_failure_counts() {
        let mut seen = Vec::new();
        let result = each(&[1, 2, 3], |item| {
            seen.push(*item);
            match item {
                1 => Ok(()),
                2 => Err(Error::new(ErrorKind::NotFound, "no 2")),
                _ => Err(Error::new(ErrorKind::Busy, "no 3")),
            }
        });
        assert_eq!(seen, [1, 2, 3]);
        assert_eq!(report::report(&result.unwrap_err()), 3);
    }
}
