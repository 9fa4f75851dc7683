//! Bundles: many images in one file, for places that no network reaches.
//!
//! ```text
//! blobs/<algorithm>/<hex>    each blob once
//! dist-bundle.json           {"version":1,"left_out":[{"digest":...,"size":...,"repositories":[...]}]}
//! index.json                 org.opencontainers.image.ref.name: host/repository:tag
//! oci-layout
//! ```
//!
//! An OCI layout as a tar, with whole names for tags, so that it is a registry in a file: what refers to
//! an image lies beside it under its tag. What former bundles have may be left out, but never a
//! manifest or an index.

mod load;
mod verify;
mod write;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use dist_core::{
    Context as _, Descriptor, Digest, Document, Error, ErrorKind, Event, Fetcher, Progress, Pusher,
    Reference, Resolved, Resolver, Result, ResultExt as _,
};
use dist_registry::{WebAddress, WebFiles};
use serde::{Deserialize, Serialize};

pub use self::load::{Loaded, load_bundle};
pub use self::verify::{CheckedBundle, verify_bundle};
use self::write::BundleWriter;
use crate::archives::read::Archive;
use crate::blocking::blocking;
use crate::copy::{Copied, CopyOptions, Route, copy_along};
use crate::import::{REF_NAME, is_attached};
use crate::{Remotes, Scheme, addresses};

/// What names in a bundle begin with, while one is read or written.
pub(crate) const SCHEME: &str = "bundle";

/// What a bundle says of itself.
#[derive(Debug, Serialize, Deserialize)]
struct About {
    version: u32,
    left_out: Vec<LeftOut>,
}

/// A blob that is named and not in the bundle: a former one has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct LeftOut {
    digest: Digest,
    size: u64,
    /// The repositories that had it in a former bundle, with their registries.
    #[serde(default)]
    repositories: BTreeSet<String>,
}

/// Choices for [`write_bundle`].
#[derive(Clone, Debug, Default)]
pub struct BundleOptions {
    /// What of each image, and with what.
    pub copy: CopyOptions,
    /// Former bundles: what they have is left out.
    pub since: Vec<PathBuf>,
    /// Whether all that the bundle holds already is kept.
    pub add: bool,
}

/// An image for a bundle.
#[derive(Clone, Debug)]
pub struct ToBundle {
    /// Where it is: a name in a registry, or of a scheme.
    pub source: String,
    /// What it is called in the bundle: a name as registries have them.
    pub name: String,
}

/// What is in a bundle that was written.
#[derive(Clone, Debug)]
pub struct Bundled {
    /// The images that were asked for.
    pub images: Vec<Copied>,
    /// How many blobs are in the file.
    pub blobs: usize,
    /// How many bytes they have.
    pub bytes: u64,
    /// How many blobs a former bundle has.
    pub left_out: usize,
}

/// Writes images and what refers to them into a bundle. One that broke off is gone on with; the file
/// has its name when all of it is there and on the disk.
///
/// # Errors
/// Those of the remotes; `Busy` where another process writes it; `Storage`; `NotFound` and `Corrupt`
/// of former bundles, and of the one that is added to.
pub async fn write_bundle(
    from: &Remotes,
    path: &Path,
    wanted: &[ToBundle],
    options: &BundleOptions,
    progress: Arc<dyn Progress>,
) -> Result<Bundled> {
    let (to, since, add) = (path.to_owned(), options.since.clone(), options.add);
    let (writer, old) = blocking(move || {
        let mut known: BTreeMap<Digest, LeftOut> = BTreeMap::new();
        for path in &since {
            let bundle = Bundle::open(path)?;
            bundle.known(&mut known)?;
        }
        let old = if add { Some(Bundle::open(&to)?) } else { None };
        // What it leaves out stays left out.
        for blob in old.iter().flat_map(|old| &old.left_out) {
            known.entry(blob.digest).or_insert_with(|| blob.clone());
        }
        Ok((BundleWriter::open(&to, known)?, old))
    })
    .await?;
    let filled = fill(from, &writer, (old, wanted), options, &progress).await;
    if filled.is_err() {
        writer.leave().await;
    }
    let images = filled?;
    let ended = writer.finish().await?;
    if ended.unnamed > 0 {
        let message = format!(
            "the bundle holds {} blobs that an earlier run left and nothing names",
            ended.unnamed
        );
        progress.event(Event::Warned { message: &message });
    }
    let (blobs, bytes, left_out) = (ended.blobs, ended.bytes, ended.left_out);
    Ok(Bundled { images, blobs, bytes, left_out })
}

/// Writes what a former state of the bundle has, and what is wanted.
async fn fill(
    from: &Remotes,
    writer: &Arc<BundleWriter>,
    (old, wanted): (Option<Bundle>, &[ToBundle]),
    options: &BundleOptions,
    progress: &Arc<dyn Progress>,
) -> Result<Vec<Copied>> {
    let remotes = || from.with_options(from.options().clone());
    let to = remotes().with_scheme(SCHEME, Arc::new(writer.scheme()));
    // One after the other: there is one file to write.
    let one = CopyOptions { jobs: 1, ..options.copy.clone() };
    if let Some(old) = old {
        writer.leave_out(&old.left_out).await;
        let images = old.images();
        let from = remotes().with_scheme(SCHEME, Arc::new(Reading(Arc::new(old.archive))));
        let whole = CopyOptions { jobs: 1, ..CopyOptions::default() };
        for image in images {
            along((&from, write::name(&image)), (&to, &write::name(&image)), &whole, progress)
                .await?;
        }
    }
    let mut images = Vec::new();
    for ToBundle { source, name } in wanted {
        if from.scheme(name).is_some() {
            let message = format!("bundle {source} as {name}: that is no name in a registry");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let full = from.canonical(name)?;
        let mut copied =
            along((from, from.canonical(source)?), (&to, &write::name(&full)), &one, progress)
                .await?;
        copied.name = full;
        images.push(copied);
    }
    Ok(images)
}

async fn along(
    (from, source): (&Remotes, String),
    (to, destination): (&Remotes, &str),
    options: &CopyOptions,
    progress: &Arc<dyn Progress>,
) -> Result<Copied> {
    let resolved = from.resolve(&source).await?;
    let route = Route { from, resolved, to, destination, turns: None };
    copy_along(route, options, Arc::clone(progress)).await
}

/// A bundle to read.
struct Bundle {
    archive: Archive,
    left_out: Vec<LeftOut>,
}

impl Bundle {
    fn open(path: &Path) -> Result<Self> {
        let what = || format!("read bundle {}", path.display());
        Self::of(Archive::open(path).during(what)?).during(what)
    }

    /// Opens a file, or what is at an address.
    async fn find(place: &Path, remotes: &Remotes) -> Result<Self> {
        let address =
            place.to_str().filter(|text| dist_core::scheme(text, &WebAddress::SCHEMES).is_some());
        let Some(address) = address else {
            let path = place.to_owned();
            return blocking(move || Self::open(&path)).await;
        };
        let address = WebAddress::parse(address)?;
        let file = addresses::open(&WebFiles::new(remotes.options().clone()), &address).await?;
        let what = || format!("read bundle {address}");
        Self::of(Archive::of_web(file).await.during(what)?).during(what)
    }

    fn of(archive: Archive) -> Result<Self> {
        let what = || "read what it says of itself".to_owned();
        let about: Option<About> = archive
            .about()
            .map(serde_json::from_slice)
            .transpose()
            .context(ErrorKind::Corrupt, what)?;
        if about.as_ref().is_some_and(|about| about.version != 1) {
            let message = format!("{}: it is of a later version", what());
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let left_out = about.map(|about| about.left_out).unwrap_or_default();
        Ok(Self { archive, left_out })
    }

    /// Adds what it has, or itself leaves out, and in which repositories.
    fn known(&self, known: &mut BTreeMap<Digest, LeftOut>) -> Result<()> {
        let mut add = |digest: Digest, size, repositories: BTreeSet<String>| {
            let empty = || LeftOut { digest, size, repositories: BTreeSet::new() };
            known.entry(digest).or_insert_with(empty).repositories.extend(repositories);
        };
        for (digest, (_, size)) in self.archive.places() {
            add(*digest, *size, BTreeSet::new());
        }
        for blob in &self.left_out {
            add(blob.digest, blob.size, blob.repositories.clone());
        }
        for image in self.archive.images() {
            let name = image.annotations.get(REF_NAME).map(|name| Reference::parse_familiar(name));
            let Some(Ok(name)) = name else { continue };
            let mut waiting = vec![image.clone()];
            while let Some(desc) = waiting.pop() {
                if !desc.media_type.is_foreign() {
                    add(desc.digest, desc.size, BTreeSet::from([name.locator()]));
                }
                if desc.media_type.is_manifest() || desc.media_type.is_index() {
                    let bytes = self.archive.read(&desc)?;
                    waiting.extend(Document::parse(&desc.media_type, &bytes)?.children());
                }
            }
        }
        Ok(())
    }

    /// The names of its images, without what is attached to them.
    fn images(&self) -> Vec<String> {
        let images = self.archive.images().iter().filter(|desc| !is_attached(desc));
        let names = images.filter_map(|desc| desc.annotations.get(REF_NAME));
        // A tag by itself is in no repository.
        names.filter(|name| name.contains(['/', ':'])).cloned().collect()
    }
}

/// Opens a bundle, a file or one at an address, to look at: what fetches from it, all that its index
/// names, and which blobs it leaves out.
///
/// # Errors
/// `Corrupt` for a file that is no bundle; `NotFound`; `Storage`.
pub async fn open_bundle(
    path: &Path,
    remotes: &Remotes,
) -> Result<(Arc<dyn Fetcher>, Vec<Descriptor>, HashSet<Digest>)> {
    let Bundle { archive, left_out } = Bundle::find(path, remotes).await?;
    let (targets, archive) = (archive.images().to_vec(), Arc::new(archive));
    Ok((archive, targets, left_out.into_iter().map(|blob| blob.digest).collect()))
}

/// What is left out of a bundle, a file or one at an address, that `has` does not know of.
///
/// # Errors
/// As [`verify_bundle`]; those of `has`.
pub async fn missing_of_bundle(
    path: &Path,
    remotes: &Remotes,
    has: &dyn Fn(&Digest) -> Result<bool>,
) -> Result<Vec<Digest>> {
    let mut missing = Vec::new();
    for blob in Bundle::find(path, remotes).await?.left_out {
        if !has(&blob.digest)? {
            missing.push(blob.digest);
        }
    }
    Ok(missing)
}

/// A bundle as a remote.
struct Reading(Arc<Archive>);

#[async_trait]
impl Resolver for Reading {
    async fn resolve(&self, name: &str) -> Result<Resolved> {
        let target = self.0.find(Some(rest(name))).during(|| format!("find {}", rest(name)))?;
        Ok(Resolved { name: name.to_owned(), target })
    }

    fn fetcher(&self, _name: &str) -> Result<Arc<dyn Fetcher>> {
        Ok(Arc::clone(&self.0) as _)
    }

    fn pusher(&self, name: &str, _root: &Digest) -> Result<Arc<dyn Pusher>> {
        let message = format!("push {name}: the bundle is only read");
        Err(Error::new(ErrorKind::Unsupported, message))
    }
}

impl Scheme for Reading {
    fn beside(&self, name: &str, tag: &str) -> Result<String> {
        beside(name, tag)
    }

    fn judged_as(&self, name: &str) -> Option<String> {
        Some(rest(name).to_owned()) // what it was in its registry
    }
}

/// A name without its scheme.
fn rest(name: &str) -> &str {
    name.split_once(':').map_or(name, |(_, rest)| rest)
}

/// The name for another tag of the same repository.
fn beside(name: &str, tag: &str) -> Result<String> {
    Reference::parse_familiar(rest(name))
        .map(|reference| write::name(&format!("{}:{tag}", reference.locator())))
        .context(ErrorKind::InvalidArgument, || format!("read name {name:?}"))
}
