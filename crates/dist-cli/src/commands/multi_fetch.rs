//! `dist multi-fetch`: many objects of one repository into the store.

use std::io::{self, BufRead};

use dist::Operations;
use dist_core::{Context, Error, ErrorKind, Platform, Progress, Resolver, Result};
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;

use super::objects::Object;
use super::several::Failures;
use super::transfer::{self, Transfer, usage};
use crate::config::Config;
use crate::output;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each line on standard input is `OBJECT [HINT...]` as for fetch-object; empty lines are passed over.
The digest of each object is printed when it is in the store. Where one fails, the others are
fetched all the same; the first failure gives the exit code.

Examples:
  jq -r '.layers[] | \"\\(.digest) mediatype:\\(.mediaType) size:\\(.size)\"' manifest.json |
    dist multi-fetch docker.io/library/redis")]
pub(crate) struct Args {
    /// Repository in a registry, or oci:PATH
    #[arg(value_name = "REF")]
    repository: String,

    #[command(flatten)]
    transfer: Transfer,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    if config.reads_password() {
        return Err(usage("read objects: standard input can't hold objects and a password"));
    }
    crate::reference::check(&args.repository)?;
    let place = config.fetching()?;
    let what = format!("fetch objects of {}", args.repository);
    let options = config.pull_options(args.transfer.platform.as_ref());
    let (place_ref, options) = (&*place, &options);
    transfer::into_store(config, args.transfer.quiet, &what, |progress| async move {
        let mut failures = Failures::default();
        let lines = stream::unfold(read_lines()?, async |mut lines| {
            lines.recv().await.map(|line| (line, lines))
        });
        let work =
            lines.map(|line| {
                let progress = progress.clone();
                async move {
                    fetch(place_ref, &args.repository, line?, &options.platform, progress).await
                }
            });
        let mut done = std::pin::pin!(work.buffer_unordered(options.jobs));
        while let Some(result) = done.next().await {
            match result {
                Ok(Some(digest)) => output::line(&digest)?,
                Ok(None) => (),
                Err(error) => failures.add(error)?,
            }
        }
        failures.result().map(|()| ((), Vec::new()))
    })?;
    place.settle()
}

/// Fetches what one line names and returns its digest; nothing for an empty line.
async fn fetch(
    place: &dyn Operations,
    repository: &str,
    line: String,
    platform: &Platform,
    progress: std::sync::Arc<dyn Progress>,
) -> Result<Option<String>> {
    if line.trim().is_empty() {
        return Ok(None);
    }
    let object = Object::parse(repository, line.split_whitespace())?;
    let desc = object.describe(place.remotes(), platform).await?;
    let fetcher = place.remotes().fetcher(&object.name)?;
    dist::fetch_blob(place, fetcher, &desc, progress).await?;
    Ok(Some(desc.digest.to_string()))
}

/// Reads standard input on a thread of its own, so that a signal need not wait for the next line.
fn read_lines() -> Result<mpsc::Receiver<Result<String>>> {
    const MOST: u64 = 64 << 10;
    let (send, receive) = mpsc::channel(16);
    let read = move || {
        let mut input = io::stdin().lock();
        loop {
            let mut line = String::new();
            let result = match io::Read::take(&mut input, MOST).read_line(&mut line) {
                Ok(0) => return,
                Ok(length) if length as u64 == MOST => Err(Error::new(
                    ErrorKind::InvalidArgument,
                    "read standard input: a line is longer than 64 KiB",
                )),
                Ok(_) => Ok(line),
                Err(error) => {
                    Err(error).context(ErrorKind::Storage, || "read standard input".into())
                }
            };
            let failed = result.is_err();
            if send.blocking_send(result).is_err() || failed {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("stdin".into())
        .spawn(read)
        .context(ErrorKind::Internal, || "start a thread".into())?;
    Ok(receive)
}
