//! The writer of one ingest.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use dist_core::{
    Cancel, Committed, ContentMismatch, Context as _, Digest, Error, ErrorKind, Expected, Extents,
    Hasher, IngestKey, Labels, Parts, Result, Stage, Writer, enter,
};

use super::dir::IngestDir;
use super::parts::{self, PartWriter};
use super::recall::{Recalled, Times};
use super::state::{self, Checkpoint, Log};
use crate::blobs::ContentStore;
use crate::fsio::{self, at};
use crate::{Durability, reserve};

/// Bytes between two checkpoints.
const STEP: u64 = 8 << 20;

/// Appends to `data`, hashing; the directory's lock is held as long as this lives.
///
/// Parts that come before their turn are written to the same file by others and hashed here when it
/// is their turn.
#[derive(Debug)]
pub(super) struct FileWriter {
    pub(super) content: ContentStore,
    pub(super) key: IngestKey,
    pub(super) data: File,
    pub(super) offset: u64,
    pub(super) hasher: Hasher,
    /// What must come, no byte more.
    pub(super) expected: Expected,
    pub(super) times: Times,
    log: Log,
    parts: Option<Arc<PartWriter>>,
    /// The offset of the last checkpoint.
    saved: u64,
    /// What is in the file can't be trusted any more.
    pub(super) failed: bool,
    /// `None` once the ingest is committed or removed.
    pub(super) dir: Option<IngestDir>,
}

impl FileWriter {
    /// Takes up the ingest in `dir` where its last writer left it.
    pub(super) fn open(
        content: ContentStore,
        dir: IngestDir,
        key: &IngestKey,
        recalled: Recalled,
        cancel: &Cancel,
    ) -> Result<Self> {
        let Recalled { expected, fresh, times } = recalled;
        let mut data = dir.open_data()?;
        let boot_id = content.store.boot_id().to_owned();
        let mut checkpoints = Log::read(&dir.file("state"))?;
        let left = parts::read(dir.path(), Some(&boot_id))?;
        let restore = || {
            let mut length = data.metadata()?.len();
            let left = left.map(|mut left| {
                left.truncate(length);
                let mine = checkpoints.iter().filter(|known| known.boot_id == boot_id);
                if let Some(known) = mine.map(|known| known.offset.min(length)).max() {
                    left.insert(0..known);
                    length = left.end_at(0);
                }
                left
            });
            let (offset, hasher) =
                state::restore((&mut data, length), &mut checkpoints, fresh, &boot_id, cancel)?;
            // Only who knows what the content will be can tell that these are parts of it.
            let known = expected.digest.is_some() && expected.size.is_some();
            let left = left.filter(|left| known && left.next_from(offset).is_some());
            if left.is_none() {
                shorten(&data, offset)?;
            }
            Ok::<_, io::Error>((offset, hasher, left))
        };
        let (offset, hasher, left) =
            { restore }().context(ErrorKind::Storage, || format!("resume ingest {key}"))?;
        checkpoints.retain(|checkpoint| checkpoint.offset < offset);
        checkpoints.push(Checkpoint { offset, hasher: hasher.clone(), boot_id });
        let log = Log::start(&dir.file("state"), &checkpoints)?;
        let mut writer = Self {
            content,
            key: key.clone(),
            data,
            offset,
            hasher,
            expected,
            times,
            log,
            parts: None,
            saved: offset,
            failed: false,
            dir: Some(dir),
        };
        match left {
            Some(left) => writer.open_parts(left)?.map_or(Ok(()), |parts| parts.begin_log())?,
            None => writer.remove_parts()?,
        }
        if writer.expected.size.is_some_and(|size| offset > size) {
            writer.reset()?;
        }
        writer.check_space()?;
        Ok(writer)
    }

    /// Fails early where the disk can't take what is still to come. The reserve is not free.
    fn check_space(&self) -> Result<()> {
        let Some(size) = self.expected.size else { return Ok(()) };
        let needed = self.missing(size);
        if needed > 0 && needed > fsio::free_bytes(self.content.store.root())? {
            return Err(self.no_space(reserve::no_space()));
        }
        Ok(())
    }

    fn no_space(&self, source: io::Error) -> Error {
        let root = self.content.store.root();
        let needed =
            self.expected.size.map_or_else(|| "more".into(), |size| self.missing(size).to_string());
        let free = fsio::free_bytes(root).map_or_else(|_| "?".into(), |free| free.to_string());
        let message = format!(
            "write ingest {} to {}: {needed} bytes are needed, {free} are free",
            self.key,
            root.display()
        );
        Error::new(ErrorKind::Storage, message).with_source(source)
    }

    /// How many bytes of `size` are still to come.
    fn missing(&self, size: u64) -> u64 {
        let there = self.parts.as_ref().map_or(self.offset, |parts| parts.there().bytes());
        size.saturating_sub(there)
    }

    /// Begins to have parts, beside what is there; `None` where it isn't known what the content
    /// will be.
    fn open_parts(&mut self, mut there: Extents) -> Result<Option<Arc<PartWriter>>> {
        let (Some(dir), Some(size), Some(_)) =
            (&self.dir, self.expected.size, self.expected.digest)
        else {
            return Ok(None);
        };
        there.insert(0..self.offset);
        let data = self.data.try_clone();
        let data = data.context(ErrorKind::Storage, || at("open", &self.data_path()))?;
        let boot_id = self.content.store.boot_id();
        let parts = Arc::new(PartWriter::new(dir.path(), data, (there, size), boot_id));
        self.parts = Some(Arc::clone(&parts));
        Ok(Some(parts))
    }

    /// Has nobody write parts any more.
    pub(super) fn close_parts(&mut self) {
        if let Some(parts) = self.parts.take() {
            parts.close();
            self.failed |= parts.has_failed();
        }
    }

    /// Forgets the parts: what is behind the offset is not there any more.
    fn remove_parts(&mut self) -> Result<()> {
        self.close_parts();
        self.dir.as_ref().map_or(Ok(()), |dir| fsio::remove_all(&dir.file(parts::NAME)))
    }

    /// Goes on by bytes that are in the file, and hashed.
    fn advance(&mut self, count: usize) {
        self.offset += count as u64;
        self.times.touch();
        if self.offset - self.saved >= STEP {
            self.start_writeback();
            self.checkpoint();
        }
    }

    /// How many of `length` bytes to take at once: never past the next checkpoint, so that they lie
    /// at equal distances however the bytes come.
    fn step(&self, length: usize) -> usize {
        length.min(usize::try_from(STEP - (self.offset - self.saved)).unwrap_or(usize::MAX))
    }

    fn checkpoint(&mut self) {
        self.saved = self.offset;
        self.log.append(&Checkpoint {
            offset: self.offset,
            hasher: self.hasher.clone(),
            boot_id: self.content.store.boot_id().into(),
        });
    }

    /// Tells the kernel to begin writing the rest, where nobody waits for that here.
    pub(super) fn leave_to_writeback(&self) {
        if self.content.settles_later && self.offset > self.saved {
            self.start_writeback();
        }
    }

    /// Tells the kernel to begin writing what came since the last step, so that the sync at the
    /// end finds little left to do.
    fn start_writeback(&self) {
        if self.content.store.durability() == Durability::None {
            return;
        }
        let length = NonZeroU64::new(self.offset - self.saved);
        let advice = rustix::fs::Advice::DontNeed;
        if let Err(error) = rustix::fs::fadvise(&self.data, self.saved, length, advice) {
            tracing::debug!(%error, "advise the kernel");
        }
    }

    fn data_path(&self) -> std::path::PathBuf {
        self.dir.as_ref().map_or_else(Default::default, |dir| dir.file("data"))
    }

    /// Removes the ingest.
    pub(super) fn remove(&mut self) -> Result<()> {
        self.close_parts();
        self.dir.take().map_or(Ok(()), IngestDir::remove)
    }

    /// Compares what was written with what was promised.
    pub(super) fn check(&self, expected: Expected) -> Result<Digest> {
        if self.failed || self.parts.as_ref().is_some_and(|parts| parts.has_failed()) {
            let message = format!("commit ingest {}: an earlier write failed", self.key);
            return Err(Error::new(ErrorKind::Storage, message));
        }
        let what = || format!("commit ingest {}", self.key);
        let mismatch = |mismatch: ContentMismatch| {
            Err(Error::new(ErrorKind::FailedPrecondition, what()).with_source(mismatch))
        };
        if let Some(size) = expected.size.or(self.expected.size)
            && size != self.offset
        {
            return mismatch(ContentMismatch::Size { expected: size, got: self.offset });
        }
        let expected = expected.digest.or(self.expected.digest);
        let got = match expected {
            Some(digest) if digest.algorithm() != self.hasher.algorithm() => {
                let mut hasher = digest.hasher();
                let mut file = self.written()?;
                fsio::hash(&mut file, self.offset, &mut hasher, &Cancel::default())
                    .context(ErrorKind::Storage, what)?;
                hasher.finish()
            }
            _ => self.hasher.clone().finish(),
        };
        match expected {
            Some(expected) if expected != got => {
                mismatch(ContentMismatch::Digest { expected, got })
            }
            _ => Ok(got),
        }
    }
}

impl io::Write for FileWriter {
    /// Writes and hashes; more bytes than were promised are refused before any of them is written.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.failed {
            let message = format!("write ingest {}: an earlier write failed", self.key);
            return Err(Error::new(ErrorKind::Storage, message).into_io());
        }
        let end = self.offset.saturating_add(bytes.len() as u64);
        if let Some(size) = self.expected.size
            && end > size
        {
            let message = format!("write ingest {}: more bytes come than are expected", self.key);
            return Err(Error::new(ErrorKind::FailedPrecondition, message)
                .with_source(ContentMismatch::Size { expected: size, got: end })
                .into_io());
        }
        let _store = enter(Stage::Store);
        let count = match self.data.write_at(&bytes[..self.step(bytes.len())], self.offset) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => return Err(self.write_failed(error).into_io()),
        };
        self.hash(&bytes[..count]);
        if let Some(parts) = &self.parts {
            parts.note(self.offset..self.offset + count as u64);
        }
        self.advance(count);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Leaves `length` bytes of a file that has as many or more. An empty file stays untouched: ext4
/// writes a file that was ever emptied to the disk when it is closed, and whoever closes it waits.
fn shorten(data: &File, length: u64) -> io::Result<()> {
    if data.metadata()?.len() == length { Ok(()) } else { data.set_len(length) }
}

impl FileWriter {
    fn hash(&mut self, bytes: &[u8]) {
        let _hash = enter(Stage::Hash);
        self.hasher.update(bytes);
    }

    /// A disk without room leaves the ingest as it was before; any other failure ends it.
    fn write_failed(&mut self, error: io::Error) -> Error {
        let room = parts::is_room(&error);
        let sparse = self.parts.as_ref().is_some_and(|parts| parts.is_sparse());
        let shortened = if sparse { Ok(()) } else { self.data.set_len(self.offset) };
        self.failed = !room || shortened.is_err();
        if room {
            return self.no_space(error);
        }
        Error::new(ErrorKind::Storage, at("write", &self.data_path())).with_source(error)
    }
}

impl Writer for FileWriter {
    fn offset(&self) -> u64 {
        self.offset
    }

    fn parts(&mut self) -> Result<Option<Arc<dyn Parts>>> {
        if self.parts.is_none() {
            self.open_parts(Extents::default())?;
        }
        Ok(self.parts.clone().map(|parts| parts as Arc<dyn Parts>))
    }

    fn take_up(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let Some(parts) = &self.parts else { return Ok(0) };
        let there = parts.end_at(self.offset) - self.offset;
        let length = usize::try_from(there).unwrap_or(usize::MAX);
        let length = self.step(length.min(buffer.len()));
        if length == 0 {
            return Ok(0);
        }
        let _store = enter(Stage::Store);
        let taken = &mut buffer[..length];
        let read = self.data.read_exact_at(taken, self.offset);
        read.context(ErrorKind::Storage, || at("read", &self.data_path()))?;
        self.hash(taken);
        self.advance(length);
        Ok(length)
    }

    fn written(&self) -> Result<File> {
        let path = self.data_path();
        File::open(&path).context(ErrorKind::Storage, || at("open", &path))
    }

    fn reset(&mut self) -> Result<()> {
        self.remove_parts()?;
        let path = self.data_path();
        if self.failed
            && let Some(dir) = &self.dir
        {
            // Not even the emptied file is trusted: its errors may have been reported already.
            fsio::remove_all(&path)?;
            self.data = dir.open_data()?;
        }
        shorten(&self.data, 0).context(ErrorKind::Storage, || at("empty", &path))?;
        self.offset = 0;
        self.hasher = self.hasher.fresh();
        self.times.touch();
        self.failed = false;
        self.saved = 0;
        let first = Checkpoint {
            offset: 0,
            hasher: self.hasher.clone(),
            boot_id: self.content.store.boot_id().into(),
        };
        self.log = Log::start(&path.with_file_name("state"), &[first])?;
        Ok(())
    }

    fn commit(self: Box<Self>, expected: Expected) -> Result<Committed> {
        let writer = *self;
        let digest = writer.check(expected)?;
        writer.publish(digest, &Labels::new()).map(Into::into)
    }

    fn commit_or_abort(self: Box<Self>, expected: Expected) -> Result<Committed> {
        let mut writer = *self;
        match writer.check(expected) {
            Ok(digest) => writer.publish(digest, &Labels::new()).map(Into::into),
            Err(error) => {
                if error.find::<ContentMismatch>().is_some() {
                    writer.failed = true; // removed when dropped, before the lock is given up
                }
                Err(error)
            }
        }
    }

    fn abort(mut self: Box<Self>) -> Result<()> {
        self.remove()
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        self.close_parts();
        if self.failed {
            if let Err(error) = self.remove() {
                tracing::debug!(%error, key = %self.key, "remove a failed ingest");
            }
        } else if self.dir.is_some() && self.offset != self.saved {
            self.checkpoint();
        }
    }
}
