//! Images from an archive into the store.
//!
//! ```text
//! oci-layout  index.json  blobs/<algorithm>/<hex>            an OCI layout
//! manifest.json  <config>.json  <layer>/layer.tar            what `docker save` writes
//! ```
//!
//! The archive is read once, in whatever order its entries come; where it is both, the layout
//! counts. Every blob goes through an ingest and is verified, like one from a registry; nothing is
//! believed because of its name.

mod contents;
mod docker;
mod names;

use std::collections::{BTreeSet, HashSet};
use std::io::Read;
use std::sync::Arc;

use dist_core::{
    Descriptor, Digest, Document, Error, ErrorKind, Image, ImageName, Labels, MAX_DEPTH, MediaType,
    Progress, Provider as _, Result, ResultExt as _, children,
};
use dist_store::{ContentStore, Registration, SettleMode};

use self::contents::Contents;
pub use self::names::{DigestNames, Naming};
pub(crate) use self::names::{IMAGE_NAME, REF_NAME};
use crate::Engine;
use crate::blocking::{Alive, blocking};
use crate::fetch::{Platforms, default_jobs};
use crate::ingest::Intake;
use crate::pull::{Unpacking, unpack};
use crate::references::Belongings;
use crate::session::Session;

/// Choices for [`import`].
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// How the images are named.
    pub namings: Vec<Naming>,
    /// The name for all images of the archive together.
    pub index_names: Vec<ImageName>,
    /// The labels that images get.
    pub labels: Labels,
    /// Which entries of an index are kept.
    pub platforms: Platforms,
    /// What is unpacked of each image.
    pub unpacks: Vec<Unpacking>,
}

/// Reads an archive, plain or compressed by gzip or zstd, and registers its images.
///
/// An index may lack images for some platforms, an image may lack nothing but foreign layers.
///
/// # Errors
/// `Corrupt` where it is no archive of images, or something in it is not what it should be; the
/// kind that `input` failed with; those of the store and of the layers. Nothing is registered then.
pub async fn import(
    engine: &Engine,
    input: Box<dyn Read + Send>,
    options: &ImportOptions,
    progress: Arc<dyn Progress>,
) -> Result<Vec<Image>> {
    let alive = Alive::new();
    let (outer, cancel, index) = (engine.clone(), alive.cancel(), !options.index_names.is_empty());
    let (session, found) = blocking(move || {
        let session = Session::begin(&outer, BTreeSet::new())?;
        let mut contents = Contents::new(session.engine(), cancel);
        contents.read(input)?;
        let found = find_images(&mut contents, index)?;
        Ok((session, found))
    })
    .await?;
    let engine = session.engine().clone();
    let intake =
        Intake { content: engine.content(), downloads: None, progress, cancel: alive.cancel() };
    let mut registration = Registration::default();
    for image in &found.images {
        let mut belongings = Belongings::find(&intake.content, image, &options.platforms);
        for unpacking in &options.unpacks {
            let engine = engine.with_snapshotter(&unpacking.snapshotter);
            let work = (intake.clone(), alive.stop(), default_jobs());
            let (plan, _) = unpack(&engine, work, image, &unpacking.platform).await?;
            belongings.add_unpacked(&plan, &unpacking.snapshotter);
        }
        registration.labels.extend(belongings.registration(None).labels);
        for name in names::of(image, &options.namings)? {
            registration.images.push((name, bare(image), options.labels.clone()));
        }
    }
    if let Some(index) = &found.index {
        let named = Belongings::find(&intake.content, index, &options.platforms);
        registration.labels.extend(named.registration(None).labels);
        for name in &options.index_names {
            registration.images.push((name.clone(), index.clone(), options.labels.clone()));
        }
    }
    blocking(move || {
        let images = session.finish(registration)?;
        engine.store().settle(SettleMode::Answer)?;
        Ok(images)
    })
    .await
}

/// What an archive holds.
struct Found {
    images: Vec<Descriptor>,
    /// All of them, where somebody wants a name for that.
    index: Option<Descriptor>,
}

fn find_images(contents: &mut Contents, wants_index: bool) -> Result<Found> {
    let (bytes, images) = match contents.take_document("index.json") {
        Some(bytes) => {
            check_layout(contents.take_document("oci-layout"))?;
            let Document::Index(index) =
                Document::parse(&MediaType::Index, &bytes).during(|| "read index.json".into())?
            else {
                return Err(unrecognised());
            };
            (bytes, index.manifests)
        }
        None => match contents.take_document("manifest.json") {
            Some(bytes) => docker::images(contents, &bytes)?,
            None => return Err(unrecognised()),
        },
    };
    for image in &images {
        check_whole(&contents.content, image, &mut HashSet::new(), 0)?;
    }
    let index = match wants_index {
        true => Some(contents.store(&MediaType::Index, &bytes)?),
        false => None,
    };
    Ok(Found { images, index })
}

fn unrecognised() -> Error {
    let message = "read the archive: it holds neither an OCI layout nor what docker save writes";
    Error::new(ErrorKind::Corrupt, message)
}

fn check_layout(marker: Option<Vec<u8>>) -> Result<()> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Marker {
        image_layout_version: String,
    }
    let marker = marker.and_then(|bytes| serde_json::from_slice::<Marker>(&bytes).ok());
    if marker.is_some_and(|marker| marker.image_layout_version == "1.0.0") {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Corrupt, "read oci-layout: it is not that of a layout 1.0.0"))
}

/// Checks that all of an image is there: of an index, all of at least one of its images. What is in
/// `seen` was looked at, without having made anything whole.
fn check_whole(
    content: &ContentStore,
    desc: &Descriptor,
    seen: &mut HashSet<Digest>,
    depth: usize,
) -> Result<()> {
    if depth == MAX_DEPTH {
        let message = format!("walk {}: indexes are nested too deep", desc.digest);
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    let blob = content.open(&desc.digest).map_err(|error| missing(desc, error))?;
    if blob.size != desc.size {
        let source = dist_core::ContentMismatch::Size { expected: desc.size, got: blob.size };
        let message = format!("verify {} {}", desc.media_type.noun(), desc.digest);
        return Err(Error::new(ErrorKind::Corrupt, message).with_source(source));
    }
    let below = children(content, desc)?;
    if !desc.media_type.is_index() {
        let mut needed = below.iter().filter(|child| !child.media_type.is_foreign());
        return needed.try_for_each(|child| check_whole(content, child, seen, depth + 1));
    }
    let mut first = None;
    for child in &below {
        if !seen.insert(child.digest) {
            continue;
        }
        match check_whole(content, child, seen, depth + 1) {
            Ok(()) => return Ok(()),
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.unwrap_or_else(|| {
        Error::new(ErrorKind::Corrupt, format!("read index {}: it is empty", desc.digest))
    }))
}

fn missing(desc: &Descriptor, error: Error) -> Error {
    if error.kind() != ErrorKind::NotFound {
        return error;
    }
    let message = format!("find {} {} in the archive", desc.media_type.noun(), desc.digest);
    Error::new(ErrorKind::Corrupt, message).with_source(error)
}

/// The descriptor without what an archive says of names.
fn bare(desc: &Descriptor) -> Descriptor {
    let mut bare = desc.clone();
    bare.annotations.retain(|key, _| key != names::IMAGE_NAME && key != names::REF_NAME);
    bare
}
