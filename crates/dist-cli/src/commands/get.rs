//! `dist get`: a blob's bytes on standard output.

use std::io::{self, Read, Write};

use dist_core::{Blob, ContentMismatch, Context, Digest, Error, ErrorKind, Result};

use crate::config::Config;
use crate::output;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dist get sha256:4f4fb700ef54461cfa02571ae0db9a0dc1e0cdb5577484a6d75e68dc38e8acc1 | tar tz
  dist get $DIGEST | jq .")]
pub(crate) struct Args {
    /// The blob
    digest: Digest,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    let host = config.host_that_is_there()?;
    let blob = host.contents().open(&args.digest)?;
    let expected = blob.size;
    let what = || format!("read {}", args.digest);
    let got = copy(blob).context(ErrorKind::Storage, what)??;
    if got == expected {
        return Ok(());
    }
    // A daemon ended it as if it were whole.
    Err(Error::new(ErrorKind::Unavailable, what())
        .with_source(ContentMismatch::Size { expected, got }))
}

/// Copies the blob out and counts: the outer error is about reading, the inner one about writing.
fn copy(mut blob: Blob) -> io::Result<Result<u64>> {
    let mut out = io::stdout().lock();
    let mut buffer = vec![0; 256 << 10];
    let mut total = 0;
    loop {
        let length = blob.read(&mut buffer)?;
        if length == 0 {
            return Ok(out.flush().map(|()| total).map_err(output::output_error));
        }
        total += length as u64;
        if let Err(error) = out.write_all(&buffer[..length]) {
            return Ok(Err(output::output_error(error)));
        }
    }
}
