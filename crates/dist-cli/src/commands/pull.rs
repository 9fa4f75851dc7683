//! `dist pull`: an image into the store, unpacked into snapshots and registered.

use dist_core::Result;

use super::transfer::{self, Keep, Transfer};
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
  dist pull --snapshotter erofs --discard-blobs redis:7
  image=$(dist pull -q redis:7 | tail -n 1)")]
pub(crate) struct Args {
    /// Image in a registry, or oci:PATH[:TAG]
    #[arg(value_name = "REF")]
    name: String,

    #[command(flatten)]
    transfer: Transfer,

    #[command(flatten)]
    keep: Keep,
}

impl Args {
    /// Whether blobs of unpacked layers are to go.
    pub(crate) fn discard_blobs(&self) -> bool {
        self.keep.discard_blobs
    }
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    reference::check(&args.name)?;
    if !config.is_remote() {
        user_namespace::enter(config)?;
    }
    let puller = config.puller()?;
    let what = format!("pull {}", args.name);
    let options = config.pull_options(args.transfer.platform.as_ref());
    let (puller_ref, name) = (&puller, &args.name);
    let pulled = transfer::into_store(config, args.transfer.quiet, &what, |progress| async move {
        let mut pulled = puller_ref.pull(name, &options, progress).await?;
        let warnings = std::mem::take(&mut pulled.warnings);
        Ok((pulled, warnings))
    })?;
    let image = pulled.image;
    transfer::print_pinned(image.name.as_str(), &image.target.digest)?;
    puller.settle()
}
