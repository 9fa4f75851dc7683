//! Writing an ingest step by step, for clients that say at the end what they wrote.
//!
//! Where a [`dist_core::Writer`] knows its content and waits for its key, an [`IngestWriter`] never
//! waits, may be told of nothing but its key, and can stand for a blob that another namespace has:
//! then `shared` in the ingest's directory is a link to it, which keeps the bytes whatever the
//! other namespace does. The first write takes a copy.

use std::fmt;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::str::FromStr;

use dist_core::{
    Cancel, ContentMismatch, Context as _, Digest, Error, ErrorKind, Expected, Info, IngestKey,
    IngestStatus, Labels, Resource, Result, Writer as _,
};

use super::commit::{Publication, Published};
use super::dir::{self, IngestDir};
use super::recall::{self, Times};
use super::writer::FileWriter;
use crate::blobs::{self, ContentStore, Found, look};
use crate::fsio::{self, at};

/// Bytes that are copied at once.
const COPY: usize = 1 << 20;

/// Who may take a blob that other namespaces have by its digest alone, without bringing its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// Every namespace.
    #[default]
    Shared,
    /// Every namespace, but only what a namespace has that carries the label
    /// `containerd.io/namespace.shareable=true`.
    Isolated,
}

impl fmt::Display for Sharing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shared => "shared",
            Self::Isolated => "isolated",
        })
    }
}

impl FromStr for Sharing {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "shared" => Ok(Self::Shared),
            "isolated" => Ok(Self::Isolated),
            _ => Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("content sharing {text:?} is neither shared nor isolated"),
            )),
        }
    }
}

/// An open ingest. Dropped without a commit it stays, to be resumed at its offset.
///
/// Nobody else writes to the same key while this lives.
#[derive(Debug)]
pub struct IngestWriter {
    content: ContentStore,
    key: IngestKey,
    /// What the client said of it.
    said: Expected,
    state: State,
}

#[derive(Debug)]
enum State {
    Own(Box<FileWriter>),
    Shared(Box<Shared>),
    /// An operation failed half-way or took the ingest away.
    Ended,
}

impl ContentStore {
    /// Opens the ingest `key` for writing, without waiting for anybody.
    ///
    /// `said` is remembered and nothing more: what is written is compared at the commit. A digest
    /// chooses the algorithm of the running hash. Where another namespace has it and `sharing` allows
    /// it, the ingest begins complete.
    ///
    /// # Errors
    /// `AlreadyExists` where this namespace has the digest; `Busy` where a writer, of this or
    /// another process, has the key; `NotFound` where the lease of the scope does not exist;
    /// `Storage`.
    pub fn open_writer(
        &self,
        key: &IngestKey,
        said: Expected,
        sharing: Sharing,
    ) -> Result<IngestWriter> {
        self.store.check_writable()?;
        if let Some(digest) = said.digest
            && self.find(&digest, None)?.is_some()
        {
            dir::remove_left(&self.store, &self.scope.namespace, key);
            return Err(exists(&digest));
        }
        self.store.db().demand_space()?;
        self.hold_ingest(key)?;
        let Some(dir) = IngestDir::lock_now(&self.store, &self.scope.namespace, key)? else {
            let message = format!("ingest {key} is locked by another writer");
            return Err(Error::new(ErrorKind::Busy, message));
        };
        dir.set_leased(&self.store, self.scope.lease.is_some())?;
        if let Some(digest) = said.digest {
            // A row that `find` did not believe: its file is synced now, or the row is dropped.
            let owned = self.store.db().read(|connection| self.load(connection, &digest))?;
            if owned.is_some() && self.claim(&digest, None, &Cancel::default())?.is_some() {
                dir.remove()?;
                return Err(exists(&digest));
            }
        }
        let state = match self.offered(said, sharing)? {
            Some((digest, size)) => match Shared::link(self, &dir, digest, size)? {
                Some(file) => Shared::begin(self, dir, key, (digest, size), file)?,
                None => self.take_up(dir, key, said)?,
            },
            None => self.take_up(dir, key, said)?,
        };
        Ok(IngestWriter { content: self.clone(), key: key.clone(), said, state })
    }

    /// Puts an ingest into the lease, where that does not hold it yet, and makes the namespace.
    ///
    /// Nothing is synced: an ingest that a power cut leaves without its lease is kept for a day.
    fn hold_ingest(&self, key: &IngestKey) -> Result<()> {
        let resource = Resource::Ingest(key.clone());
        let held = self.store.db().read(|connection| {
            let exists = self.scope.namespace.is_raw() || self.scope.exists(connection)?;
            Ok(exists && self.scope.holds(connection, &resource)?)
        })?;
        if held {
            return Ok(());
        }
        self.store.db().write_lazily(|transaction| self.scope.made(transaction, &resource))
    }

    /// Takes an ingest that was removed out of the lease.
    pub(super) fn release_ingest(&self, key: &IngestKey) -> Result<()> {
        if self.scope.lease.is_none() {
            return Ok(());
        }
        let resource = Resource::Ingest(key.clone());
        self.store.db().write_lazily(|transaction| self.scope.release(transaction, &resource))
    }

    /// Whether this namespace has a blob, so that it need not be written. It goes into the lease.
    ///
    /// # Errors
    /// `NotFound` where the lease does not exist; `Storage`.
    pub fn contains(&self, digest: &Digest) -> Result<bool> {
        Ok(self.find(digest, None)?.is_some())
    }

    /// The blob of another namespace that may be taken, and its size.
    fn offered(&self, said: Expected, sharing: Sharing) -> Result<Option<(Digest, u64)>> {
        let Some(digest) = said.digest else { return Ok(None) };
        let known = self.store.db().read(|connection| {
            if !self.may_take(connection, &digest, sharing)? {
                return Ok(None);
            }
            blobs::known(connection, &digest)
        })?;
        let size = known.map(|known| known.size);
        Ok(size
            .filter(|size| said.size.is_none_or(|said| said == *size))
            .map(|size| (digest, size)))
    }

    fn take_up(&self, dir: IngestDir, key: &IngestKey, said: Expected) -> Result<State> {
        let recalled = recall::recall_open(&dir, &self.scope.namespace, key, said)?;
        let writer = FileWriter::open(self.clone(), dir, key, recalled, &Cancel::default())?;
        Ok(State::Own(Box::new(writer)))
    }
}

impl IngestWriter {
    /// How far it is.
    ///
    /// # Errors
    /// `Aborted` where an earlier operation ended it.
    pub fn status(&self) -> Result<IngestStatus> {
        let (offset, times) = match &self.state {
            State::Own(writer) => (writer.offset, &writer.times),
            State::Shared(shared) => (shared.size, &shared.times),
            State::Ended => return Err(self.ended()),
        };
        Ok(IngestStatus {
            key: self.key.clone(),
            offset,
            total: self.said.size,
            expected: self.said.digest,
            started_at: times.started_at,
            updated_at: times.updated_at,
            active: Some(true),
        })
    }

    /// The digest of what is written so far.
    ///
    /// # Errors
    /// `Aborted` where an earlier operation ended it.
    pub fn digest(&self) -> Result<Digest> {
        match &self.state {
            State::Own(writer) => Ok(writer.hasher.clone().finish()),
            State::Shared(shared) => Ok(shared.digest),
            State::Ended => Err(self.ended()),
        }
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// `Storage`; `Aborted` where an earlier operation ended it.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let what = format!("write ingest {}", self.key);
        self.own(true)?.write_all(bytes).context(ErrorKind::Storage, || what)
    }

    /// Throws away what is written.
    ///
    /// # Errors
    /// `Storage`; `Aborted` where an earlier operation ended it.
    pub fn truncate(&mut self) -> Result<()> {
        self.own(false)?.reset()
    }

    /// Makes what is written a blob of this namespace, with `labels`, durable before this returns.
    ///
    /// Labels, lease and row are written in one transaction. The key is free afterwards, however
    /// this ends.
    ///
    /// # Errors
    /// `AlreadyExists` where this namespace has the blob: the ingest is gone, as after a success.
    /// `FailedPrecondition` with a [`ContentMismatch`] where size or digest are not `expected`: the
    /// ingest stays. `Storage` where a sync failed: the ingest is gone. `Aborted` where an earlier
    /// operation ended it.
    pub fn commit(self, expected: Expected, labels: &Labels) -> Result<Info> {
        let ended = self.ended();
        let published = match self.state {
            State::Own(writer) => {
                let digest = writer.check(expected)?;
                writer.publish(digest, labels)?
            }
            State::Shared(shared) => shared.publish(&self.content, &self.key, expected, labels)?,
            State::Ended => return Err(ended),
        };
        if published.owned { Err(exists(&published.info.digest)) } else { Ok(published.info) }
    }

    /// Removes the ingest and all it holds.
    ///
    /// # Errors
    /// `Storage`.
    pub fn abort(self) -> Result<()> {
        match self.state {
            State::Own(writer) => writer.abort()?,
            State::Shared(mut shared) => shared.remove()?,
            State::Ended => (),
        }
        self.content.release_ingest(&self.key)
    }

    /// The writer of a file of our own; what was shared is copied into it, or left out.
    fn own(&mut self, copy: bool) -> Result<&mut FileWriter> {
        if let State::Shared(_) = self.state {
            let State::Shared(mut shared) = std::mem::replace(&mut self.state, State::Ended) else {
                return Err(self.ended());
            };
            let Some(dir) = shared.dir.take() else { return Err(self.ended()) };
            // The file is open: it can be read after its name is gone.
            self.state = self.content.take_up(dir, &self.key, self.said)?;
            if let State::Own(writer) = &mut self.state {
                writer.reset()?;
                if copy {
                    shared.copy_into(writer)?;
                }
            }
        }
        match &mut self.state {
            State::Own(writer) => Ok(writer),
            _ => Err(Error::new(ErrorKind::Aborted, format!("ingest {} has ended", self.key))),
        }
    }

    fn ended(&self) -> Error {
        Error::new(ErrorKind::Aborted, format!("ingest {} has ended", self.key))
    }
}

/// A blob of another namespace in the place of an ingest's data.
#[derive(Debug)]
struct Shared {
    digest: Digest,
    size: u64,
    times: Times,
    file: File,
    /// `None` once the ingest is committed, removed or has data of its own.
    dir: Option<IngestDir>,
}

impl Shared {
    const NAME: &str = "shared";

    /// Links the blob into an ingest and opens it; `None` where it is not what the rows say.
    fn link(
        content: &ContentStore,
        dir: &IngestDir,
        digest: Digest,
        size: u64,
    ) -> Result<Option<File>> {
        let path = dir.file(Self::NAME);
        fsio::remove_all(&path)?;
        let blob = content.store.blob_path(&digest);
        match std::fs::hard_link(&blob, &path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.context(ErrorKind::Storage, || at("link", &blob))?,
        }
        if !matches!(look(&path)?, Found::File { size: there, .. } if there == size) {
            fsio::remove_all(&path)?;
            return Ok(None);
        }
        blobs::open_file(&path).context(ErrorKind::Storage, || at("open", &path)).map(Some)
    }

    fn begin(
        content: &ContentStore,
        dir: IngestDir,
        key: &IngestKey,
        (digest, size): (Digest, u64),
        file: File,
    ) -> Result<State> {
        dir.clear_but(Self::NAME)?;
        let said = Expected { digest: Some(digest), size: Some(size) };
        let times = recall::begin_shared(&dir, &content.scope.namespace, key, said)?;
        Ok(State::Shared(Box::new(Self { digest, size, times, file, dir: Some(dir) })))
    }

    fn copy_into(&mut self, writer: &mut FileWriter) -> Result<()> {
        let mut buffer = vec![0; COPY];
        let mut copy = || loop {
            match self.file.read(&mut buffer) {
                Ok(0) => break Ok(()),
                Ok(count) => writer.write_all(&buffer[..count])?,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => (),
                Err(error) => break Err(error),
            }
        };
        copy().context(ErrorKind::Storage, || format!("copy blob {}", self.digest))
    }

    fn publish(
        mut self,
        content: &ContentStore,
        key: &IngestKey,
        expected: Expected,
        labels: &Labels,
    ) -> Result<Published> {
        let mismatch = match expected {
            Expected { size: Some(size), .. } if size != self.size => {
                Some(ContentMismatch::Size { expected: size, got: self.size })
            }
            Expected { digest: Some(digest), .. } if digest != self.digest => {
                Some(ContentMismatch::Digest { expected: digest, got: self.digest })
            }
            _ => None,
        };
        if let Some(mismatch) = mismatch {
            let message = format!("commit ingest {key}");
            return Err(Error::new(ErrorKind::FailedPrecondition, message).with_source(mismatch));
        }
        let Some(dir) = &self.dir else {
            return Err(Error::new(ErrorKind::Internal, "commit an ingest that was removed"));
        };
        let published = Publication { content, key, digest: self.digest, size: self.size, labels }
            .run(dir, Self::NAME, &self.file)
            .map_err(super::commit::Failure::into_error)?;
        if let Err(error) = self.remove() {
            tracing::debug!(%error, %key, "remove a committed ingest");
        }
        Ok(published)
    }

    fn remove(&mut self) -> Result<()> {
        self.dir.take().map_or(Ok(()), IngestDir::remove)
    }
}

impl Drop for Shared {
    /// Nothing was written, so nothing is kept.
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::debug!(%error, digest = %self.digest, "remove an ingest without data");
        }
    }
}

fn exists(digest: &Digest) -> Error {
    Error::new(ErrorKind::AlreadyExists, format!("content {digest} is there"))
}
