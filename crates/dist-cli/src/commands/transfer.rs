//! What commands that bring an image have in common.

use std::fmt;
use std::sync::Arc;

use dist_core::{Digest, Error, ErrorKind, Platform, Progress, Result, Warning};

use crate::config::Config;
use crate::progress::Reporter;
use crate::signals::Stopped;
use crate::table::printable;
use crate::{output, report, runtime};

/// How a transfer is shown, and of which platform.
#[derive(Debug, clap::Args)]
pub(crate) struct Transfer {
    /// No progress
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// Platform whose image is taken from an index [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<Platform>,
}

/// What is kept of layers that are unpacked.
#[derive(Debug, clap::Args)]
pub(crate) struct Keep {
    /// Discard the blobs of layers once they are unpacked and on the disk; erofs alone keeps all
    /// that they hold
    #[arg(long)]
    pub(crate) discard_blobs: bool,
}

/// The cause of an error after which the same command goes on with what is kept in the store.
#[derive(Debug)]
pub(crate) struct Kept {
    error: Error,
    /// Bytes that are known to be wanted and have not arrived.
    pub(crate) missing: u64,
}

impl fmt::Display for Kept {
    /// Says nothing: the error above it has the words.
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

impl std::error::Error for Kept {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.error)
    }
}

/// Runs `work`, which brings something into the store, with progress on standard error, then tells
/// its warnings. `what` is said where a signal stops it: the command and its argument.
pub(crate) fn into_store<T, F: Future<Output = Result<(T, Vec<Warning>)>>>(
    config: &Config,
    quiet: bool,
    what: &str,
    work: impl FnOnce(Arc<dyn Progress>) -> F,
) -> Result<T> {
    let reporter = Reporter::start(config.progress_unless(quiet), &config.terminal);
    run(&reporter, work).map_err(|error| {
        let Some(missing) = reporter.missing() else { return error };
        let message = match error.find::<Stopped>() {
            Some(_) => what.to_owned(),
            None => error.to_string(),
        };
        Error::new(error.kind(), message).with_source(Kept { error, missing })
    })
}

/// Runs `work`, which keeps nothing where it fails, in the same way.
pub(crate) fn run<T, F: Future<Output = Result<(T, Vec<Warning>)>>>(
    reporter: &Arc<Reporter>,
    work: impl FnOnce(Arc<dyn Progress>) -> F,
) -> Result<T> {
    let result = runtime::run(work(reporter.clone()));
    if let Ok((_, warnings)) = &result {
        reporter.warn(warnings);
    }
    reporter.finish();
    result.map(|(value, _)| value)
}

/// Says what was done, and what is to be done, in an error for work that a signal stopped.
pub(crate) fn if_stopped(error: Error, what: impl FnOnce() -> String, hint: &'static str) -> Error {
    match error.find::<Stopped>() {
        Some(stopped) => report::advise(stopped.during(what()), hint),
        None => error,
    }
}

/// Prints the result that scripts read: `name@digest`.
pub(crate) fn print_pinned(name: &str, digest: &Digest) -> Result<()> {
    output::line(&pinned(name, digest))
}

/// A name with what it stands for.
pub(crate) fn pinned(name: &str, digest: &Digest) -> String {
    let name = printable(name);
    let suffix = format!("@{digest}");
    if name.ends_with(&suffix) { name } else { format!("{name}{suffix}") }
}

/// The error for arguments that exclude one another.
pub(crate) fn usage(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_pinned_once() {
        let digest = Digest::sha256(b"x");
        let full = format!("h/a:1@{digest}");
        assert_eq!(pinned("h/a:1", &digest), full);
        assert_eq!(pinned(&full, &digest), full);
    }
}
