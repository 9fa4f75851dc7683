//! The entries of an archive: small documents in memory, everything else in the store.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dist_core::{
    Cancel, ContentMismatch, Context as _, DamagedStore, Descriptor, Digest, Error, ErrorKind,
    Expected, Ingest, IngestKey, Limit, MAX_DOCUMENT_BYTES, MediaType, Progress, Result,
    ResultExt as _,
};
use dist_layer::{ArchiveEntryKind, ArchiveReader, Limits};

use crate::Contents;
use crate::archives::read::ABOUT;
use crate::ingest::created;

/// The most entries that an archive may have.
const MOST_ENTRIES: u64 = 100_000;

/// How many links may lead to one another.
const MOST_LINKS: usize = 8;

/// How much is copied at a time.
const CHUNK: usize = 256 << 10;

/// The documents that say what the rest is.
const DOCUMENTS: [&str; 3] = ["oci-layout", "index.json", "manifest.json"];

/// What was read of an archive.
pub(super) struct Archived {
    pub(super) content: Arc<dyn Contents>,
    pub(super) cancel: Cancel,
    progress: Arc<dyn Progress>,
    limits: Limits,
    /// What keys of ingests begin with that no other import uses: one that stalls keeps nobody
    /// waiting.
    own: String,
    ingests: usize,
    documents: BTreeMap<&'static str, Vec<u8>>,
    files: BTreeMap<Vec<u8>, (Digest, u64)>,
    links: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Archived {
    pub(super) fn new(
        content: Arc<dyn Contents>,
        limits: &Limits,
        progress: Arc<dyn Progress>,
        cancel: Cancel,
    ) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let now = jiff::Timestamp::now().as_nanosecond();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let entries = MOST_ENTRIES;
        Self {
            content,
            cancel,
            progress,
            limits: Limits { entries, layer_bytes: u64::MAX, ..*limits },
            own: format!("import {now} {} {count}", std::process::id()),
            ingests: 0,
            documents: BTreeMap::new(),
            files: BTreeMap::new(),
            links: BTreeMap::new(),
        }
    }

    /// Reads all of an archive.
    pub(super) fn read(&mut self, input: Box<dyn Read + Send>) -> Result<()> {
        let mut archive = ArchiveReader::new(input, self.limits)?;
        while let Some(entry) = archive.next_entry()? {
            let during = || format!("import {}", show(&entry.path));
            match entry.kind {
                ArchiveEntryKind::File(size) => {
                    self.file(&entry.path, size, &mut archive).during(during)?;
                }
                ArchiveEntryKind::Link(target) => drop(self.links.insert(entry.path, target)),
                ArchiveEntryKind::Other => {}
            }
        }
        archive.finish()
    }

    pub(super) fn take_document(&mut self, name: &str) -> Option<Vec<u8>> {
        self.documents.remove(name)
    }

    /// What the file at `path` is, through links.
    pub(super) fn find(&self, path: &str) -> Result<(Digest, u64)> {
        let mut at = path.trim_start_matches("./").as_bytes();
        for _ in 0..=MOST_LINKS {
            if let Some(file) = self.files.get(at) {
                return Ok(*file);
            }
            match self.links.get(at) {
                Some(target) => at = target,
                None => break,
            }
        }
        Err(Error::new(
            ErrorKind::Corrupt,
            format!("find {} in the archive", show(path.as_bytes())),
        ))
    }

    /// Puts a document of our own making into the store.
    pub(super) fn store(&mut self, media_type: &MediaType, bytes: &[u8]) -> Result<Descriptor> {
        let digest = Digest::sha256(bytes);
        let size = bytes.len() as u64;
        self.ingest(Some(digest), size, &mut &*bytes)?;
        Ok(Descriptor::new(media_type.clone(), digest, size))
    }

    fn file(&mut self, path: &[u8], size: u64, body: &mut impl Read) -> Result<()> {
        if let Some(name) = DOCUMENTS.iter().find(|name| name.as_bytes() == path) {
            if size > MAX_DOCUMENT_BYTES {
                let limit = Limit { name: "manifest-size", limit: MAX_DOCUMENT_BYTES };
                let message = format!("read a document of {size} bytes");
                return Err(Error::new(ErrorKind::ResourceExhausted, message).with_source(limit));
            }
            let mut bytes = Vec::new();
            body.read_to_end(&mut bytes).context(ErrorKind::Storage, || "read it".to_owned())?;
            if self.documents.insert(name, bytes).is_some() {
                return Err(Error::new(ErrorKind::Corrupt, "read a document: there are two of it"));
            }
            return Ok(());
        }
        // What a bundle says of itself is no image's.
        if path == ABOUT.as_bytes() {
            return self.each_chunk(body, |_| Ok(()));
        }
        let digest = self.ingest(blob_digest(path)?, size, body)?;
        if self.files.insert(path.to_vec(), (digest, size)).is_some_and(|old| old.0 != digest) {
            return Err(Error::new(ErrorKind::Corrupt, "read a file: there are two of its name"));
        }
        Ok(())
    }

    /// Puts an entry into the store. Its bytes are hashed, also where the store has the blob.
    fn ingest(
        &mut self,
        digest: Option<Digest>,
        size: u64,
        body: &mut impl Read,
    ) -> Result<Digest> {
        if let Some(digest) = digest
            && self.has(&digest)?
        {
            return self.compare(digest, body);
        }
        let key = format!("{} {}", self.own, self.ingests);
        let key: IngestKey =
            key.parse().context(ErrorKind::Internal, || "name an ingest".into())?;
        self.ingests += 1;
        let expected = Expected { digest, size: Some(size) };
        // The digest is not told before the end: by it, a blob of another namespace would be taken
        // without its bytes.
        let said = Expected { digest: None, ..expected };
        let mut writer = match self.content.ingest(&key, said, &self.cancel)? {
            Ingest::Exists(found) => {
                created(&*self.progress, &found);
                return Ok(found.info().digest);
            }
            Ingest::Writer(writer) => writer,
        };
        if writer.offset() > 0 {
            writer.reset()?;
        }
        if let Err(error) = self.copy(body, &mut *writer) {
            // Nobody can go on from here: an archive is read from its beginning.
            return Err(writer.abort().err().unwrap_or(error));
        }
        match writer.commit_or_abort(expected) {
            Ok(committed) => {
                created(&*self.progress, &committed);
                Ok(committed.info().digest)
            }
            Err(error) if error.find::<ContentMismatch>().is_some() => {
                Err(Error::new(ErrorKind::Corrupt, "verify it").with_source(error))
            }
            Err(error) => Err(error),
        }
    }

    fn has(&self, digest: &Digest) -> Result<bool> {
        match self.content.info(digest) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            // What the store has lost comes back.
            Err(error) if error.find::<DamagedStore>().is_some() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads what should be the blob `digest`.
    fn compare(&self, digest: Digest, body: &mut impl Read) -> Result<Digest> {
        let mut hasher = digest.hasher();
        self.each_chunk(body, |chunk| {
            hasher.update(chunk);
            Ok(())
        })?;
        let got = hasher.finish();
        if got == digest {
            return Ok(digest);
        }
        let mismatch = ContentMismatch::Digest { expected: digest, got };
        Err(Error::new(ErrorKind::Corrupt, "verify it").with_source(mismatch))
    }

    fn copy(&self, body: &mut impl Read, writer: &mut dyn dist_core::Writer) -> Result<()> {
        self.each_chunk(body, |chunk| {
            writer.write_all(chunk).context(ErrorKind::Storage, || "write to the store".to_owned())
        })
    }

    /// Reads to the end, unless told to stop.
    fn each_chunk(
        &self,
        body: &mut impl Read,
        mut take: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut buffer = vec![0; CHUNK];
        loop {
            self.cancel.check()?;
            let count = body
                .read(&mut buffer)
                .context(ErrorKind::Storage, || "read from the archive".to_owned())?;
            if count == 0 {
                return Ok(());
            }
            take(&buffer[..count])?;
        }
    }
}

/// The digest in `blobs/<algorithm>/<hex>`; `None` for another path.
fn blob_digest(path: &[u8]) -> Result<Option<Digest>> {
    let Some(name) = path.strip_prefix(b"blobs/") else { return Ok(None) };
    let digest = std::str::from_utf8(name).ok().and_then(|name| {
        let (algorithm, hex) = name.split_once('/')?;
        format!("{algorithm}:{hex}").parse().ok()
    });
    match digest {
        Some(digest) => Ok(Some(digest)),
        None => Err(Error::new(ErrorKind::Corrupt, "read a blob: its name is no digest")),
    }
}

fn show(path: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(&path[..path.len().min(256)]))
}
