//! Images from the store into an archive.
//!
//! An OCI layout as a tar, with docker's `manifest.json` beside `index.json`. The same images make
//! the same bytes: entries are sorted, and there are no times and no owners in them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{Read, Write};

use dist_core::{
    Cancel, ContentMismatch, Context as _, Descriptor, Digest, Error, ErrorKind, ImageName,
    MAX_DEPTH, MediaType, Platform, Provider, Reference, Result, children,
};
use serde_json::{Value, json};

use crate::fetch::Platforms;
use crate::import::{IMAGE_NAME, REF_NAME};
use crate::layers::best;

/// How much is copied at a time.
const CHUNK: usize = 256 << 10;

/// Choices for [`export`].
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// Whether docker can load the archive.
    pub docker_manifest: bool,
    /// Whether layers come along whose distribution is restricted.
    pub nondistributable: bool,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self { docker_manifest: true, nondistributable: true }
    }
}

/// One image for an archive.
#[derive(Clone, Debug)]
pub struct Exported {
    /// What it is called there.
    pub name: ImageName,
    /// The manifest or index.
    pub target: Descriptor,
    /// Which entries of an index come along; the index itself stays as it is.
    pub platforms: Platforms,
}

/// Writes images whose content is at `content` as one archive. Blocks; `cancel` ends it.
///
/// # Errors
/// `NotFound` naming what is not in the store; `Corrupt` for content that is no longer what its
/// digest says; the kind that `out` failed with.
pub fn export(
    content: &dyn Provider,
    images: &[Exported],
    options: &ExportOptions,
    out: &mut dyn Write,
    cancel: &Cancel,
) -> Result<()> {
    let mut plan = Plan::new(content, options);
    for image in images {
        plan.add(image)?;
    }
    plan.write(out, cancel)
}

/// What an archive will hold.
struct Plan<'a> {
    content: &'a dyn Provider,
    options: &'a ExportOptions,
    /// The entries of the index.
    index: Vec<Value>,
    /// What docker knows: of each manifest its config, its layers, and its names.
    docker: BTreeMap<Digest, (String, Vec<String>, BTreeSet<String>)>,
    blobs: BTreeMap<String, Descriptor>,
}

impl<'a> Plan<'a> {
    fn new(content: &'a dyn Provider, options: &'a ExportOptions) -> Self {
        let (index, docker, blobs) = Default::default();
        Self { content, options, index, docker, blobs }
    }

    fn add(&mut self, image: &Exported) -> Result<()> {
        let Exported { name, target, platforms } = image;
        let mut entry = target.clone();
        entry.annotations.insert(IMAGE_NAME.to_owned(), name.to_string());
        let reference = Reference::parse(name.as_str()).ok();
        if let Some(tag) = reference.as_ref().and_then(Reference::tag) {
            entry.annotations.insert(REF_NAME.to_owned(), tag.to_owned());
        }
        self.index.push(json!(entry));
        let mut manifests = Vec::new();
        self.walk((target, platforms), (&mut HashSet::new(), 0), &mut manifests)?;
        let Some(manifest) = docker_manifest(manifests, platforms) else {
            return Ok(());
        };
        let mut below = children(self.content, &manifest)?.into_iter();
        let Some(config) = below.next().filter(|config| config.media_type.is_config()) else {
            return Ok(());
        };
        let layers = below.map(|layer| path(&layer.digest)).collect();
        let known = self
            .docker
            .entry(manifest.digest)
            .or_insert_with(|| (path(&config.digest), layers, BTreeSet::new()));
        known.2.extend(reference.and_then(|reference| short(&reference)));
        Ok(())
    }

    /// Takes in `desc` and what is below it; notes the manifests.
    fn walk(
        &mut self,
        (desc, platforms): (&Descriptor, &Platforms),
        (seen, depth): (&mut HashSet<(Digest, MediaType)>, usize),
        manifests: &mut Vec<Descriptor>,
    ) -> Result<()> {
        if !seen.insert((desc.digest, desc.media_type.clone())) {
            return Ok(());
        }
        if depth == MAX_DEPTH {
            let message = format!("walk {}: indexes are nested too deep", desc.digest);
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        if desc.media_type.is_foreign() {
            let there = self.content.open(&desc.digest);
            match there {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
                Ok(_) if !self.options.nondistributable => return Ok(()),
                Ok(_) => {}
            }
        }
        self.blobs.insert(path(&desc.digest), desc.clone());
        let mut below = children(self.content, desc)?;
        if desc.media_type.is_index() {
            below = platforms.choose(below)?;
        } else if desc.media_type.is_manifest() {
            manifests.push(desc.clone());
        }
        below
            .iter()
            .try_for_each(|child| self.walk((child, platforms), (&mut *seen, depth + 1), manifests))
    }

    fn write(self, out: &mut dyn Write, cancel: &Cancel) -> Result<()> {
        let index = json!({
            "schemaVersion": 2,
            "mediaType": MediaType::Index.as_str(),
            "manifests": self.index,
        });
        let mut documents = vec![("index.json", index)];
        if self.options.docker_manifest {
            let saved = self.docker.into_values().map(|(config, layers, names)| {
                json!({ "Config": config, "RepoTags": names, "Layers": layers })
            });
            documents.push(("manifest.json", saved.collect()));
        }
        documents.push(("oci-layout", json!({ "imageLayoutVersion": "1.0.0" })));
        let mut tar = tar::Builder::new(out);
        let mut dir = String::new();
        for (path, desc) in &self.blobs {
            cancel.check()?;
            let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
            if dir.is_empty() {
                append(&mut tar, "blobs/", 0, &mut std::io::empty())?;
            }
            if dir != parent {
                parent.clone_into(&mut dir);
                append(&mut tar, &format!("{parent}/"), 0, &mut std::io::empty())?;
            }
            let mut blob = self.content.open(&desc.digest)?;
            let mut checked =
                Checked { hasher: desc.digest.hasher(), from: &mut blob.file, cancel };
            append(&mut tar, path, blob.size, &mut checked)?;
            let got = checked.hasher.finish();
            if got != desc.digest {
                let source = ContentMismatch::Digest { expected: desc.digest, got };
                let message = format!("verify {} {}", desc.media_type.noun(), desc.digest);
                return Err(Error::new(ErrorKind::Corrupt, message).with_source(source));
            }
        }
        for (name, document) in documents {
            let bytes = document.to_string().into_bytes();
            append(&mut tar, name, bytes.len() as u64, &mut bytes.as_slice())?;
        }
        let what = || "write the archive".to_owned();
        let out = tar.into_inner().context(ErrorKind::Storage, what)?;
        out.flush().context(ErrorKind::Storage, what)
    }
}

/// The manifest that docker is told of: the only one, or that for the first platform that was asked
/// for, this machine's where none was.
fn docker_manifest(mut manifests: Vec<Descriptor>, platforms: &Platforms) -> Option<Descriptor> {
    if manifests.len() == 1 {
        return manifests.pop();
    }
    manifests.retain(|manifest| manifest.platform.is_some());
    let platform = match platforms {
        Platforms::All => Platform::host(),
        Platforms::One(platform) => platform.clone(),
        Platforms::Several(platforms) => platforms.first()?.clone(),
    };
    best(manifests, &platform).ok()
}

/// The way people write a name; `None` for one without a tag.
fn short(reference: &Reference) -> Option<String> {
    let tag = reference.tag()?;
    let locator = reference.locator();
    let short = locator.strip_prefix("docker.io/").unwrap_or(&locator);
    let short = short.strip_prefix("library/").filter(|s| !s.contains('/')).unwrap_or(short);
    Some(format!("{short}:{tag}"))
}

fn path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

fn append(
    tar: &mut tar::Builder<&mut dyn Write>,
    path: &str,
    size: u64,
    body: &mut dyn Read,
) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    let is_dir = path.ends_with('/');
    header.set_entry_type(if is_dir { tar::EntryType::Directory } else { tar::EntryType::Regular });
    header.set_mode(if is_dir { 0o755 } else { 0o644 });
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    tar.append_data(&mut header, path, body)
        .context(ErrorKind::Storage, || format!("write {path} to the archive"))
}

/// Hashes what is read.
struct Checked<'a> {
    hasher: dist_core::Hasher,
    from: &'a mut std::fs::File,
    cancel: &'a Cancel,
}

impl Read for Checked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.cancel.check().map_err(Error::into_io)?;
        let most = buffer.len().min(CHUNK);
        let count = self.from.read(&mut buffer[..most])?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}
