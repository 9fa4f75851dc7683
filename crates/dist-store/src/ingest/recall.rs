//! The small files of an ingest: what is known of its content, and when it was written.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use dist_core::{
    ContentMismatch, Context as _, Digest, Error, ErrorKind, Expected, Hasher, IngestKey,
    Namespace, Result,
};

use super::dir::IngestDir;
use super::status::parse;
use crate::fsio::{self, at};

/// What a writer begins with.
pub(super) struct Recalled {
    /// What must come.
    pub(super) expected: Expected,
    /// The hash of no bytes, in the algorithm to use.
    pub(super) fresh: Hasher,
    pub(super) times: Times,
}

/// Reads and completes what the ingest's directory says, for a writer that knows its content.
///
/// An ingest of other content is emptied; the rest of one is kept. A digest has one size, so where
/// one is expected, another total means that somebody was told a wrong one: nothing that was
/// written towards it is kept.
pub(super) fn recall(
    dir: &IngestDir,
    namespace: &Namespace,
    key: &IngestKey,
    expected: Expected,
) -> Result<Recalled> {
    let left = Left::read(dir)?;
    let resized = matches!((left.size, expected.size), (Some(a), Some(b)) if a != b);
    let other = matches!((left.digest, expected.digest), (Some(a), Some(b)) if a != b);
    let wrong = other || (resized && expected.digest.is_some());
    let left = left.settle(dir, namespace, key, !wrong)?;
    left.check_total(key, expected.size)?;
    let known = left.complete(dir, expected)?;
    Ok(Recalled {
        expected: known,
        fresh: known.digest.map_or_else(Hasher::sha256, |digest| digest.hasher()),
        times: Times::open(dir)?,
    })
}

/// As [`recall`], for a writer that learns at the end what it wrote: what is said now is only
/// remembered, and whatever was written is kept, but not what was written towards another total.
pub(super) fn recall_open(
    dir: &IngestDir,
    namespace: &Namespace,
    key: &IngestKey,
    said: Expected,
) -> Result<Recalled> {
    let left = Left::read(dir)?;
    let resized = matches!((left.size, said.size), (Some(a), Some(b)) if a != b);
    let left = left.settle(dir, namespace, key, !resized)?;
    if let (Some(before), Some(digest)) = (left.digest, said.digest)
        && before != digest
    {
        dir.write("expected", &digest.to_string())?;
    }
    let known = left.complete(dir, said)?;
    Ok(Recalled {
        expected: Expected::default(),
        fresh: known.digest.map_or_else(Hasher::sha256, |digest| digest.hasher()),
        times: Times::open(dir)?,
    })
}

/// Describes a blob that lies in an ingest as it is. The rest of the directory is empty.
pub(super) fn begin_shared(
    dir: &IngestDir,
    namespace: &Namespace,
    key: &IngestKey,
    said: Expected,
) -> Result<Times> {
    begin(dir, namespace, key)?;
    Left::default().complete(dir, said)?;
    Times::open(dir)
}

/// Names the owner of an empty directory. The key comes last: what has none was not finished.
fn begin(dir: &IngestDir, namespace: &Namespace, key: &IngestKey) -> Result<()> {
    dir.write("startedat", &fsio::now().to_string())?;
    dir.write("namespace", namespace.as_str())?;
    dir.write("ref", key.as_str())
}

/// What earlier writers left.
#[derive(Default)]
struct Left {
    key: Option<String>,
    namespace: Option<String>,
    digest: Option<Digest>,
    size: Option<u64>,
}

impl Left {
    fn read(dir: &IngestDir) -> Result<Self> {
        Ok(Self {
            key: dir.read("ref")?,
            namespace: dir.read("namespace")?,
            digest: parse(dir.read("expected")?),
            size: parse(dir.read("total")?),
        })
    }

    /// Makes the directory one of this key, emptied where it was another's or is not to be kept.
    fn settle(
        self,
        dir: &IngestDir,
        namespace: &Namespace,
        key: &IngestKey,
        keep: bool,
    ) -> Result<Self> {
        let owner = self.namespace.as_deref();
        let theirs = owner.is_some_and(|owner| owner != namespace.as_str());
        if keep && !theirs && self.key.as_deref() == Some(key.as_str()) {
            if owner.is_none() {
                dir.write("namespace", namespace.as_str())?;
            }
            fsio::remove_all(&dir.file("shared"))?;
            return Ok(self);
        }
        dir.clear()?;
        begin(dir, namespace, key)?;
        Ok(Self::default())
    }

    fn check_total(&self, key: &IngestKey, size: Option<u64>) -> Result<()> {
        match (self.size, size) {
            (Some(left), Some(size)) if left != size => {
                let message = format!(
                    "resume ingest {key}: its total is {left} bytes, now {size} are expected"
                );
                Err(Error::new(ErrorKind::FailedPrecondition, message)
                    .with_source(ContentMismatch::Size { expected: size, got: left }))
            }
            _ => Ok(()),
        }
    }

    /// Writes down what was not known before.
    fn complete(self, dir: &IngestDir, expected: Expected) -> Result<Expected> {
        if let (None, Some(size)) = (self.size, expected.size) {
            dir.write("total", &size.to_string())?;
        }
        if let (None, Some(digest)) = (self.digest, expected.digest) {
            dir.write("expected", &digest.to_string())?;
        }
        Ok(Expected { digest: expected.digest.or(self.digest), size: expected.size.or(self.size) })
    }
}

/// When an ingest was begun and last written to, in nanoseconds since the epoch.
#[derive(Debug)]
pub(super) struct Times {
    pub(super) started_at: i64,
    pub(super) updated_at: i64,
    /// `updatedat`, which is written over in place: its text always has one length.
    file: File,
}

impl Times {
    fn open(dir: &IngestDir) -> Result<Self> {
        let started_at: Option<i64> = parse(dir.read("startedat")?);
        let updated_at: Option<i64> = parse(dir.read("updatedat")?);
        let path = dir.file("updatedat");
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .context(ErrorKind::Storage, || at("open", &path))?;
        let started_at = match started_at {
            Some(started_at) => started_at,
            None => {
                let now = fsio::now();
                dir.write("startedat", &now.to_string())?;
                now
            }
        };
        let mut times = Self { started_at, updated_at: updated_at.unwrap_or(started_at), file };
        if updated_at.is_none() {
            times.file.set_len(0).context(ErrorKind::Storage, || at("empty", &path))?;
            times.save(times.updated_at);
        }
        Ok(times)
    }

    /// Notes that something was written now.
    pub(super) fn touch(&mut self) {
        self.save(fsio::now());
    }

    /// Failing makes the ingest seem older than it is, and nothing else.
    fn save(&mut self, now: i64) {
        self.updated_at = now;
        if let Err(error) = self.file.write_all_at(format!("{now:020}\n").as_bytes(), 0) {
            tracing::debug!(%error, "save the time of a write");
        }
    }
}
