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
mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;

use dist_core::{
    Descriptor, Digest, Document, Error, ErrorKind, Image, ImageName, Labels, MediaType, Platform,
    Progress, Result, ResultExt as _, children,
};
use dist_layer::Limits;
use dist_store::Registration;

use self::contents::Archived;
pub use self::names::{DigestNames, Naming};
pub(crate) use self::names::{IMAGE_NAME, REF_NAME, is_attached};
use self::whole::Whole;
use crate::blocking::{Alive, blocking};
use crate::fetch::{Platforms, default_jobs};
use crate::layers::{Plan, find_manifest, plan};
use crate::pull::Unpacking;
use crate::references::{Belongings, reference_labels};
use crate::{Contents, Operations};

/// Choices for [`import`].
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// How the images are named.
    pub namings: Vec<Naming>,
    /// The name for all images of the archive together.
    pub index_names: Vec<ImageName>,
    /// The labels that images get.
    pub labels: Labels,
    /// Which entries of an index are kept, of those that are whole in the archive. Where there is
    /// none for one of them, all entries are.
    pub platforms: Platforms,
    /// What is unpacked of each image.
    pub unpacks: Vec<Unpacking>,
    /// What the archive may ask for, beside its number of entries and their size.
    pub limits: Limits,
}

/// Reads an archive, plain or compressed by gzip or zstd, and registers its images where `on` works.
///
/// An index may lack images for some platforms, an image may lack nothing but foreign layers.
///
/// # Errors
/// `Corrupt` where it is no archive of images, or something in it is not what it should be; the
/// kind that `input` failed with; those of the store and of the layers. Nothing is registered then.
pub async fn import(
    on: &dyn Operations,
    input: Box<dyn Read + Send>,
    options: &ImportOptions,
    progress: Arc<dyn Progress>,
) -> Result<Vec<Image>> {
    let alive = Alive::new();
    let (on, cancel, index) = (on.shared(), alive.cancel(), !options.index_names.is_empty());
    let (platforms, limits) = (options.platforms.clone(), options.limits);
    let telling = Arc::clone(&progress);
    let (operation, found) = blocking(move || {
        let operation = on.begin(BTreeSet::new())?;
        let mut contents = Archived::new(operation.contents(), &limits, telling, cancel);
        contents.read(input)?;
        let found = find_images(&mut contents, index, &platforms)?;
        Ok((operation, found))
    })
    .await?;
    let mut registration = Registration::default();
    let mut label = |labels: BTreeMap<Digest, Labels>| {
        for (digest, more) in labels {
            registration.labels.entry(digest).or_default().extend(more);
        }
    };
    for (image, mut belongings) in found.images.iter().zip(found.belongings) {
        for Unpacking { platform, snapshotter } in &options.unpacks {
            let contents = || operation.contents();
            if is_attached(image)
                || belongings.leave_out(contents(), image, platform).await?
                || !is_image(contents(), image, platform).await?
            {
                continue;
            }
            let plan = plan_of(operation.contents(), image, platform).await?;
            operation.unpack(&plan, snapshotter, default_jobs(), Arc::clone(&progress)).await?;
            belongings.add_unpacked(&plan, snapshotter);
        }
        label(belongings.registration(None).labels);
    }
    if let Some(index) = &found.index {
        label(BTreeMap::from([(index.digest, reference_labels(&found.images))]));
    }
    for image in &found.images {
        for name in names::of(image, &options.namings)? {
            registration.images.push((name, bare(image), options.labels.clone()));
        }
    }
    if let Some(index) = &found.index {
        for name in &options.index_names {
            registration.images.push((name.clone(), index.clone(), options.labels.clone()));
        }
    }
    blocking(move || operation.finish(registration)).await
}

/// Whether it is an image, and no other artifact.
async fn is_image(
    content: Arc<dyn Contents>,
    target: &Descriptor,
    platform: &Platform,
) -> Result<bool> {
    let (target, platform) = (target.clone(), platform.clone());
    blocking(move || {
        let manifest = find_manifest(&*content, &target, &platform)?;
        let config = children(&*content, &manifest)?.into_iter().next();
        Ok(config.is_none_or(|config| config.media_type.is_config()))
    })
    .await
}

/// What is to be unpacked of an image that is there.
async fn plan_of(
    content: Arc<dyn Contents>,
    image: &Descriptor,
    platform: &Platform,
) -> Result<Plan> {
    let (image, platform) = (image.clone(), platform.clone());
    blocking(move || plan(&*content, &find_manifest(&*content, &image, &platform)?)).await
}

/// What an archive holds.
struct Found {
    images: Vec<Descriptor>,
    /// What belongs to each of them.
    belongings: Vec<Belongings>,
    /// All of them, where somebody wants a name for that.
    index: Option<Descriptor>,
}

fn find_images(contents: &mut Archived, wants_index: bool, platforms: &Platforms) -> Result<Found> {
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
    let whole = Whole::new(contents);
    images.iter().try_for_each(|image| whole.check(image))?;
    let belong = |image| whole.belongings(image, platforms);
    let belongings = images.iter().map(belong).collect::<Result<_>>()?;
    let index = match wants_index {
        true => Some(contents.store(&MediaType::Index, &bytes)?),
        false => None,
    };
    Ok(Found { images, belongings, index })
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

/// The descriptor without what an archive says of names.
fn bare(desc: &Descriptor) -> Descriptor {
    let mut bare = desc.clone();
    bare.annotations.retain(|key, _| key != names::IMAGE_NAME && key != names::REF_NAME);
    bare
}
