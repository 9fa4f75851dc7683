//! `dist apply`: a layer from standard input onto a directory.

use std::io::{self, Read};
use std::path::PathBuf;

use dist_core::{
    Applier, Compression, Context, Descriptor, Digest, Error, ErrorKind, LayerForm, MediaType,
    Mount, Result,
};
use dist_layer::{ApplyOptions, Cores, LayerApplier};

use crate::config::Config;
use crate::output;
use crate::progress::Reporter;
use crate::report;
use crate::signals::Stdin;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The layer is a tar, plain or compressed with gzip or zstd; whiteouts delete what is there. Nothing
outside the directory is touched, whatever the tar says. Prints the layer's diff ID.

Examples:
  mkdir root && dist get $LAYER | dist apply root")]
pub(crate) struct Args {
    /// The directory, which must exist
    dir: PathBuf,
}

const PARTLY: &str = "a part of the layer may be in the directory; make it anew before it is used";

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    let source = std::path::absolute(&args.dir)
        .context(ErrorKind::InvalidArgument, || format!("open {}", args.dir.display()))?;
    if !source.is_dir() {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("apply a layer to {}: there is no such directory", args.dir.display()),
        ));
    }
    let mount = Mount {
        fstype: "bind".into(),
        source,
        target: None,
        options: vec!["rw".into(), "rbind".into()],
    };
    let mut head = [0; 4];
    let mut input = Stdin::open()?;
    let (during, cancel) =
        (|| format!("apply standard input to {}", args.dir.display()), input.cancel());
    let got = match read_head(&mut input, &mut head) {
        Err(_) if input.stopped().is_some() => 0, // told below, with all other ends by a signal
        got => got.context(ErrorKind::Storage, || "read standard input".into())?,
    };
    let layer = Descriptor::new(
        MediaType::Layer(compression(&head[..got])),
        Digest::sha256(b""), // not known, and not what is verified here
        i64::MAX.unsigned_abs(),
    );
    let options =
        ApplyOptions { form: LayerForm::Merged, limits: config.limits, cores: Cores::available() };
    let applier = LayerApplier::new(options);
    let applied = applier
        .apply(&layer, &mut head[..got].chain(&mut input), &[mount], &cancel)
        .map_err(|error| match input.stopped() {
            Some(stopped) => report::advise(stopped.during(during()), PARTLY),
            None => Error::new(error.kind(), during()).with_source(error),
        })?;
    let reporter = Reporter::start(crate::progress::Mode::None, &config.terminal);
    reporter.warn(&applied.warnings);
    reporter.finish();
    output::line(&applied.diff_id.to_string())
}

/// Reads until the head is full or the input ends.
fn read_head(input: &mut dyn Read, head: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < head.len() {
        match input.read(&mut head[got..]) {
            Ok(0) => break,
            Ok(length) => got += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

/// What the first bytes say (RFC 1952 section 2.3.1, RFC 8878 sections 3.1.1 and 3.1.2).
fn compression(head: &[u8]) -> Compression {
    match head {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Compression::Zstd,
        _ => Compression::None,
    }
}
