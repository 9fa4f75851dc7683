//! The writer of one ingest.

use std::fs::File;
use std::io::{self, Seek as _};
use std::num::NonZeroU64;

use dist_core::{
    Cancel, Committed, ContentMismatch, Context as _, Digest, Error, ErrorKind, Expected, Hasher,
    IngestKey, Labels, Result, Writer,
};

use super::dir::IngestDir;
use super::recall::{Recalled, Times};
use super::state::{self, Checkpoint, Log};
use crate::blobs::ContentStore;
use crate::fsio::{self, at};
use crate::{Durability, reserve};

/// Bytes between two checkpoints.
const STEP: u64 = 8 << 20;

/// Appends to `data`, hashing; the directory's lock is held as long as this lives.
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
        let restore = || {
            let (offset, hasher) =
                state::restore(&mut data, &mut checkpoints, fresh, &boot_id, cancel)?;
            data.set_len(offset)?;
            data.seek(io::SeekFrom::Start(offset))?;
            Ok::<_, io::Error>((offset, hasher))
        };
        let (offset, hasher) =
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
            saved: offset,
            failed: false,
            dir: Some(dir),
        };
        if writer.expected.size.is_some_and(|size| offset > size) {
            writer.reset()?;
        }
        writer.check_space()?;
        Ok(writer)
    }

    /// Fails early where the disk can't take what is still to come. The reserve is not free.
    fn check_space(&self) -> Result<()> {
        let Some(size) = self.expected.size else { return Ok(()) };
        let needed = size.saturating_sub(self.offset);
        if needed > 0 && needed > fsio::free_bytes(self.content.store.root())? {
            return Err(self.no_space(reserve::no_space()));
        }
        Ok(())
    }

    fn no_space(&self, source: io::Error) -> Error {
        let root = self.content.store.root();
        let needed = self
            .expected
            .size
            .map_or_else(|| "more".into(), |size| (size.saturating_sub(self.offset)).to_string());
        let free = fsio::free_bytes(root).map_or_else(|_| "?".into(), |free| free.to_string());
        let message = format!(
            "write ingest {} to {}: {needed} bytes are needed, {free} are free",
            self.key,
            root.display()
        );
        Error::new(ErrorKind::Storage, message).with_source(source)
    }

    fn checkpoint(&mut self) {
        self.saved = self.offset;
        self.log.append(&Checkpoint {
            offset: self.offset,
            hasher: self.hasher.clone(),
            boot_id: self.content.store.boot_id().into(),
        });
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
        self.dir.take().map_or(Ok(()), IngestDir::remove)
    }

    /// Compares what was written with what was promised.
    pub(super) fn check(&self, expected: Expected) -> Result<Digest> {
        if self.failed {
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
        // Never past the next checkpoint, so that they lie at equal distances however the bytes come.
        let step = usize::try_from(STEP - (self.offset - self.saved)).unwrap_or(usize::MAX);
        let count = match self.data.write(&bytes[..bytes.len().min(step)]) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => return Err(self.write_failed(error).into_io()),
        };
        self.hasher.update(&bytes[..count]);
        self.offset += count as u64;
        self.times.touch();
        if self.offset - self.saved >= STEP {
            self.start_writeback();
            self.checkpoint();
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl FileWriter {
    /// A disk without room leaves the ingest as it was before; any other failure ends it.
    fn write_failed(&mut self, error: io::Error) -> Error {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        let room = matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge);
        let at_offset = self
            .data
            .set_len(self.offset)
            .and_then(|()| self.data.seek(io::SeekFrom::Start(self.offset)));
        self.failed = !room || at_offset.is_err();
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

    fn written(&self) -> Result<File> {
        let path = self.data_path();
        File::open(&path).context(ErrorKind::Storage, || at("open", &path))
    }

    fn reset(&mut self) -> Result<()> {
        let path = self.data_path();
        if self.failed
            && let Some(dir) = &self.dir
        {
            // Not even the emptied file is trusted: its errors may have been reported already.
            fsio::remove_all(&path)?;
            self.data = dir.open_data()?;
        }
        self.data
            .set_len(0)
            .and_then(|()| self.data.rewind())
            .context(ErrorKind::Storage, || at("empty", &path))?;
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
        if self.failed {
            if let Err(error) = self.remove() {
                tracing::debug!(%error, key = %self.key, "remove a failed ingest");
            }
        } else if self.dir.is_some() && self.offset != self.saved {
            self.checkpoint();
        }
    }
}
