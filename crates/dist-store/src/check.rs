//! Whether rows and files of a store agree.
//!
//! What a crash leaves by design is a leftover: a file without a row, a lock that nobody holds. A
//! row whose file is lost or other than it says is damage. Everything is looked at while other
//! processes work: what looks wrong is looked at again under the lock of `meta.lock`, where nothing
//! changes.

mod files;

use std::fmt;
use std::path::{Path, PathBuf};

use dist_core::{
    Cancel, Context as _, Digest, Error, ErrorKind, Labels, Namespace, Result, SnapshotKey,
};
use rusqlite::{Connection, ErrorCode};

use crate::blobs::{Found, known, look, open_file};
use crate::db::SqlContext as _;
use crate::fsio::{self, at};
use crate::{SnapshotId, Store, labels};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Problem {
    /// SQLite says that its file is damaged.
    Database,
    /// A blob that a namespace has is gone.
    BlobLost,
    /// A blob has another length than its rows say.
    BlobSize,
    /// A blob is not what its digest says.
    BlobDigest,
    /// The directory of a committed snapshot is gone.
    SnapshotLost,
    /// A committed snapshot does not have as many files as when it was committed.
    SnapshotInodes,
    /// A committed snapshot is not what its layers unpack to.
    SnapshotContents,
    /// The snapshot that an image's config says it was unpacked to has no row.
    SnapshotMissing,
    /// A blob that no namespace has.
    BlobUnowned,
    /// A directory of a snapshot that has no row.
    SnapshotUnowned,
    /// A snapshot whose maker died before it was whole.
    SnapshotUnfinished,
    /// A lock that nobody holds.
    Lock,
    /// Something that was to be deleted.
    Trash,
    /// Something that does not belong into a store.
    Stray,
}

impl Problem {
    /// Whether something is lost or wrong; else it only takes space.
    #[must_use]
    pub fn is_damage(self) -> bool {
        self <= Self::SnapshotContents
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Database => "database",
            Self::BlobLost => "blob-lost",
            Self::BlobSize => "blob-size",
            Self::BlobDigest => "blob-digest",
            Self::SnapshotLost => "snapshot-lost",
            Self::SnapshotInodes => "snapshot-inodes",
            Self::SnapshotContents => "snapshot-contents",
            Self::SnapshotMissing => "snapshot-missing",
            Self::BlobUnowned => "blob-unowned",
            Self::SnapshotUnowned => "snapshot-unowned",
            Self::SnapshotUnfinished => "snapshot-unfinished",
            Self::Lock => "lock",
            Self::Trash => "trash",
            Self::Stray => "stray",
        })
    }
}

/// What something is wrong with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The whole database.
    Database,
    /// A blob, in all namespaces that have it.
    Blob(Digest),
    /// A file or directory.
    Path(PathBuf),
    /// A snapshot.
    Snapshot(SnapshotRow),
    /// A snapshot that has no row.
    Missing {
        /// Its namespace.
        namespace: Namespace,
        /// Its snapshotter.
        snapshotter: String,
        /// Its key.
        key: SnapshotKey,
    },
}

/// A snapshot's row, as a check needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRow {
    /// Names its directory.
    pub id: SnapshotId,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its snapshotter.
    pub snapshotter: String,
    /// Its key.
    pub key: SnapshotKey,
    /// Whether it is committed.
    pub committed: bool,
    /// How many inodes it had when it was committed.
    pub inodes: u64,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong.
    pub problem: Problem,
    /// With what.
    pub subject: Subject,
    /// More of it, where there is more to say.
    pub detail: String,
}

/// What [`Store::check`] saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// All that is wrong.
    pub findings: Vec<Finding>,
    /// Blobs looked at.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Whether something failed because the file of the database is damaged, or is none.
#[must_use]
pub fn is_database_damaged(error: &Error) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        let code = error.downcast_ref().and_then(rusqlite::Error::sqlite_error_code);
        if error.is::<EmptyDatabase>()
            || error.is::<DamagedDatabase>()
            || matches!(code, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
        {
            return true;
        }
        next = error.source();
    }
    false
}

/// The cause of an error about a database that SQLite can't read.
///
/// What is below it in the chain is SQLite's, and nothing that its user could do something about.
#[derive(Debug)]
pub struct DamagedDatabase {
    path: PathBuf,
    error: Error,
}

impl fmt::Display for DamagedDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the database {} is damaged", self.path.display())
    }
}

impl std::error::Error for DamagedDatabase {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.error)
    }
}

/// Says of a failure because of a damaged database that it is one, and which.
pub(crate) fn name_damage(error: Error, path: &Path) -> Error {
    if error.find::<DamagedDatabase>().is_some() || !is_database_damaged(&error) {
        return error;
    }
    let message = error.to_string();
    Error::new(error.kind(), message).with_source(DamagedDatabase { path: path.into(), error })
}

/// The cause of an error about a database whose file has no bytes.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the file is empty")]
pub(crate) struct EmptyDatabase;

impl Checked {
    /// Notes a finding.
    pub fn add(&mut self, problem: Problem, subject: Subject, detail: impl Into<String>) {
        self.findings.push(Finding { problem, subject, detail: detail.into() });
    }
}

impl Store {
    /// Looks at the database, at all blobs and at what else lies in the root directory; not at
    /// snapshots. With `deep` every blob is read and compared with its digest.
    ///
    /// Changes nothing and may run while others use the store.
    ///
    /// # Errors
    /// `Storage` where something can't be read; `Cancelled`.
    pub fn check(&self, deep: bool, cancel: &Cancel) -> Result<Checked> {
        let mut checked = Checked::default();
        self.check_rows(&mut checked)?;
        self.check_blobs(deep, cancel, &mut checked)?;
        self.check_files(&mut checked)?;
        Ok(checked)
    }

    /// The rows of all snapshots, of every namespace and snapshotter, parents before children.
    ///
    /// # Errors
    /// `Storage`.
    pub fn snapshot_rows(&self) -> Result<Vec<SnapshotRow>> {
        const WHAT: &str = "list all snapshots";
        let rows: Vec<(SnapshotId, String, String, String, bool, i64)> =
            self.db().read(|connection| {
                connection
                    .prepare(
                        "SELECT id, namespace, snapshotter, key, kind = 'committed', inodes
                         FROM snapshots ORDER BY id",
                    )
                    .and_then(|mut statement| {
                        statement
                            .query_map([], |row| {
                                Ok((
                                    SnapshotId(row.get(0)?),
                                    row.get(1)?,
                                    row.get(2)?,
                                    row.get(3)?,
                                    row.get(4)?,
                                    row.get(5)?,
                                ))
                            })?
                            .collect()
                    })
                    .sql(|| WHAT.into())
            })?;
        let read = |(id, namespace, snapshotter, key, committed, inodes): (
            _,
            String,
            _,
            String,
            _,
            i64,
        )| {
            Ok(SnapshotRow {
                id,
                namespace: parse_namespace(&namespace)?,
                snapshotter,
                key: key.parse().context(ErrorKind::Storage, || WHAT.into())?,
                committed,
                inodes: u64::try_from(inodes).unwrap_or(0),
            })
        };
        rows.into_iter().map(read).collect()
    }

    fn check_rows(&self, checked: &mut Checked) -> Result<()> {
        let said = self.db().read(|connection| {
            let ask = |pragma: &str, column: usize| {
                connection
                    .prepare(pragma)?
                    .query_map([], |row| row.get::<_, String>(column))?
                    .collect::<rusqlite::Result<Vec<_>>>()
            };
            let mut said =
                ask("PRAGMA integrity_check(20)", 0).sql(|| "check the database".into())?;
            said.retain(|line| line != "ok");
            let orphans = ask("PRAGMA foreign_key_check", 0).sql(|| "check the database".into())?;
            said.extend(orphans.iter().map(|table| format!("a row of {table} belongs to none")));
            Ok(said)
        });
        match said {
            Ok(said) => {
                for line in said {
                    checked.add(Problem::Database, Subject::Database, line);
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn check_blobs(&self, deep: bool, cancel: &Cancel, checked: &mut Checked) -> Result<()> {
        let rows: Vec<String> = self.db().read(|connection| {
            connection
                .prepare("SELECT DISTINCT digest FROM content ORDER BY digest")
                .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
                .sql(|| "list all blobs".into())
        })?;
        for text in rows {
            cancel.check()?;
            let Ok(digest) = text.parse::<Digest>() else {
                let detail = format!("a row of content has the digest {text:?}");
                checked.add(Problem::Database, Subject::Database, detail);
                continue;
            };
            checked.blobs += 1;
            let found = self.blob_state(&digest, |connection| known(connection, &digest))?;
            match found {
                State::Fine { size } => checked.bytes += size,
                State::Gone => continue,
                State::Wrong { problem, detail } => {
                    checked.add(problem, Subject::Blob(digest), detail);
                    continue;
                }
            }
            if deep && let Some(detail) = self.misread(&digest, cancel)? {
                checked.add(Problem::BlobDigest, Subject::Blob(digest), detail);
            }
        }
        Ok(())
    }

    /// Compares a blob's file with its rows; where they differ, once more while nothing changes.
    fn blob_state(
        &self,
        digest: &Digest,
        known: impl Fn(&Connection) -> Result<Option<crate::blobs::Known>>,
    ) -> Result<State> {
        let judge = |connection: &Connection| {
            let Some(known) = known(connection)? else { return Ok(State::Gone) };
            let path = self.blob_path(digest);
            Ok(match look(&path)? {
                Found::File { size, .. } if size == known.size => State::Fine { size },
                Found::File { size, .. } => State::Wrong {
                    problem: Problem::BlobSize,
                    detail: format!("it has {size} bytes, not {}", known.size),
                },
                Found::Nothing => {
                    State::Wrong { problem: Problem::BlobLost, detail: String::new() }
                }
                Found::Other => State::Wrong {
                    problem: Problem::BlobLost,
                    detail: "something else has its name".to_owned(),
                },
            })
        };
        let first = self.db().read(judge)?;
        if matches!(first, State::Wrong { .. }) && !self.is_read_only() {
            return self.db().write_lazily(|transaction| judge(transaction));
        }
        Ok(first)
    }

    /// Reads a blob; says what is wrong where it is not what its digest says.
    fn misread(&self, digest: &Digest, cancel: &Cancel) -> Result<Option<String>> {
        let path = self.blob_path(digest);
        let mut file = match open_file(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            file => file.context(ErrorKind::Storage, || at("open", &path))?,
        };
        let mut hasher = digest.hasher();
        match fsio::hash(&mut file, u64::MAX, &mut hasher, cancel) {
            Err(_) if cancel.is_cancelled() => return Err(dist_core::Error::cancelled()),
            Err(error) => return Ok(Some(format!("it can't be read: {}", error.kind()))),
            Ok(_) => (),
        }
        let got = hasher.finish();
        Ok((got != *digest).then(|| format!("its digest is {got}")))
    }

    /// Moves a damaged blob to `ROOT/quarantine`. Its rows stay, so that it has its labels again
    /// when it comes again. Returns where it is now, `None` where there was no file.
    ///
    /// # Errors
    /// `Storage`.
    pub fn quarantine_blob(&self, digest: &Digest) -> Result<Option<PathBuf>> {
        let path = self.blob_path(digest);
        self.db().write_freeing(|_| fsio::set_aside(&path, &self.root().join("quarantine")))
    }

    /// Which namespaces have a blob, whether or not its file is there.
    ///
    /// # Errors
    /// `Storage`.
    pub fn blob_owners(&self, digest: &Digest) -> Result<Vec<BlobOwner>> {
        let what = || format!("read rows of blob {digest}");
        self.db().read(|connection| {
            let rows: Vec<(i64, String, i64)> = connection
                .prepare("SELECT id, namespace, size FROM content WHERE digest = ?1 ORDER BY id")
                .and_then(|mut statement| {
                    statement
                        .query_map([digest.to_string()], |row| {
                            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                        })?
                        .collect()
                })
                .sql(what)?;
            let owner = |(id, namespace, size): (i64, String, i64)| {
                Ok(BlobOwner {
                    namespace: parse_namespace(&namespace)?,
                    size: u64::try_from(size).unwrap_or(0),
                    labels: labels::CONTENT.load(connection, id)?,
                })
            };
            rows.into_iter().map(owner).collect()
        })
    }
}

/// One namespace's row of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobOwner {
    /// The namespace.
    pub namespace: Namespace,
    /// How many bytes the blob has.
    pub size: u64,
    /// Its labels there.
    pub labels: Labels,
}

fn parse_namespace(name: &str) -> Result<Namespace> {
    let what = || format!("read namespace {name:?}");
    Namespace::parse_raw(name).map_or_else(|| name.parse().context(ErrorKind::Storage, what), Ok)
}

enum State {
    Fine { size: u64 },
    Gone,
    Wrong { problem: Problem, detail: String },
}
