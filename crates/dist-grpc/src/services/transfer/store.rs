//! `ImageStore`: names in the image store, to be found or to be given.

use dist::Platforms;
use dist_core::{Context as _, Digest, Error, ErrorKind, ImageName, Labels, Platform, Result};

use crate::api::containerd::types;
use crate::api::containerd::types::transfer::{ImageStore, UnpackConfiguration};

/// What to unpack, and with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unpack {
    pub(super) platform: Platform,
    /// Empty for the default one.
    pub(super) snapshotter: String,
}

/// The names that an image with this digest gets.
///
/// # Errors
/// `NotFound` where there is none; `InvalidArgument` for one that cannot be one.
pub(super) fn digested_names(store: &ImageStore, digest: &Digest) -> Result<Vec<ImageName>> {
    name_with(store, |name| format!("{name}@{digest}"))
}

/// The names that an image gets whatever its digest is.
///
/// # Errors
/// As [`digested_names`].
pub(super) fn names(store: &ImageStore) -> Result<Vec<ImageName>> {
    name_with(store, ToOwned::to_owned)
}

/// As [`names`]; there may be none.
///
/// # Errors
/// As [`digested_names`].
pub(super) fn optional_names(store: &ImageStore) -> Result<Vec<ImageName>> {
    match names(store) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        names => names,
    }
}

fn name_with(store: &ImageStore, digested: impl Fn(&str) -> String) -> Result<Vec<ImageName>> {
    let mut names = Vec::new();
    if !store.name.is_empty() {
        names.push(parse(&store.name)?);
    }
    for reference in store.extra_references.iter().filter(|reference| !reference.is_prefix) {
        let name = &reference.name;
        names.push(parse(&if reference.add_digest { digested(name) } else { name.clone() })?);
    }
    if names.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "name the image: no name was given"));
    }
    Ok(names)
}

pub(super) fn parse(name: &str) -> Result<ImageName> {
    name.parse().context(ErrorKind::InvalidArgument, || format!("parse image name {name:?}"))
}

/// The platforms that are wanted: all of them where none is named.
pub(super) fn platforms(wanted: &[types::Platform]) -> Platforms {
    Platforms::from(wanted.iter().map(platform).collect::<Vec<_>>())
}

pub(super) fn unpacks(store: &ImageStore) -> Vec<Unpack> {
    let one = |wanted: &UnpackConfiguration| Unpack {
        platform: wanted.platform.as_ref().map_or_else(Platform::host, platform),
        snapshotter: wanted.snapshotter.clone(),
    };
    store.unpacks.iter().map(one).collect()
}

fn platform(platform: &types::Platform) -> Platform {
    if platform.os.is_empty() && platform.architecture.is_empty() {
        return Platform::host();
    }
    let variant = (!platform.variant.is_empty()).then_some(platform.variant.as_str());
    Platform::new(&platform.os, &platform.architecture, variant)
}

pub(super) fn labels(store: &ImageStore) -> Labels {
    store.labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Refuses what is asked for and not built.
pub(super) fn check(store: &ImageStore) -> Result<()> {
    if store.manifest_limit > 0 {
        let message = "limit the number of manifests: this is not built";
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    if !store.export_images.is_empty() {
        let message = "choose among the images of a store: this is not built";
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    Ok(())
}
