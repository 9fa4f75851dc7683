//! `dist rootfs`: images into snapshots, snapshots to mount.

use std::path::PathBuf;

use clap::Subcommand;
use dist::{Engine, Host, Local, Operations};
use dist_core::{
    ChainId, Digest, Error, ErrorKind, ImageConfig, Mount, Platform, Result, SnapshotKey,
    Snapshotter, chain_ids,
};
use dist_store::SettleMode;

use super::documents::{if_there, stored_manifest};
use super::rmi::registered;
use super::transfer::{self, Keep};
use crate::config::Config;
use crate::progress::Reporter;
use crate::{output, reference, report, user_namespace};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dist fetch redis:7 && dist rootfs unpack $MANIFEST
  dist rootfs prepare $CHAIN_ID my-key --target /mnt/redis | sh")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Unpack an image whose content is in the store
    Unpack(Unpack),

    /// Make a snapshot on top of an unpacked image and print how to mount it
    Prepare(Prepare),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints the chain ID: the name of the snapshot that holds the whole image.

Examples:
  dist fetch redis:7 && dist rootfs unpack $MANIFEST")]
struct Unpack {
    /// Digest of the manifest, or of an index
    digest: Digest,

    /// Platform, where it is an index [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,

    /// No progress
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    keep: Keep,
}

impl Args {
    /// Whether blobs of unpacked layers are to go.
    pub(crate) fn discard_blobs(&self) -> bool {
        matches!(&self.command, Command::Unpack(args) if args.keep.discard_blobs)
    }
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints mount commands for a shell. The snapshot stays until `dist snapshots rm KEY`. An image that is in
the store is unpacked where it is not.

Examples:
  dist rootfs prepare redis:7 my-key --target /mnt/redis | sh
  dist rootfs prepare --view $CHAIN_ID /mnt/redis | sh
  dist rootfs prepare $CHAIN_ID my-key --target /mnt/redis | sh")]
struct Prepare {
    /// Make it read-only
    #[arg(long)]
    view: bool,

    /// Where the commands mount it [default: KEY]
    #[arg(long, value_name = "DIR")]
    target: Option<PathBuf>,

    /// Platform whose image is taken from an index [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,

    /// An image in the store, or the chain ID that `rootfs unpack` printed
    #[arg(value_name = "REF|CHAIN_ID")]
    image: String,

    /// Name of the new snapshot
    key: SnapshotKey,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    if let (true, Command::Prepare(args)) = (config.is_remote(), &args.command) {
        let host = config.host_that_is_there()?;
        let snapshotter = match config.snapshotter_flag() {
            Some(name) => Some(host.snapshotter(name)?),
            None => host.snapshotters()?.into_iter().next(),
        };
        let snapshotter = snapshotter.ok_or_else(|| {
            Error::new(ErrorKind::FailedPrecondition, "the daemon has no snapshotter")
        })?;
        let chain_id = chain_id(config, &*host, args)?;
        let mounts = make_whole(&*host, &*snapshotter, (args, chain_id), |manifest| {
            let place = config.unpacking()?;
            unpack(config, &*place, manifest, None, false)?;
            place.settle()
        })?;
        return print_mounts(args, &mounts);
    }
    if !config.is_remote() {
        user_namespace::enter_to_unpack(config)?;
    }
    match &args.command {
        Command::Unpack(args) => {
            let place = config.unpacking()?;
            let chain_id =
                unpack(config, &*place, &args.digest, args.platform.as_ref(), args.quiet)?;
            match chain_id {
                Some(chain_id) => output::line(&chain_id.to_string())?,
                None => report::warn(&format!("{} has no layers, so no snapshot", args.digest)),
            }
            place.settle()
        }
        Command::Prepare(args) => {
            let engine = config.engine()?;
            prepare(config, &engine, args)?;
            engine.settle()
        }
    }
}

const MISSING: &str = "`dist pull REF` fetches what is missing and unpacks it; `dist fetch REF` only \
                       fetches";

fn unpack(
    config: &Config,
    place: &dyn Operations,
    digest: &Digest,
    platform: Option<&Platform>,
    quiet: bool,
) -> Result<Option<ChainId>> {
    let reporter = Reporter::start(config.progress_unless(quiet), &config.terminal);
    let options = config.pull_options(platform);
    transfer::run(&reporter, |progress| async move {
        dist::unpack_manifest(place, digest, &options, progress).await
    })
    .map_err(|error| match error.kind() {
        ErrorKind::NotFound => report::advise(error, MISSING),
        _ => {
            let what = || format!("unpack {digest}");
            transfer::if_stopped(error, what, "layers that were unpacked whole are kept")
        }
    })
}

fn prepare(config: &Config, engine: &Engine, args: &Prepare) -> Result<()> {
    if !args.view {
        engine.store().settle(SettleMode::Base)?;
    }
    let snapshotter = engine.snapshotter()?;
    let host = Local::new(engine.store().clone(), config.namespace.clone());
    let chain_id = chain_id(config, &host, args)?;
    let mounts = make_whole(&host, &*snapshotter, (args, chain_id), |manifest| {
        unpack(config, engine, manifest, None, false).map(drop)
    })?;
    print_mounts(args, &mounts)?;
    user_namespace::tell_how(config)
}

/// The name of the snapshot that holds the image which was asked for, there or not.
fn chain_id(config: &Config, host: &dyn Host, args: &Prepare) -> Result<ChainId> {
    let name = &args.image;
    if let Ok(digest) = name.parse() {
        return Ok(ChainId(digest));
    }
    let (images, content) = (host.images(), host.contents());
    let platform = config.pull_options(args.platform.as_ref()).platform;
    let missing = |what: &str| {
        let error = Error::new(ErrorKind::NotFound, format!("find image {name}{what}"));
        report::advise(error, MISSING)
    };
    let Some(found) = registered(config, &*images, name)? else {
        reference::check(name)?;
        return Err(missing(": it is not in the store"));
    };
    let target = images.get(&found)?.target;
    let manifest = stored_manifest(&*content, &target, &platform)?;
    let read = manifest.map(|(_, manifest)| dist::read_document(&*content, &manifest.config));
    let Some(bytes) = if_there(read.transpose())?.flatten() else {
        return Err(missing(&format!(" for platform {platform}: it is not in the store")));
    };
    let Some(chain_id) = chain_ids(&ImageConfig::parse(&bytes)?.diff_ids).pop() else {
        let message = format!("prepare image {name}: it has no layers, so no files");
        return Err(Error::new(ErrorKind::FailedPrecondition, message));
    };
    Ok(chain_id)
}

/// Makes the snapshot; layers below it that are lost are unpacked again from the content.
fn make_whole(
    host: &dyn Host,
    snapshotter: &dyn Snapshotter,
    (args, chain_id): (&Prepare, ChainId),
    unpack_again: impl FnOnce(&Digest) -> Result<()>,
) -> Result<Vec<Mount>> {
    match make(snapshotter, args, chain_id) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // An unclean stop drops snapshots that were not known to be on the disk.
            let Some(manifest) = manifest_with(host, chain_id)? else {
                return Err(error);
            };
            unpack_again(&manifest)?;
            make(snapshotter, args, chain_id)
        }
        result => result,
    }
}

fn print_mounts(args: &Prepare, mounts: &[Mount]) -> Result<()> {
    let target = args.target.clone().unwrap_or_else(|| args.key.as_str().into());
    output::lines(dist_snapshot::mount::commands(mounts, &target).into_iter())
}

fn make(snapshotter: &dyn Snapshotter, args: &Prepare, chain_id: ChainId) -> Result<Vec<Mount>> {
    let parent = SnapshotKey::from(chain_id);
    let labels = dist::root_label();
    if args.view {
        snapshotter.view(&args.key, Some(&parent), &labels)
    } else {
        snapshotter.prepare(&args.key, Some(&parent), &labels)
    }
}

/// The manifest of an image of `host` that has `chain_id` among its layers, from content that is there.
fn manifest_with(host: &dyn Host, chain_id: ChainId) -> Result<Option<Digest>> {
    let content = host.contents();
    for image in host.images().list()? {
        let below = super::documents::manifests(&*content, &image.target);
        for (manifest, parts) in below {
            let Ok(bytes) = dist::read_document(&*content, &parts.config) else { continue };
            let Ok(parsed) = ImageConfig::parse(&bytes) else { continue };
            if chain_ids(&parsed.diff_ids).contains(&chain_id) {
                return Ok(Some(manifest.digest));
            }
        }
    }
    Ok(None)
}
