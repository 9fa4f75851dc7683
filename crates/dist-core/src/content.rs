//! Content: committed blobs are read, ingests are written.

use std::fs::File;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use crate::name::{name, opaque};
use crate::{Cancel, Descriptor, Digest, Error, Extents, Labels, Result};

/// A committed blob: read only, verified when it was written.
///
/// Reading it reads its file, and fails where the file is filled by somebody who has failed.
#[derive(Debug)]
pub struct Blob {
    /// The open file, positioned at its start. It may be a pipe.
    pub file: File,
    /// Its length in bytes.
    pub size: u64,
    break_off: BreakOff,
}

impl Blob {
    /// A blob in a file.
    #[must_use]
    pub fn new(file: File, size: u64) -> Self {
        Self { file, size, break_off: BreakOff::default() }
    }

    /// A blob that arrives through a pipe, and how to say that it does not arrive whole.
    #[must_use]
    pub fn arriving(pipe: File, size: u64) -> (Self, BreakOff) {
        let break_off = BreakOff::default();
        (Self { file: pipe, size, break_off: break_off.clone() }, break_off)
    }
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.file.read(buffer)? {
            0 if !buffer.is_empty() => {
                self.break_off.take().map_or(Ok(0), |why| Err(why.into_io()))
            }
            length => Ok(length),
        }
    }
}

/// Why a blob ends before its last byte, for its reader.
#[derive(Clone, Debug, Default)]
pub struct BreakOff(Arc<Mutex<Option<Error>>>);

impl BreakOff {
    /// Says why. It is said before the pipe is closed, for the reader looks when that ends.
    pub fn because(&self, why: Error) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    fn take(&self) -> Option<Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Opens committed content.
pub trait Provider: Send + Sync {
    /// Opens a blob for reading.
    ///
    /// # Errors
    /// `NotFound` where no such blob is there; `Storage` where it can't be read.
    fn open(&self, digest: &Digest) -> Result<Blob>;
}

name! {
    /// Names a write transaction in its namespace: 1 to 4096 bytes. Two writers with one key never
    /// write at the same time.
    IngestKey, opaque
}

impl IngestKey {
    /// The key of content that is known before it is written: `noun-digest`.
    #[must_use]
    pub fn for_content(noun: &str, digest: &Digest) -> Self {
        Self(format!("{noun}-{digest}").into())
    }
}

/// What the writer of an ingest knows of its content beforehand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The content's digest.
    pub digest: Option<Digest>,
    /// The content's length in bytes.
    pub size: Option<u64>,
}

impl From<&Descriptor> for Expected {
    fn from(desc: &Descriptor) -> Self {
        Self { digest: Some(desc.digest), size: Some(desc.size) }
    }
}

/// What is known of a committed blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// When it was committed, in nanoseconds since the epoch.
    pub created_at: i64,
    /// When its labels last changed or its file came anew, in nanoseconds since the epoch.
    pub updated_at: i64,
    /// Its labels in the current namespace.
    pub labels: Labels,
}

/// What is known of an ingest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngestStatus {
    /// Its key.
    pub key: IngestKey,
    /// Bytes written so far.
    pub offset: u64,
    /// Bytes it will have, where known.
    pub total: Option<u64>,
    /// The digest it must have, where known.
    pub expected: Option<Digest>,
    /// When its first writer began, in nanoseconds since the epoch.
    pub started_at: i64,
    /// When it was last written to, in nanoseconds since the epoch.
    pub updated_at: i64,
    /// Whether a live writer holds it now; `None` where nobody can say without disturbing it.
    pub active: Option<bool>,
}

/// Begins or resumes the writing of content.
pub trait Ingester: Send + Sync {
    /// Opens the ingest `key`, or finds that the expected digest is there.
    ///
    /// Waits while another writer, thread or process, holds `key`; then looks again whether the
    /// expected digest has been committed. An ingest that an earlier writer left is resumed.
    ///
    /// # Errors
    /// `Cancelled` where `cancel` was raised while waiting; `FailedPrecondition` where a left
    /// ingest has another total and no digest is expected (else it starts over), or the expected
    /// content is there with another size; `NotFound` for a lease that should keep the content and
    /// does not exist; `Storage` where the disk fails or has no room for the expected size.
    fn ingest(&self, key: &IngestKey, expected: Expected, cancel: &Cancel) -> Result<Ingest>;
}

/// The answer to [`Ingester::ingest`].
pub enum Ingest {
    /// The expected content is committed; nothing is to be written. It is new where the namespace
    /// took over just now what was there without it.
    Exists(Committed),
    /// The caller holds the ingest and writes from [`Writer::offset`].
    Writer(Box<dyn Writer>),
}

/// Writes one ingest, from its offset on.
///
/// Dropped without [`Writer::commit`], it stays and can be resumed at its offset by whoever opens
/// the key next. A write whose sync failed is never trusted again: commit then throws the ingest
/// away.
///
/// ```no_run
/// # fn f(store: &dyn dist_core::Ingester, bytes: &[u8], desc: &dist_core::Descriptor) -> dist_core::Result<()> {
/// use dist_core::{Cancel, Context, Ingest};
/// use std::io::Write;
/// let Ingest::Writer(mut writer) = store.ingest(&desc.ingest_key(), desc.into(), &Cancel::default())? else {
///     return Ok(()); // it is there
/// };
/// let rest = &bytes[usize::try_from(writer.offset()).unwrap_or(0)..];
/// writer.write_all(rest).context(dist_core::ErrorKind::Storage, || format!("write {}", desc.digest))?;
/// writer.commit(desc.into())?;
/// # Ok(()) }
/// ```
///
/// The tempting wrong use is to write from byte 0 whatever the offset is.
pub trait Writer: io::Write + Send {
    /// Bytes that are written, by this writer and those before it.
    fn offset(&self) -> u64;

    /// Opens the ingest for parts that come before their turn; `None` where it cannot have any, as a
    /// writer whose bytes go elsewhere in their order.
    ///
    /// # Errors
    /// `Storage`.
    fn parts(&mut self) -> Result<Option<Arc<dyn Parts>>> {
        Ok(None)
    }

    /// Takes up what [`Parts`] brought at the offset, as if it was written now, and copies it to
    /// `buffer`. Returns how many bytes that were: 0 where the next one has not come.
    ///
    /// # Errors
    /// `Storage`.
    fn take_up(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let _ = buffer;
        Ok(0)
    }

    /// Opens what is written so far for reading from byte 0.
    ///
    /// # Errors
    /// `Storage`.
    fn written(&self) -> Result<File>;

    /// Throws away what is written; the offset is 0 again.
    ///
    /// # Errors
    /// `Storage`.
    fn reset(&mut self) -> Result<()>;

    /// Makes the content visible under its digest, durable before this returns (where the store's
    /// durability asks for it).
    ///
    /// # Errors
    /// `FailedPrecondition` with a [`crate::ContentMismatch`] where size or digest are not
    /// `expected`: the ingest stays. `Storage` where a sync failed: the ingest is gone.
    fn commit(self: Box<Self>, expected: Expected) -> Result<Committed>;

    /// As [`Writer::commit`], but content that is not `expected` is removed before anybody who
    /// waits for the key can resume it.
    ///
    /// # Errors
    /// As [`Writer::commit`]; the ingest is gone after a mismatch.
    fn commit_or_abort(self: Box<Self>, expected: Expected) -> Result<Committed>;

    /// Removes the ingest and all it holds.
    ///
    /// # Errors
    /// `Storage`.
    fn abort(self: Box<Self>) -> Result<()>;
}

/// Writes parts of an ingest before it is their turn, from any thread, until the [`Writer`] ends.
///
/// The offset does not move: whoever has the writer takes them up when it gets there. What an earlier
/// writer left is there as well.
pub trait Parts: Send + Sync {
    /// Writes bytes at the offset `at`; returns how many of them were not there.
    ///
    /// # Errors
    /// `Cancelled` where the writer has ended; `Storage`.
    fn write_at(&self, at: u64, bytes: &[u8]) -> Result<u64>;

    /// All that is there, before and behind the offset.
    fn there(&self) -> Extents;
}

/// How a commit ended: either way the namespace has the blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// The namespace did not have the blob before.
    New(Info),
    /// The namespace had the same blob before.
    Existed(Info),
}

impl Committed {
    /// The blob.
    #[must_use]
    pub fn info(&self) -> &Info {
        match self {
            Self::New(info) | Self::Existed(info) => info,
        }
    }
}
