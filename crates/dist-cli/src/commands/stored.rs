//! Images that are to be in the store, unpacked: found there, or pulled.

use clap::ValueEnum;
use dist::Engine;
use dist_core::{
    ChainId, Context as _, Descriptor, Error, ErrorKind, ImageConfig, Platform, Result, ResultExt,
    SnapshotKey, chain_ids,
};
use dist_run::{ImageSettings, Rootfs};
use dist_snapshot::mount::Seen;

use super::documents::Source;
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
            PullWhen::Missing | PullWhen::Never => registered(&images, name)?,
        };
        let image = match found {
            Some(found) => images.get(&found)?,
            None if choice.pull == PullWhen::Never => {
                let message = format!("find image {name}: it is not in the store");
                let error = Error::new(ErrorKind::NotFound, message);
                return Err(report::advise(error, "--pull missing brings it"));
            }
            None => pull(config, engine, name, choice)?,
        };
        let platform = config.pull_options(choice.platform.as_ref()).platform;
        let source = Source::Local(std::sync::Arc::new(engine.content()));
        let (manifest, bytes) = runtime::run(async {
            let (desc, manifest) = source.manifest(&image.target, &platform).await?;
            Ok((desc, source.read(&manifest.config).await?))
        })
        .during(|| format!("read image {}", image.name))?;
        let parsed = ImageConfig::parse(&bytes)?;
        let settings = ImageSettings::parse(&bytes)?;
        let Some(chain_id) = chain_ids(&parsed.diff_ids).pop() else {
            let message = format!("run image {}: it has no layers, so no files", image.name);
            return Err(Error::new(ErrorKind::FailedPrecondition, message));
        };
        unpack(config, engine, &manifest, chain_id, choice)?;
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

fn pull(config: &Config, engine: &Engine, name: &str, choice: &Choice) -> Result<dist_core::Image> {
    reference::check(name)?;
    let options = config.pull_options(choice.platform.as_ref());
    let what = format!("pull {name}");
    let options = &options;
    transfer::into_store(config, choice.quiet, &what, |progress| async move {
        let mut pulled = dist::pull(engine, name, options, progress).await?;
        let warnings = std::mem::take(&mut pulled.warnings);
        Ok((pulled.image, warnings))
    })
}

/// Unpacks the image where it is not unpacked: another snapshotter may have done it, or an unclean
/// stop have dropped it.
fn unpack(
    config: &Config,
    engine: &Engine,
    manifest: &Descriptor,
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
        dist::unpack_manifest(engine, &digest, options, progress).await
    })
    .map(drop)
}
