//! `dist ingest`: standard input becomes a blob.

use std::io::{self, Read};

use dist_core::{
    ContentMismatch, Context, Digest, Error, ErrorKind, Expected, Ingest, IngestKey, Result,
    ResultExt, Writer,
};

use crate::config::Config;
use crate::report;
use crate::signals::Stdin;
use crate::units::parse_size;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Where the expected digest is in the store already, or another process with the same KEY brings it
first, this succeeds without reading standard input. Where an earlier process left the ingest in
the middle, that many bytes of standard input are passed over and the rest is appended: the input
must start at its first byte each time; Ctrl-C leaves it so, too. A wrong size or digest throws the
ingest away (exit 6). Nothing is printed; `dist list` shows what is there.

Examples:
  dist ingest my-blob --expected-size 5 < blob
  dist fetch-object docker.io/library/redis $DIGEST | dist ingest --expected-digest $DIGEST $DIGEST")]
pub(crate) struct Args {
    /// Names the write: two commands with one key never write at the same time
    key: IngestKey,

    /// Bytes that must come
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    expected_size: Option<u64>,

    /// Digest that they must have
    #[arg(long, value_name = "DIGEST")]
    expected_digest: Option<Digest>,
}

const KEPT: &str = "what was read is kept; run the same command again, with the same input from its \
                    first byte, to continue";

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    let content = config.host_to_make()?.contents();
    let expected = Expected { digest: args.expected_digest, size: args.expected_size };
    let during = || format!("ingest {}", args.key);
    let mut input = Stdin::open()?;
    let mut writer = match content.ingest(&args.key, expected, &input.cancel()) {
        Ok(Ingest::Exists(_)) => return Ok(()),
        Ok(Ingest::Writer(writer)) => writer,
        Err(error) => {
            // It waited for another writer.
            return Err(input.stopped().map_or(error, |stopped| stopped.during(during())));
        }
    };
    if let Err(error) = fill(&mut *writer, expected, &mut input) {
        if error.find::<ContentMismatch>().is_some() {
            writer.abort()?;
        }
        if let Some(stopped) = input.stopped() {
            return Err(report::advise(stopped.during(during()), KEPT));
        }
        return Err(error).during(during);
    }
    drop(input);
    writer.commit_or_abort(expected).map(drop).during(during)
}

/// Passes over what is written and appends the rest of `input`.
fn fill(writer: &mut dyn Writer, expected: Expected, input: &mut dyn Read) -> Result<()> {
    let mut buffer = vec![0; 256 << 10];
    let mut skip = writer.offset();
    let mut total = 0_u64;
    loop {
        let length = match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                return Err(error).context(ErrorKind::Storage, || "read standard input".into());
            }
        };
        total += length as u64;
        if let Some(size) = expected.size
            && total > size
        {
            // What comes after that can't make it right.
            return Err(mismatch(size, total));
        }
        let passed = usize::try_from(skip).unwrap_or(usize::MAX).min(length);
        skip -= passed as u64;
        writer
            .write_all(&buffer[passed..length])
            .context(ErrorKind::Storage, || "write the ingest".into())?;
    }
    if skip > 0 {
        return Err(mismatch(writer.offset(), total))
            .during(|| "pass over what an earlier process wrote".into());
    }
    Ok(())
}

fn mismatch(expected: u64, got: u64) -> Error {
    Error::new(ErrorKind::Corrupt, "read standard input")
        .with_source(ContentMismatch::Size { expected, got })
}
