//! What is in an archive, by where it lies in the file.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dist_core::{
    ByteStream, Compression, ContentMismatch, Context as _, Descriptor, Digest, Document, Error,
    ErrorKind, Fetcher, Hasher, ImageConfig, Limit, MAX_DOCUMENT_BYTES, MediaType, Reference,
    Result, ResultExt as _,
};
use dist_registry::WebFile;
use serde_json::json;

use super::source::{Source, WebReader, WebSource, spool};
use crate::blocking::blocking;
use crate::import::{IMAGE_NAME, REF_NAME, is_attached};

/// The most entries that an archive may have.
const MOST_ENTRIES: usize = 100_000;
/// What a bundle says of itself.
pub(crate) const ABOUT: &str = "dist-bundle.json";
/// How many links may lead to one another.
const MOST_LINKS: usize = 8;
/// How much is hashed at once.
const CHUNK: usize = 1 << 20;

/// An archive to read from.
pub(crate) struct Archive {
    source: Source,
    /// Where each blob lies, and how long it is.
    places: HashMap<Digest, (u64, u64)>,
    /// Documents that are not in it as such.
    made: HashMap<Digest, Bytes>,
    images: Vec<Descriptor>,
    /// What a bundle says of itself.
    about: Option<Vec<u8>>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl Archive {
    /// Looks through the headers of an archive.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let what = || format!("open archive {}", path.display());
        let kind = |error: &std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Storage,
        };
        let file = File::open(path)
            .map_err(|error| Error::new(kind(&error), what()).with_source(error))?;
        let metadata = file.metadata().context(ErrorKind::Storage, what)?;
        if metadata.is_dir() {
            let message = format!("{}: it is a directory", what());
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let is_file = metadata.is_file();
        let is_plain = is_file && is_plain(&file).during(what)?;
        let file = if is_plain { file } else { spool(file).during(what)? };
        Self::of(Source::File(file)).during(what)
    }

    /// Looks through the headers of an archive on a web server. Where the server gives no parts, or
    /// it takes more than parts to know what is in it, it is kept in a temporary file.
    pub(crate) async fn of_web(file: WebFile) -> Result<Self> {
        let file = Arc::new(file);
        let parts = match (file.start(), file.size()) {
            (Some(start), Some(size)) if is_uncompressed(start)? => {
                Some(WebSource::new(Arc::clone(&file), size))
            }
            _ => None,
        };
        blocking(move || {
            if let Some(parts) = parts {
                let source = Source::Web(Box::new(parts));
                let entries = entries(&source)?;
                if entries.contains_key("index.json") || !entries.contains_key("manifest.json") {
                    return Self::with(source, &entries);
                }
            }
            Self::of(Source::File(spool(WebReader::new(file))?))
        })
        .await
    }

    fn of(source: Source) -> Result<Self> {
        let entries = entries(&source)?;
        Self::with(source, &entries)
    }

    fn with(source: Source, entries: &HashMap<String, (u64, u64)>) -> Result<Self> {
        let mut archive = Self {
            source,
            places: HashMap::new(),
            made: HashMap::new(),
            images: Vec::new(),
            about: None,
        };
        if let Some(place) = entries.get("index.json") {
            archive.read_layout(entries, *place)?;
            let about = entries.get(ABOUT).map(|place| archive.document(*place));
            archive.about = about.transpose()?;
        } else if let Some(place) = entries.get("manifest.json") {
            archive.read_saved(entries, *place)?;
        } else {
            let message =
                "read the archive: it holds neither an OCI layout nor what docker save writes";
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        Ok(archive)
    }

    fn read_layout(
        &mut self,
        entries: &HashMap<String, (u64, u64)>,
        place: (u64, u64),
    ) -> Result<()> {
        let bytes = self.document(place)?;
        if let Document::Index(index) = Document::parse(&MediaType::Index, &bytes)? {
            self.images = index.manifests;
        }
        for (path, place) in entries {
            let digest = path.strip_prefix("blobs/").map(|rest| rest.replacen('/', ":", 1));
            if let Some(Ok(digest)) = digest.map(|text| text.parse::<Digest>()) {
                self.places.insert(digest, *place);
            }
        }
        Ok(())
    }

    /// Makes manifests for what names nothing by digest.
    fn read_saved(
        &mut self,
        entries: &HashMap<String, (u64, u64)>,
        place: (u64, u64),
    ) -> Result<()> {
        let saved: Vec<Saved> = serde_json::from_slice(&self.document(place)?)
            .context(ErrorKind::Corrupt, || "read manifest.json: not valid".into())?;
        for image in saved {
            let config = self.take(entries, &image.config, MediaType::DockerConfig)?;
            let bytes = self.document(self.places[&config.digest])?;
            let platform = ImageConfig::parse(&bytes)?.platform;
            let mut layers = Vec::new();
            for path in image.layers.iter().flatten() {
                let mut layer = self.take(entries, path, MediaType::DockerConfig)?;
                let (at, size) = self.places[&layer.digest];
                let start = self.source.read(at, size.min(6) as usize);
                let start = start.during(|| format!("read {path}"))?;
                layer.media_type = MediaType::DockerLayer(dist_layer::detect(&start)?);
                layers.push(layer);
            }
            let manifest = json!({
                "schemaVersion": 2,
                "mediaType": MediaType::DockerManifest.as_str(),
                "config": config,
                "layers": layers,
            });
            let bytes = Bytes::from(manifest.to_string());
            let (digest, size) = (Digest::sha256(&bytes), bytes.len() as u64);
            self.made.insert(digest, bytes);
            let mut desc = Descriptor::new(MediaType::DockerManifest, digest, size);
            desc.platform = Some(platform);
            let names = image.repo_tags.unwrap_or_default();
            for name in &names {
                let mut desc = desc.clone();
                desc.annotations.insert(IMAGE_NAME.to_owned(), full(name));
                self.images.push(desc);
            }
            if names.is_empty() {
                self.images.push(desc);
            }
        }
        Ok(())
    }

    /// Hashes an entry.
    fn take(
        &mut self,
        entries: &HashMap<String, (u64, u64)>,
        path: &str,
        media_type: MediaType,
    ) -> Result<Descriptor> {
        let Some(&(at, size)) = entries.get(path) else {
            let message = format!("read the archive: {path:?} is named and not there");
            return Err(Error::new(ErrorKind::Corrupt, message));
        };
        let what = || format!("read {path}");
        let mut hasher = Hasher::sha256();
        let mut file = self.source.reader()?;
        file.seek(SeekFrom::Start(at)).context(ErrorKind::Storage, what)?;
        let (mut rest, mut buffer) = (file.take(size), vec![0; CHUNK]);
        loop {
            match rest.read(&mut buffer).context(ErrorKind::Storage, what)? {
                0 => break,
                count => hasher.update(&buffer[..count]),
            }
        }
        let digest = hasher.finish();
        self.places.insert(digest, (at, size));
        Ok(Descriptor::new(media_type, digest, size))
    }

    /// What it names.
    pub(crate) fn images(&self) -> &[Descriptor] {
        &self.images
    }

    /// What a bundle says of itself.
    pub(crate) fn about(&self) -> Option<&[u8]> {
        self.about.as_deref()
    }

    /// Where each blob lies, and how long it is.
    pub(crate) fn places(&self) -> &HashMap<Digest, (u64, u64)> {
        &self.places
    }

    /// Reads a document and verifies it.
    pub(crate) fn read(&self, desc: &Descriptor) -> Result<Vec<u8>> {
        let Some(place) = self.places.get(&desc.digest) else {
            let message = format!("find {} in the archive", desc.digest);
            return Err(Error::new(ErrorKind::Corrupt, message));
        };
        let bytes = self.document(*place)?;
        let mut hasher = desc.digest.hasher();
        hasher.update(&bytes);
        desc.verify(bytes.len() as u64, hasher.finish())?;
        Ok(bytes)
    }

    fn document(&self, (at, size): (u64, u64)) -> Result<Vec<u8>> {
        let what = || "read a document of the archive".to_owned();
        if size > MAX_DOCUMENT_BYTES {
            let source = Limit { name: "manifest-size", limit: MAX_DOCUMENT_BYTES };
            return Err(Error::new(ErrorKind::ResourceExhausted, what()).with_source(source));
        }
        self.source.read(at, usize::try_from(size).unwrap_or(0))
    }

    /// The image with this tag or full name; the only one there is without one.
    pub(crate) fn find(&self, object: Option<&str>) -> Result<Descriptor> {
        let named = |desc: &&Descriptor| {
            let Some(object) = object else { return !is_attached(desc) };
            let is = |key, name: &str| desc.annotations.get(key).is_some_and(|there| there == name);
            is(REF_NAME, object) || is(IMAGE_NAME, &full(object)) || is(REF_NAME, &full(object))
        };
        let mut found: Vec<&Descriptor> = self.images.iter().filter(named).collect();
        found.dedup_by_key(|desc| desc.digest);
        match found.as_slice() {
            [] => {
                let message =
                    format!("there is no such image in the archive, but {}", self.names());
                Err(Error::new(ErrorKind::NotFound, message))
            }
            [desc] => Ok((*desc).clone()),
            _ => {
                let message = format!("there are several images, say which: {}", self.names());
                Err(Error::new(ErrorKind::InvalidArgument, message))
            }
        }
    }

    /// What its images are called, ten of them at most.
    fn names(&self) -> String {
        const SHOWN: usize = 10;
        let images: Vec<&Descriptor> =
            self.images.iter().filter(|desc| !is_attached(desc)).collect();
        let name = |desc: &&Descriptor| {
            let name = [REF_NAME, IMAGE_NAME].iter().find_map(|key| desc.annotations.get(*key));
            name.cloned().unwrap_or_else(|| format!("@{}", desc.digest))
        };
        let mut names: Vec<String> = images.iter().take(SHOWN).map(name).collect();
        if images.len() > SHOWN {
            names.push(format!("and {} more", images.len() - SHOWN));
        }
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }
}

/// The full form of what may be a name.
fn full(name: &str) -> String {
    Reference::parse_familiar(name).map_or_else(|_| name.to_owned(), |name| name.to_string())
}

fn is_plain(file: &File) -> Result<bool> {
    let mut start = [0; 6];
    let count = std::os::unix::fs::FileExt::read_at(file, &mut start, 0)
        .context(ErrorKind::Storage, || "read its first bytes".into())?;
    is_uncompressed(&start[..count])
}

fn is_uncompressed(start: &[u8]) -> Result<bool> {
    Ok(dist_layer::detect(start)? == Compression::None)
}

/// Whether reading failed, and not what was read is wrong.
fn is_of_reading(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    let mut error: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(at) = error {
        let read = at.downcast_ref::<std::io::Error>();
        let inner = read.and_then(std::io::Error::get_ref);
        let of_system = read.is_some_and(|error| error.raw_os_error().is_some());
        if of_system || at.is::<Error>() || inner.is_some_and(|inner| inner.is::<Error>()) {
            return true;
        }
        error = at.source();
    }
    false
}

/// The files in a tar: where each lies, and how long it is.
fn entries(source: &Source) -> Result<HashMap<String, (u64, u64)>> {
    let what = || "look through the archive: it is no tar".to_owned();
    let mut found = HashMap::new();
    let mut links: HashMap<String, String> = HashMap::new();
    let whole = source.size()?;
    let mut tar = tar::Archive::new(source.reader()?);
    for entry in tar.entries_with_seek().context(ErrorKind::Corrupt, what)? {
        // What is no tar at all is quoted at length by the reason.
        let entry = match entry {
            Err(error)
                if found.is_empty()
                    && error.raw_os_error().is_none()
                    && !error.get_ref().is_some_and(is_of_reading) =>
            {
                return Err(Error::new(ErrorKind::Corrupt, what()));
            }
            entry => entry.context(ErrorKind::Corrupt, what)?,
        };
        if found.len() == MOST_ENTRIES {
            let limit = Limit { name: "archive-entries", limit: MOST_ENTRIES as u64 };
            let message = "look through the archive";
            return Err(Error::new(ErrorKind::ResourceExhausted, message).with_source(limit));
        }
        let (at, size) = (entry.raw_file_position(), entry.size());
        if at.saturating_add(size) > whole {
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let message = format!(
                "look through the archive: it ends at byte {whole}, in the middle of {path:?}"
            );
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let path = path.strip_prefix("./").unwrap_or(&path).to_owned();
        let (kind, link) = (entry.header().entry_type(), entry.link_name_bytes());
        if kind.is_file() {
            found.insert(path, (at, size));
        } else if let (Some(link), true) = (link, kind.is_symlink() || kind.is_hard_link()) {
            let dir =
                if kind.is_symlink() { path.rsplit_once('/').map(|(dir, _)| dir) } else { None };
            let target = dist_layer::link_in_archive(dir.unwrap_or_default().as_bytes(), &link);
            links.extend(target.map(|to| (path, String::from_utf8_lossy(&to).into_owned())));
        }
    }
    // What `docker save` of old wrote once is a link elsewhere.
    for path in links.keys() {
        let mut at = path;
        for _ in 0..MOST_LINKS {
            let Some(to) = links.get(at) else { break };
            at = to;
        }
        if let Some(place) = found.get(at).copied() {
            found.insert(path.clone(), place);
        }
    }
    Ok(found)
}

#[async_trait]
impl Fetcher for Archive {
    async fn fetch(&self, desc: &Descriptor, offset: u64) -> Result<ByteStream> {
        let what = || format!("fetch {} {} from the archive", desc.media_type.noun(), desc.digest);
        if let Some(bytes) = self.made.get(&desc.digest) {
            let at = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            return Ok(Box::pin(futures_util::stream::iter([Ok(bytes.slice(at..))])));
        }
        let Some(&(at, size)) = self.places.get(&desc.digest) else {
            return Err(Error::new(ErrorKind::NotFound, format!("{}: it is not there", what())));
        };
        if size != desc.size {
            let source = ContentMismatch::Size { expected: desc.size, got: size };
            return Err(Error::new(ErrorKind::Corrupt, what()).with_source(source));
        }
        self.source.stream(at + offset.min(size), at + size, what())
    }
}

/// An archive that is not there.
pub(super) struct Nothing;

#[async_trait]
impl Fetcher for Nothing {
    async fn fetch(&self, desc: &Descriptor, _offset: u64) -> Result<ByteStream> {
        Err(Error::new(ErrorKind::NotFound, format!("fetch {}: it is not there", desc.digest)))
    }
}
