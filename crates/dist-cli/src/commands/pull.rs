//! `dist pull`: an image into the store, unpacked into snapshots and registered.

use dist_core::Result;
use dist_store::SettleMode;

use super::transfer::{self, Transfer};
use crate::config::Config;
use crate::{reference, user_namespace};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Layers are unpacked while they arrive. Broken off, it goes on where it was when it is run again.
The last line on standard output is NAME@DIGEST.

Without root it unpacks in a user namespace (with util-linux' unshare; owners are kept where
newuidmap and a range in /etc/subuid are there).

Examples:
  dist pull redis:7
  dist pull localhost:5000/library/redis:7
  dist pull --platform linux/arm64 alpine@sha256:...
  image=$(dist pull -q redis:7 | tail -n 1)")]
pub(crate) struct Args {
    /// Image in a registry, or oci:PATH[:TAG]
    #[arg(value_name = "REF")]
    name: String,

    #[command(flatten)]
    transfer: Transfer,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    reference::check(&args.name)?;
    user_namespace::enter(config)?;
    let engine = config.engine()?;
    let what = format!("pull {}", args.name);
    let options = config.pull_options(args.transfer.platform.as_ref());
    let (engine_ref, name) = (&engine, &args.name);
    let pulled = transfer::into_store(config, args.transfer.quiet, &what, |progress| async move {
        let mut pulled = dist::pull(engine_ref, name, &options, progress).await?;
        let warnings = std::mem::take(&mut pulled.warnings);
        Ok((pulled, warnings))
    })?;
    let image = pulled.image;
    transfer::print_pinned(image.name.as_str(), &image.target.digest)?;
    engine.store().settle(SettleMode::Exit).map(drop)
}
