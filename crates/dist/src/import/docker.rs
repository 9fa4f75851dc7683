//! What `docker save` writes: `manifest.json` names configs, layers and tags by paths.

use std::io::Read as _;

use dist_core::{
    Context as _, Descriptor, Digest, Error, ErrorKind, ImageConfig, MediaType, Reference, Result,
    ResultExt as _,
};
use serde_json::json;

use super::contents::Archived;
use super::names::{IMAGE_NAME, REF_NAME};
use crate::layers::read_document;

#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// Makes a manifest for each image; returns an index of them, and what is in it.
pub(super) fn images(contents: &mut Archived, bytes: &[u8]) -> Result<(Vec<u8>, Vec<Descriptor>)> {
    let saved: Vec<Saved> = serde_json::from_slice(bytes)
        .context(ErrorKind::Corrupt, || "read manifest.json: not valid".to_owned())?;
    let mut images = Vec::new();
    for image in &saved {
        let desc = manifest(contents, image).during(|| format!("import {:?}", image.config))?;
        let tags = image.repo_tags.as_deref().unwrap_or_default();
        for tag in tags {
            images.push(tagged(&desc, tag)?);
        }
        if tags.is_empty() {
            images.push(desc);
        }
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::Index.as_str(),
        "manifests": images,
    });
    Ok((index.to_string().into_bytes(), images))
}

fn manifest(contents: &mut Archived, image: &Saved) -> Result<Descriptor> {
    let (digest, size) = contents.find(&image.config)?;
    let config = Descriptor::new(MediaType::DockerConfig, digest, size);
    let parsed = ImageConfig::parse(&read_document(&*contents.content, &config)?)?;
    let mut layers = Vec::new();
    for path in image.layers.iter().flatten() {
        let (digest, size) = contents.find(path)?;
        layers.push(Descriptor::new(layer_type(contents, &digest)?, digest, size));
    }
    if layers.len() != parsed.diff_ids.len() {
        let (layers, ids) = (layers.len(), parsed.diff_ids.len());
        let message =
            format!("match layers with the config: there are {layers} layers, it has {ids}");
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    let media_type = MediaType::DockerManifest;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type.as_str(),
        "config": config,
        "layers": layers,
    });
    let mut desc = contents.store(&media_type, manifest.to_string().as_bytes())?;
    desc.platform = Some(parsed.platform);
    Ok(desc)
}

fn layer_type(contents: &Archived, digest: &Digest) -> Result<MediaType> {
    let mut start = Vec::new();
    let blob = contents.content.open(digest)?;
    blob.file
        .take(6)
        .read_to_end(&mut start)
        .context(ErrorKind::Storage, || format!("read layer {digest}"))?;
    Ok(MediaType::DockerLayer(dist_layer::detect(&start)?))
}

/// The image under a name that docker writes the short way.
fn tagged(desc: &Descriptor, tag: &str) -> Result<Descriptor> {
    let reference = Reference::parse_familiar(tag)
        .context(ErrorKind::Corrupt, || format!("read tag {tag:?}"))?;
    let mut desc = desc.clone();
    desc.annotations.insert(IMAGE_NAME.to_owned(), reference.to_string());
    if let Some(tag) = reference.tag() {
        desc.annotations.insert(REF_NAME.to_owned(), tag.to_owned());
    }
    Ok(desc)
}
