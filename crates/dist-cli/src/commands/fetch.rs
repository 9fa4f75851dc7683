//! `dist fetch`: everything that belongs to an image into the store, nothing unpacked.

use dist::{FetchOptions, Platforms};
use dist_core::Result;

use super::transfer::{self, Transfer};
use crate::config::Config;
use crate::reference;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Broken off, it goes on where it was when it is run again. The last line on standard output is
NAME@DIGEST. No image is registered: `dist pull` does that.

Examples:
  dist fetch redis:7
  dist fetch --all-platforms ghcr.io/owner/app:1
  dist fetch oci:/srv/layout:v1")]
pub(crate) struct Args {
    /// Image in a registry, oci:PATH[:TAG], or https://ADDRESS[#NAME]
    #[arg(value_name = "REF")]
    name: String,

    #[command(flatten)]
    transfer: Transfer,

    /// Every platform of an index
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    let names = reference::meant(config, &args.name)?;
    let place = config.fetching()?;
    let what = format!("fetch {}", args.name);
    let pull = config.pull_options(args.transfer.platform.as_ref());
    let platforms = if args.all_platforms { Platforms::All } else { Platforms::One(pull.platform) };
    let options = FetchOptions { platforms, jobs: pull.jobs };
    let (place_ref, names) = (&*place, &names);
    let resolved =
        transfer::into_store(config, args.transfer.quiet, &what, |progress| async move {
            let fetch =
                async |name: &str| dist::fetch(place_ref, name, &options, progress.clone()).await;
            Ok((reference::first_of(names, fetch).await?, Vec::new()))
        })?;
    transfer::print_pinned(&resolved.name, &resolved.target.digest)?;
    place.settle()
}
