//! `dist path`: where blobs lie.

use dist_core::{Digest, Result};

use super::several::each;
use crate::config::Config;
use crate::output;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The files are read-only and may not be changed; their names are their digests.

Examples:
  dist list -q | xargs dist path | xargs sha256sum")]
pub(crate) struct Args {
    /// The blobs
    #[arg(required = true, value_name = "DIGEST")]
    digests: Vec<Digest>,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    let content = config.content_to_read()?;
    each(&args.digests, |digest| {
        let path = content.path(digest)?;
        output::print(|out| {
            use std::io::Write as _;
            use std::os::unix::ffi::OsStrExt as _;
            out.write_all(path.as_os_str().as_bytes())?;
            writeln!(out)
        })
    })
}
