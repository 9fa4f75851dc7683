//! Blobs that were discarded, back in the store for as long as somebody needs them.
//!
//! A blob is made again of its tar where it is known how, and verified; else it is fetched from
//! where it came from.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use dist_core::{
    Cancel, ContentMismatch, Context as _, Descriptor, Error, ErrorKind, Expected, Ingest,
    IngestKey, Ingester as _, Progress, Resolver as _, Resource, Result, ResultExt as _,
};
use dist_layer::{Recipe, erofs_tar, image_path};
use dist_store::{Discarded, NamedBy, Registration, UnpackedLayer};

use crate::blocking::{Alive, blocking};
use crate::export::Exported;
use crate::ingest::Intake;
use crate::layers::layers_below;
use crate::session::Session;
use crate::{Engine, sources};

/// Bytes that are written at a time.
const CHUNK: usize = 256 << 10;

/// Blobs that were discarded and are there again.
#[must_use = "what was brought stays until this is ended"]
pub struct Restored {
    engine: Engine,
    /// Keeps them until they are used.
    session: Option<Session>,
    layers: Vec<(String, UnpackedLayer)>,
}

impl Restored {
    /// Whether nothing had to be brought.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// Discards the blobs again, where nobody else holds them by now.
    ///
    /// # Errors
    /// `Storage`.
    pub async fn end(self) -> Result<()> {
        blocking(move || {
            if let Some(session) = self.session {
                session.finish(Registration::default())?;
            }
            for (snapshotter, layer) in self.layers {
                let (store, scope) = (self.engine.store(), self.engine.scope());
                store.discard(scope, &snapshotter, &[layer], NamedBy::Anything, None)?;
            }
            Ok(())
        })
        .await
    }
}

/// Brings the layers of `images` again that were discarded, of the platforms that are exported.
///
/// # Errors
/// As [`restore`]; those of reading documents.
pub async fn restore_images(
    engine: &Engine,
    images: &[Exported],
    progress: Arc<dyn Progress>,
) -> Result<Restored> {
    let (content, images) = (engine.content(), images.to_vec());
    let layers = blocking(move || {
        let mut layers = Vec::new();
        for Exported { target, platforms, .. } in &images {
            layers.extend(layers_below(&content, target, platforms)?);
        }
        layers.sort_by_key(|layer| layer.digest);
        layers.dedup_by_key(|layer| layer.digest);
        Ok(layers)
    })
    .await?;
    restore(engine, layers, progress).await
}

/// Brings those of `layers` again that were discarded. What is there, and what nothing is known of,
/// is passed over.
///
/// # Errors
/// Those of the remote that a blob came from; `Storage`.
pub async fn restore(
    engine: &Engine,
    layers: Vec<Descriptor>,
    progress: Arc<dyn Progress>,
) -> Result<Restored> {
    let alive = Alive::new();
    let mut restored = Restored { engine: engine.clone(), session: None, layers: Vec::new() };
    let outer = engine.clone();
    let missing = blocking(move || find(&outer, layers)).await?;
    if missing.is_empty() {
        return Ok(restored);
    }
    let outer = engine.clone();
    let needs: BTreeSet<_> =
        missing.iter().map(|(desc, _)| Resource::Content(desc.digest)).collect();
    let session = blocking(move || Session::begin(&outer, needs)).await?;
    let engine = session.engine().clone();
    restored.session = Some(session);
    match bring(&mut restored, &engine, &alive, missing, &progress).await {
        Ok(()) => Ok(restored),
        Err(failure) => {
            // It is of no use without the rest.
            if let Err(error) = restored.end().await {
                tracing::debug!(?error, "discard again what was brought");
            }
            Err(failure)
        }
    }
}

/// Brings all of `missing`, and notes in `restored` what is there.
async fn bring(
    restored: &mut Restored,
    engine: &Engine,
    alive: &Alive,
    missing: Vec<(Descriptor, Vec<Discarded>)>,
    progress: &Arc<dyn Progress>,
) -> Result<()> {
    for (desc, discarded) in missing {
        let (held, wanted, cancel) = (engine.clone(), desc.clone(), alive.cancel());
        let (discarded, made) = blocking(move || {
            let made = discarded.iter().find_map(|one| match make(&held, &wanted, one, &cancel) {
                Ok(false) => None,
                made => Some(made.map(|_| one.clone())),
            });
            made.transpose().map(|made| (discarded, made))
        })
        .await?;
        let source = match made {
            Some(made) => made,
            None => fetch(engine, alive, &desc, &discarded, progress).await?,
        };
        let certain = source.recipe.as_deref() == Some(&Recipe::PLAIN.to_string());
        let Discarded { snapshotter, key, recipe, .. } = source;
        let layer = UnpackedLayer { key, digest: desc.digest, recipe, certain };
        restored.layers.push((snapshotter, layer));
    }
    Ok(())
}

/// Those that are not there, each with what stands for it.
fn find(engine: &Engine, layers: Vec<Descriptor>) -> Result<Vec<(Descriptor, Vec<Discarded>)>> {
    let mut missing = Vec::new();
    for desc in layers {
        match engine.content().info(&desc.digest) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            info => {
                info?;
                continue;
            }
        }
        let discarded = engine.store().discarded(engine.namespace(), &desc.digest)?;
        if !discarded.is_empty() {
            missing.push((desc, discarded));
        }
    }
    Ok(missing)
}

/// Makes a blob of its tar; `false` where that makes another one.
fn make(
    engine: &Engine,
    desc: &Descriptor,
    discarded: &Discarded,
    cancel: &Cancel,
) -> Result<bool> {
    let Some(recipe) = discarded.recipe.as_deref().and_then(|text| text.parse::<Recipe>().ok())
    else {
        return Ok(false);
    };
    let Discarded { snapshotter, key, sources, .. } = discarded;
    let what = || format!("make blob {} again of snapshot {key}", desc.digest);
    let dirs = dist_snapshot::layer_dirs(engine.store(), engine.namespace(), snapshotter, key)?;
    let open = |dir: &PathBuf| erofs_tar(File::open(image_path(dir))?);
    let tar = match dirs.first().map(open).transpose() {
        Ok(Some(tar)) => tar,
        // Fetching it may still help.
        Ok(None) => return Ok(false),
        Err(error) => {
            tracing::debug!(digest = %desc.digest, %key, %error, "read the image of a discarded layer");
            return Ok(false);
        }
    };
    let content = engine.content().labelled(sources.clone());
    let ingest_key = IngestKey::for_content("restore", &desc.digest);
    let mut writer = match content.ingest(&ingest_key, desc.into(), cancel)? {
        Ingest::Exists(_) => return Ok(true),
        Ingest::Writer(writer) => writer,
    };
    // What a process left that was killed is of no use.
    writer.reset()?;
    let mut out = BufWriter::with_capacity(CHUNK, &mut writer);
    let mut tar = Cancellable { tar, cancel, failed: false };
    let made = recipe.compress(&mut tar, &mut out);
    let made = made.and_then(|()| out.flush());
    drop(out);
    match made {
        // Then what is written is not the blob, and fetching it may still help.
        Err(error) if tar.failed => {
            tracing::debug!(digest = %desc.digest, %key, %error, "read the image of a discarded layer");
        }
        made => made.context(ErrorKind::Storage, what)?,
    }
    match writer.commit_or_abort(Expected::from(desc)) {
        Ok(_) => Ok(true),
        Err(error) if error.find::<ContentMismatch>().is_some() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Fetches a blob from where it came from; returns by whose labels it was found.
async fn fetch(
    engine: &Engine,
    alive: &Alive,
    desc: &Descriptor,
    discarded: &[Discarded],
    progress: &Arc<dyn Progress>,
) -> Result<Discarded> {
    let mut failure = Error::new(ErrorKind::NotFound, "nothing says where it came from");
    for one in discarded {
        for name in sources::references(&one.sources, &desc.digest) {
            let fetcher = match engine.remotes().fetcher(&name) {
                Ok(fetcher) => fetcher,
                Err(error) => {
                    failure = error;
                    continue;
                }
            };
            let intake = Intake {
                content: Arc::new(engine.content().labelled(one.sources.clone())),
                downloads: Some(alive.downloads(engine.remotes().servers(), fetcher)),
                progress: Arc::clone(progress),
                cancel: alive.cancel(),
            };
            match intake.fetch(desc).await {
                Ok(()) => return Ok(one.clone()),
                Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
                Err(error) => failure = error,
            }
        }
    }
    let digest = &desc.digest;
    Err(failure).during(|| {
        format!(
            "bring layer {digest} again, which was discarded: `dist fetch` an image that has it first"
        )
    })
}

/// Reads until somebody gives up.
struct Cancellable<'a, R> {
    tar: R,
    cancel: &'a Cancel,
    /// Whether the tar could not be read.
    failed: bool,
}

impl<R: Read> Read for Cancellable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.cancel.check().map_err(Error::into_io)?;
        let count = self.tar.read(buffer);
        self.failed = count.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::Interrupted);
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tar_that_cannot_be_read_is_told_from_one_that_nobody_wants() {
        // A directory can be opened, and not be read.
        let tar = File::open(std::env::temp_dir()).expect("open");
        let (raised, cancel) = (Cancel::default(), Cancel::default());
        raised.cancel();
        let mut tar = Cancellable { tar, cancel: &raised, failed: false };
        tar.read(&mut [0]).expect_err("cancelled");
        assert!(!tar.failed);
        tar.cancel = &cancel;
        assert!(Recipe::PLAIN.compress(&mut tar, &mut Vec::new()).is_err() && tar.failed);
    }
}
