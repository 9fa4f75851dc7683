//! `dist get`: a blob's bytes on standard output.

use std::fs::File;
use std::io::{self, Read, Write};

use dist_core::{Context, Digest, ErrorKind, Provider, Result};

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
    let content = config.content_to_read()?;
    let blob = content.open(&args.digest)?;
    copy(blob.file).context(ErrorKind::Storage, || format!("read {}", args.digest))?
}

/// Copies the file out: the outer error is about reading, the inner one about writing.
fn copy(mut file: File) -> io::Result<Result<()>> {
    let mut out = io::stdout().lock();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let length = file.read(&mut buffer)?;
        if length == 0 {
            return Ok(out.flush().map_err(output::output_error));
        }
        if let Err(error) = out.write_all(&buffer[..length]) {
            return Ok(Err(output::output_error(error)));
        }
    }
}
