//! `dist unpack`: an image straight into a plain directory, without a store.

use std::path::PathBuf;

use dist_core::Result;

use super::origin;
use super::transfer::{self, Transfer};
use crate::config::Config;
use crate::progress::Reporter;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The directory gets its name when all of it has been unpacked and verified; where that fails,
nothing is left. Nothing is kept in the store. The last line on standard output is NAME@DIGEST.

Without root all files belong to the user who unpacks; what could not be set is told at the end.

Examples:
  dist unpack redis:7 rootfs
  dist unpack oci:/srv/layout:v1 rootfs")]
pub(crate) struct Args {
    /// Image in a registry, or as `dist copy` names them (oci:, https:, store:, daemon:, ...)
    #[arg(value_name = "REF")]
    name: String,

    /// The directory: empty, or not there yet
    dir: PathBuf,

    #[command(flatten)]
    transfer: Transfer,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    let (remotes, name) = origin::elsewhere(config, &args.name)?;
    let options = config.pull_options(args.transfer.platform.as_ref());
    let (remotes, options) = (&remotes, &options);
    let mode = config.progress_unless(args.transfer.quiet);
    let reporter = Reporter::start(mode, &config.terminal);
    let resolved = transfer::run(&reporter, |progress| {
        dist::unpack_to_directory(remotes, &name, &args.dir, options, &config.limits, progress)
    })
    .map_err(|error| {
        let what = || format!("unpack {} into {}", args.name, args.dir.display());
        transfer::if_stopped(error, what, "nothing is left; the same command begins anew")
    })?;
    transfer::print_pinned(&resolved.name, &resolved.target.digest)
}
