//! What commands that bring an image have in common.

use std::sync::Arc;

use dist_core::{Digest, Error, ErrorKind, Platform, Progress, Result, Warning};

use crate::config::Config;
use crate::progress::Reporter;
use crate::table::printable;
use crate::{output, runtime};

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

/// Runs `work` with progress on standard error, then tells its warnings.
pub(crate) fn run<T, F: Future<Output = Result<(T, Vec<Warning>)>>>(
    config: &Config,
    quiet: bool,
    work: impl FnOnce(Arc<dyn Progress>) -> F,
) -> Result<T> {
    let reporter = Reporter::start(config.progress_unless(quiet), &config.terminal);
    let result = runtime::run(config.timeout, work(reporter.clone()));
    if let Ok((_, warnings)) = &result {
        reporter.warn(warnings);
    }
    reporter.finish();
    result.map(|(value, _)| value)
}

/// Prints the result that scripts read: `name@digest`.
pub(crate) fn print_pinned(name: &str, digest: &Digest) -> Result<()> {
    output::line(&pinned(name, digest))
}

fn pinned(name: &str, digest: &Digest) -> String {
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
