//! `dist bundle`: an image as a directory that an OCI runtime takes as it is, and many in one file.

mod air;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dist_core::{Error, ErrorKind, Platform, Progress, Resolved, Resolver as _, Result};
use dist_run::{Bundle, HostFacts, ImageSettings, Rootfs, convert};

use super::documents::{Source, with_layers_of};
use super::rmi::registered;
use super::transfer::{self, Transfer};
use super::wishes::Wishes;
use crate::config::Config;
use crate::progress::Reporter;
use crate::{reference, report};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A bundle is an OCI layout in a tar (docs/bundle.md). What an OCI runtime calls a bundle, one image as a
directory, is made by `dist oci bundle REF DIR`, or `dist bundle REF DIR` for short.

Examples:
  dist bundle create images.tar redis:7 registry.example.com/app:2
  dist bundle create --since images.tar more.tar redis:7.2 registry.example.com/app:3
  dist bundle verify --since images.tar more.tar
  dist bundle load --to localhost:5000/mirror images.tar")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: air::Command,
}

/// Does what was asked.
pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    air::run(config, &args.command)
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The bundle has config.json, the files that it mounts, and the whole tree in rootfs; the runtime is
told no path outside, so that it can be moved. It is made from the store where the image is there,
else from the registry, and nothing is kept in the store. The last line on standard output is
NAME@DIGEST.

Examples:
  dist oci bundle redis:7 redis && crun run --bundle redis my-redis
  dist oci bundle -e A=1 --user nobody busybox box sh -c 'echo $A; id'")]
pub(super) struct Runtime {
    #[command(flatten)]
    transfer: Transfer,

    #[command(flatten)]
    wishes: Wishes,

    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,

    /// Image, in the store or in a registry, or oci:PATH[:TAG]
    #[arg(value_name = "REF")]
    name: String,

    /// The directory: empty, or not there yet
    dir: PathBuf,

    /// Command and arguments, in place of the image's arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Makes the bundle of one image.
pub(super) fn make_for_runtime(config: &Config, args: &Runtime) -> Result<()> {
    args.wishes.refuse_named_network()?;
    let made_dir = prepare(&args.dir)?;
    let made = make(config, args).map_err(|error| {
        let what = || format!("make a bundle of {} in {}", args.name, args.dir.display());
        transfer::if_stopped(error, what, "nothing is left; the same command begins anew")
    });
    if made.is_err() {
        clear(&args.dir, made_dir);
    }
    let resolved = made?;
    transfer::print_pinned(&resolved.name, &resolved.target.digest)
}

fn make(config: &Config, args: &Runtime) -> Result<Resolved> {
    let reporter = Reporter::start(config.progress_unless(args.transfer.quiet), &config.terminal);
    let (platform, bundle) = (args.transfer.platform.as_ref(), Bundle::create(&args.dir)?);
    let rootfs = bundle.rootfs();
    let (resolved, bytes) = transfer::run(&reporter, |progress| {
        unpack(config, &args.name, &rootfs, platform, progress)
    })?;
    let image = ImageSettings::parse(&bytes)?;
    let mut rootfs = Rootfs::open(&rootfs)?;
    let mut options = args.wishes.options(&image, &args.args, &mut rootfs)?;
    options.terminal = args.tty;
    let converted = convert(&image, &options, &HostFacts::read())?;
    super::oci::tell_omitted(&converted.omitted);
    rootfs.make_working_dir(&converted.spec.process.cwd)?;
    bundle.write(&converted, options.network, &mut rootfs)?;
    Ok(resolved)
}

/// Unpacks the image; returns what it is, and the bytes of its config.
async fn unpack(
    config: &Config,
    name: &str,
    dir: &Path,
    platform: Option<&Platform>,
    progress: Arc<dyn Progress>,
) -> Result<((Resolved, Vec<u8>), Vec<dist_core::Warning>)> {
    let options = config.pull_options(platform);
    let stored = match config.host_to_read()? {
        Some(host) => registered(config, &*host.images(), name)?.map(|name| (host, name)),
        None => None,
    };
    let (resolved, source, warnings) = match stored {
        Some((host, name)) => {
            let (image, content) = (host.images().get(&name)?, host.contents());
            let fetcher = dist::stored_fetcher(content.clone());
            config.remotes()?.approve_stored(&image, &*fetcher).await?;
            let resolved = Resolved { name: image.name.to_string(), target: image.target };
            let limits = &config.limits;
            let source = Source::Local(content.clone());
            let (_, manifest) = source.manifest(&resolved.target, &options.platform).await?;
            let unpacked = dist::unpack_stored_to_directory(
                content,
                resolved.clone(),
                dir,
                &options,
                limits,
                Arc::clone(&progress),
            );
            let warnings =
                with_layers_of(config, &source, manifest.layers, progress, unpacked).await?;
            (resolved, source, warnings)
        }
        None => {
            reference::check(name)?;
            let remotes = config.remotes()?;
            let (resolved, warnings) =
                dist::unpack_to_directory(&remotes, name, dir, &options, &config.limits, progress)
                    .await?;
            (resolved, Source::Remote(remotes.fetcher(name)?), warnings)
        }
    };
    let (_, manifest) = source.manifest(&resolved.target, &options.platform).await?;
    let bytes = source.read(&manifest.config).await?;
    Ok(((resolved, bytes), warnings))
}

/// Refuses a directory with something in it; says whether there was none.
fn prepare(dir: &Path) -> Result<bool> {
    match fs_err::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            None => Ok(false),
            Some(_) => {
                let message = format!("make a bundle in {}: it is not empty", dir.display());
                Err(Error::new(ErrorKind::InvalidArgument, message))
            }
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => {
            let message = format!("make a bundle in {}", dir.display());
            Err(Error::new(ErrorKind::InvalidArgument, message).with_source(error))
        }
    }
}

/// Removes what a failed command has made.
fn clear(dir: &Path, whole: bool) {
    let entries = fs_err::read_dir(dir).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        let removed = if path.is_dir() {
            dist_snapshot::remove_tree(&path)
        } else {
            fs_err::remove_file(&path).map_err(|error| {
                Error::new(ErrorKind::Storage, format!("remove {}", path.display()))
                    .with_source(error)
            })
        };
        if let Err(error) = removed {
            report::warn(&report::one_line(&error));
        }
    }
    if whole {
        // What could not be removed was told.
        drop(fs_err::remove_dir(dir));
    }
}
