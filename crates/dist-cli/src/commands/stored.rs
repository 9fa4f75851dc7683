//! Images that are to be in the store, unpacked: found there, or pulled.

use std::sync::Arc;

use clap::ValueEnum;
use dist::Engine;
use dist_core::{
    ChainId, Context as _, Descriptor, Error, ErrorKind, Image, ImageConfig, Manifest, Platform,
    Result, ResultExt, SnapshotKey, chain_ids,
};
use dist_run::{ImageSettings, Rootfs};
use dist_snapshot::mount::Seen;

use super::documents::{self, with_layers};
use super::rmi::registered;
use super::transfer;
use crate::config::Config;
use crate::{reference, report, runtime};

/// When an image is pulled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum PullWhen {
    /// Where it is not in the store
    #[default]
    Missing,
    /// Every time, so that a tag means what it means now
    Always,
    /// Not at all
    Never,
}

/// Which image, and how it is had.
#[derive(Debug, clap::Args)]
pub(crate) struct Choice {
    /// When the image is pulled
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    pull: PullWhen,

    /// Platform whose image is taken from an index [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,

    /// No progress
    #[arg(short, long)]
    quiet: bool,
}

/// An image that is in the store and unpacked.
pub(crate) struct Stored {
    /// Its full name.
    pub(crate) name: String,
    /// How it is run.
    pub(crate) settings: ImageSettings,
    /// The snapshot that holds all of it.
    pub(crate) chain_id: ChainId,
}

impl Stored {
    /// Finds the image, and pulls and unpacks what is missing of it.
    pub(crate) fn find(
        config: &Config,
        engine: &Engine,
        name: &str,
        choice: &Choice,
    ) -> Result<Self> {
        let images = engine.images();
        let found = match choice.pull {
            PullWhen::Always => None,
            PullWhen::Missing | PullWhen::Never => registered(config, &images, name)?,
        };
        let mut image = match found {
            Some(found) => {
                let image = images.get(&found)?;
                let content = dist::stored_fetcher(Arc::new(engine.content()));
                runtime::run(engine.remotes().approve_stored(&image, &*content))?;
                image
            }
            None if choice.pull == PullWhen::Never => return Err(missing(name, None)),
            None => pull(config, engine, name, choice)?,
        };
        let platform = config.pull_options(choice.platform.as_ref()).platform;
        let mut read = Documents::read(engine, &image, &platform)?;
        if read.is_none() {
            // Of an index, those for other platforms are not pulled.
            if choice.pull == PullWhen::Never {
                return Err(missing(name, Some(&platform)));
            }
            image = pull(config, engine, name, choice)?;
            read = Documents::read(engine, &image, &platform)?;
        }
        let Documents { desc, manifest, config: bytes } =
            read.ok_or_else(|| missing(name, Some(&platform)))?;
        let parsed = ImageConfig::parse(&bytes)?;
        let settings = ImageSettings::parse(&bytes)?;
        let Some(chain_id) = chain_ids(&parsed.diff_ids).pop() else {
            let message = format!("run image {}: it has no layers, so no files", image.name);
            return Err(Error::new(ErrorKind::FailedPrecondition, message));
        };
        unpack(config, engine, (&desc, manifest.layers), chain_id, choice)?;
        Ok(Self { name: image.name.to_string(), settings, chain_id })
    }

    /// Lets `look` see the image's tree.
    pub(crate) fn look<T>(
        &self,
        engine: &Engine,
        look: impl FnOnce(&mut Rootfs) -> Result<T>,
    ) -> Result<T> {
        let snapshotter = engine.snapshotter()?;
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
        let key: SnapshotKey = format!("look {now}-{}", std::process::id())
            .parse()
            .context(ErrorKind::Internal, || "name a view".into())?;
        let parent = SnapshotKey::from(self.chain_id);
        let mounts = snapshotter.view(&key, Some(&parent), &Default::default())?;
        let looked = Seen::of(&mounts)
            .and_then(|seen| Rootfs::open(seen.path()).and_then(|mut rootfs| look(&mut rootfs)));
        let removed = snapshotter.remove(&key);
        looked.and_then(|value| removed.map(|()| value))
    }
}

/// What an image says of itself for one platform.
struct Documents {
    desc: Descriptor,
    manifest: Manifest,
    config: Vec<u8>,
}

impl Documents {
    /// Reads them from the store; nothing where the image has them and the store does not.
    fn read(engine: &Engine, image: &Image, platform: &Platform) -> Result<Option<Self>> {
        let content = engine.content();
        let found = documents::stored_manifest(&content, &image.target, platform);
        let found = found.and_then(|found| {
            let Some((desc, manifest)) = found else { return Ok(None) };
            let config = documents::if_there(dist::read_document(&content, &manifest.config))?;
            Ok(config.map(|config| Self { desc, manifest, config }))
        });
        found.during(|| format!("read image {}", image.name))
    }
}

fn missing(name: &str, platform: Option<&Platform>) -> Error {
    let what = match platform {
        Some(platform) => format!("find image {name} for platform {platform}"),
        None => format!("find image {name}"),
    };
    let error = Error::new(ErrorKind::NotFound, format!("{what}: it is not in the store"));
    report::advise(error, "--pull missing brings it")
}

fn pull(config: &Config, engine: &Engine, name: &str, choice: &Choice) -> Result<Image> {
    let names = reference::meant(config, name)?;
    let options = config.pull_options(choice.platform.as_ref());
    let (what, names) = (format!("pull {name}"), &names);
    let options = &options;
    transfer::into_store(config, choice.quiet, &what, |progress| async move {
        let pull = async |name: &str| dist::pull(engine, name, options, progress.clone()).await;
        let mut pulled = reference::first_of(names, pull).await?;
        let warnings = std::mem::take(&mut pulled.warnings);
        Ok((pulled.image, warnings))
    })
}

/// Unpacks the image where it is not unpacked: another snapshotter may have done it, or an unclean
/// stop have dropped it.
fn unpack(
    config: &Config,
    engine: &Engine,
    (manifest, layers): (&Descriptor, Vec<Descriptor>),
    chain_id: ChainId,
    choice: &Choice,
) -> Result<()> {
    match engine.snapshotter()?.stat(&SnapshotKey::from(chain_id)) {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Err(_) => (),
    }
    let options = config.pull_options(choice.platform.as_ref());
    let (options, digest) = (&options, manifest.digest);
    let what = format!("unpack {digest}");
    transfer::into_store(config, choice.quiet, &what, |progress| async move {
        let unpacked = dist::unpack_manifest(engine, &digest, options, Arc::clone(&progress));
        match choice.pull {
            // What was discarded would have to be fetched.
            PullWhen::Never => unpacked.await,
            PullWhen::Missing | PullWhen::Always => {
                with_layers(engine, layers, progress, unpacked).await
            }
        }
    })
    .map(drop)
}
