//! What is on the disk when, decided in one place.
//!
//! A row whose `boot_id` is not NULL stands for files that may be in the page cache only. As long
//! as the machine runs they are whole; after another boot nobody can say, so the row is dropped
//! and the files are made again. [`Store::settle`] turns such rows into durable ones by one
//! `syncfs`, whose error is read from a descriptor that was opened before the files were written.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use dist_core::{Context as _, Digest, Error, ErrorKind, Result, Stage, enter};
use rusqlite::{Connection, Transaction, params};

use crate::Store;
use crate::db::SqlContext as _;

/// Dirty and written-back bytes of the whole machine above which [`SettleMode::Exit`] does not
/// wait for a sync: 64 MiB, less than a second on a slow disk.
pub const SETTLE_DIRTY_BYTES: u64 = 64 << 20;

/// How much is on the disk before a call answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Durability {
    /// Nothing need be: blobs and snapshots written since the last boot are made again after an
    /// unclean stop. The metadata is never damaged.
    None,
    /// Blobs and rows are; snapshots are settled when that costs little, else by a later command.
    #[default]
    Content,
    /// Blobs, rows and snapshots are.
    Full,
}

impl FromStr for Durability {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "none" => Ok(Self::None),
            "content" => Ok(Self::Content),
            "full" => Ok(Self::Full),
            _ => Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("parse durability {text:?}: it is none, content or full"),
            )),
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::Content => "content",
            Self::Full => "full",
        })
    }
}

/// At which point [`Store::settle`] is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettleMode {
    /// Before the result is told to the user: syncs under [`Durability::Full`].
    Answer,
    /// At the end of a command, after its result: syncs under [`Durability::Content`] too, if no
    /// more than [`SETTLE_DIRTY_BYTES`] wait to be written.
    Exit,
    /// Before somebody builds on a snapshot what must outlive a power cut: syncs unless under
    /// [`Durability::None`], because a snapshot that is dropped takes all on top of it along.
    Base,
    /// Syncs whatever it costs, under every durability.
    Now,
}

/// What [`Store::settle`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Rows that are durable now and were not before.
    pub flipped: u64,
    /// Rows that were found not durable and left so.
    pub pending: u64,
}

impl Store {
    /// Makes the rows that are not yet durable so, if durability and `mode` ask for it.
    ///
    /// The rows are those that are there when it begins, of every namespace and process; only
    /// committed snapshots count. Rows that come while it syncs stay as they are.
    ///
    /// # Errors
    /// `Storage` where the sync failed: the rows it was for are dropped, with all snapshots on top
    /// of them, because their files can't be trusted any more; they are to be made again.
    pub fn settle(&self, mode: SettleMode) -> Result<Settled> {
        let wanted = match (self.durability(), mode) {
            (_, SettleMode::Now) | (Durability::Full, _) => true,
            (Durability::Content, SettleMode::Exit | SettleMode::Base) => true,
            (Durability::Content, SettleMode::Answer) | (Durability::None, _) => false,
        };
        if !wanted || self.is_read_only() {
            return Ok(Settled::default());
        }
        let rows = self.db().read(|connection| Unsettled::find(connection, self.boot_id()))?;
        let count = rows.snapshots.len() as u64 + rows.content.len() as u64;
        if count == 0 {
            return Ok(Settled::default());
        }
        if self.durability() == Durability::Content
            && mode == SettleMode::Exit
            && dirty_bytes().is_none_or(|bytes| bytes > SETTLE_DIRTY_BYTES)
        {
            return Ok(Settled { flipped: 0, pending: count });
        }
        self.trust(&rows, self.sync_file_systems())?;
        let flipped = self.db().write(|transaction| rows.flip(transaction))?;
        Ok(Settled { flipped, pending: count.saturating_sub(flipped) })
    }

    /// Syncs the blobs that are `wanted` and not durable, where durability asks for it; who calls
    /// this marks the rows. Where little waits to be written, all else is synced with them, at once.
    ///
    /// # Errors
    /// As [`Store::settle`].
    pub(crate) fn sync_blobs(&self, wanted: impl Fn(&Digest) -> bool) -> Result<Unsettled> {
        if self.durability() == Durability::None {
            return Ok(Unsettled::default());
        }
        let mut rows = self.db().read(|connection| Unsettled::find(connection, self.boot_id()))?;
        if !rows.has(&wanted) {
            return Ok(Unsettled::default());
        }
        let little = || dirty_bytes().is_some_and(|bytes| bytes <= SETTLE_DIRTY_BYTES);
        let synced = if self.durability() == Durability::Full || little() {
            self.sync_file_systems()
        } else {
            rows.snapshots.clear();
            rows.content.retain(|row| row.is(&wanted));
            rows.sync_files(self)
        };
        self.trust(&rows, synced)?;
        Ok(rows)
    }

    /// Whether blobs that are `wanted` are still not durable, where durability asks for it: others
    /// had a say about them since they were synced.
    pub(crate) fn lacks_sync(
        &self,
        connection: &Connection,
        wanted: impl Fn(&Digest) -> bool,
    ) -> Result<bool> {
        Ok(self.durability() != Durability::None
            && Unsettled::find(connection, self.boot_id())?.has(&wanted))
    }

    /// Drops the rows where the sync of their files failed.
    fn trust(&self, rows: &Unsettled, synced: Result<()>) -> Result<()> {
        if synced.is_err() {
            self.db().write(|transaction| rows.distrust(transaction, self))?;
        }
        synced
    }
}

/// Rows of this boot that are not durable.
#[derive(Default)]
pub(crate) struct Unsettled {
    snapshots: Vec<i64>,
    content: Vec<UnsettledBlob>,
}

/// A row of `content`, as it was. The id of a deleted one may be given to another row, and a row
/// that gets another file gets another time.
struct UnsettledBlob {
    id: i64,
    digest: String,
    updated_at: i64,
}

impl UnsettledBlob {
    fn is(&self, wanted: &impl Fn(&Digest) -> bool) -> bool {
        self.digest.parse().is_ok_and(|digest| wanted(&digest))
    }

    fn path(&self, store: &Store) -> PathBuf {
        store.root().join("content/blobs").join(self.digest.replace(':', "/"))
    }
}

impl Unsettled {
    fn find(connection: &Connection, boot_id: &str) -> Result<Self> {
        let find = || {
            let snapshots = connection
                .prepare("SELECT id FROM snapshots WHERE boot_id = ?1 AND kind = 'committed'")?
                .query_map([boot_id], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            let content = connection
                .prepare("SELECT id, digest, updated_at FROM content WHERE boot_id = ?1")?
                .query_map([boot_id], |row| {
                    Ok(UnsettledBlob {
                        id: row.get(0)?,
                        digest: row.get(1)?,
                        updated_at: row.get(2)?,
                    })
                })?
                .collect::<rusqlite::Result<_>>()?;
            Ok(Self { snapshots, content })
        };
        find().sql(|| "find rows that are not durable".into())
    }

    /// Whether there are blobs among them that are `wanted`.
    fn has(&self, wanted: &impl Fn(&Digest) -> bool) -> bool {
        self.content.iter().any(|row| row.is(wanted))
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.snapshots.is_empty() && self.content.is_empty()
    }

    /// Syncs each blob, and then the directories they are in. One whose file is gone counts as
    /// missing whatever its row says.
    fn sync_files(&self, store: &Store) -> Result<()> {
        let _sync = enter(Stage::Sync);
        let mut dirs = BTreeSet::new();
        for row in &self.content {
            let path = row.path(store);
            match crate::blobs::open_file(&path).and_then(|file| file.sync_all()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                synced => synced.context(ErrorKind::Storage, || crate::fsio::at("sync", &path))?,
            }
            dirs.extend(path.parent().map(Path::to_owned));
        }
        dirs.iter().try_for_each(|dir| crate::fsio::sync_dir(dir))
    }

    /// Marks those that are still what was synced; returns how many they were.
    pub(crate) fn flip(&self, transaction: &Transaction<'_>) -> Result<u64> {
        let flip = || {
            let mut count = 0;
            let mut statement =
                transaction.prepare("UPDATE snapshots SET boot_id = NULL WHERE id = ?1")?;
            for id in &self.snapshots {
                count += statement.execute([id])?;
            }
            let mut statement = transaction.prepare(
                "UPDATE content SET boot_id = NULL
                 WHERE id = ?1 AND digest = ?2 AND updated_at = ?3",
            )?;
            for row in &self.content {
                count += statement.execute(params![row.id, row.digest, row.updated_at])?;
            }
            Ok(count as u64)
        };
        flip().sql(|| "mark rows as durable".into())
    }

    /// Drops the rows; a blob goes with them, because reading it back would only read the cache.
    fn distrust(&self, transaction: &Transaction<'_>, store: &Store) -> Result<()> {
        const WHAT: &str = "drop rows whose files could not be synced";
        for id in &self.snapshots {
            drop_tree(transaction, *id).sql(|| WHAT.into())?;
        }
        for row in &self.content {
            crate::fsio::set_aside(&row.path(store), &store.root().join("trash"))?;
            transaction
                .execute("DELETE FROM content WHERE digest = ?1", [&row.digest])
                .sql(|| WHAT.into())?;
        }
        Ok(())
    }
}

/// Deletes a snapshot row and all that stand on it; one statement, so that foreign keys hold.
pub(crate) fn drop_tree(transaction: &Transaction<'_>, id: i64) -> rusqlite::Result<usize> {
    transaction.execute(
        "WITH RECURSIVE gone (id) AS (
             SELECT ?1
             UNION SELECT s.id FROM snapshots s JOIN gone ON s.parent_id = gone.id
         )
         DELETE FROM snapshots WHERE id IN gone",
        [id],
    )
}

/// Whether rows of another boot than `boot_id` are not known to be on the disk.
pub(crate) fn has_stale(connection: &Connection, boot_id: &str) -> Result<bool> {
    connection
        .query_row(
            // Not `<> ?1`, which would pass all rows of this boot in the index.
            "SELECT EXISTS (SELECT 1 FROM snapshots WHERE boot_id IS NOT NULL AND boot_id < ?1)
                 OR EXISTS (SELECT 1 FROM snapshots WHERE boot_id IS NOT NULL AND boot_id > ?1)
                 OR EXISTS (SELECT 1 FROM content WHERE boot_id IS NOT NULL AND boot_id < ?1)
                 OR EXISTS (SELECT 1 FROM content WHERE boot_id IS NOT NULL AND boot_id > ?1)",
            [boot_id],
            |row| row.get(0),
        )
        .sql(|| "find rows of another boot".into())
}

/// Drops the rows of another boot that are not known to be on the disk, and what stands on them.
///
/// Their files stay: a directory without a row is trash, a blob without a row is verified before
/// it is believed.
pub(crate) fn drop_stale(transaction: &Transaction<'_>, boot_id: &str) -> Result<()> {
    let drop = || {
        let snapshots = transaction.execute(
            "WITH RECURSIVE gone (id) AS (
                 SELECT id FROM snapshots WHERE boot_id IS NOT NULL AND boot_id <> ?1
                 UNION SELECT s.id FROM snapshots s JOIN gone ON s.parent_id = gone.id
             )
             DELETE FROM snapshots WHERE id IN gone",
            [boot_id],
        )?;
        let content = transaction.execute(
            "DELETE FROM content WHERE boot_id IS NOT NULL AND boot_id <> ?1",
            params![boot_id],
        )?;
        Ok((snapshots, content))
    };
    let (snapshots, content) = drop().sql(|| "drop rows of another boot".into())?;
    tracing::info!(snapshots, content, "dropped what an unclean stop left");
    Ok(())
}

/// Temporary views that hide what [`drop_stale`] would drop, for a store that can't be written.
pub(crate) fn hiding_views(boot_id: &str) -> String {
    debug_assert!(boot_id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-'));
    format!(
        "CREATE TEMP VIEW content AS
             SELECT * FROM main.content WHERE boot_id IS NULL OR boot_id = '{boot_id}';
         CREATE TEMP VIEW snapshots AS
             WITH RECURSIVE gone (id) AS (
                 SELECT id FROM main.snapshots WHERE boot_id IS NOT NULL AND boot_id <> '{boot_id}'
                 UNION SELECT s.id FROM main.snapshots s JOIN gone ON s.parent_id = gone.id
             )
             SELECT * FROM main.snapshots WHERE id NOT IN gone;"
    )
}

/// Reads the id that the kernel gave itself at boot.
pub(crate) fn read_boot_id(path: &Path) -> Result<String> {
    let what = || format!("read {}", path.display());
    let text = std::fs::read_to_string(path).context(ErrorKind::Storage, what)?;
    let id = text.trim();
    let good = (1..=64).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    if good {
        Ok(id.into())
    } else {
        Err(io::Error::from(io::ErrorKind::InvalidData)).context(ErrorKind::Storage, what)
    }
}

/// Bytes of the whole machine that wait to be written or are being written; `None` where the
/// kernel does not say.
fn dirty_bytes() -> Option<u64> {
    parse_dirty(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn parse_dirty(meminfo: &str) -> Option<u64> {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    };
    field("Dirty:")?.checked_add(field("Writeback:")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for durability in [Durability::None, Durability::Content, Durability::Full] {
            assert_eq!(durability.to_string().parse::<Durability>().unwrap(), durability);
        }
        assert_eq!("All".parse::<Durability>().unwrap_err().kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn dirty() {
        let text = "MemTotal:  24 kB\nDirty:               516 kB\nWriteback:             4 kB\n";
        assert_eq!(parse_dirty(text), Some(520 * 1024));
        assert_eq!(parse_dirty("Dirty: 1 kB\n"), None);
        assert!(dirty_bytes().is_some());
    }

    /// Only what was there when the sync began is durable after it.
    #[test]
    fn rows_that_came_while_syncing_stay_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s"), crate::StoreOptions::default()).unwrap();
        let content = store.content(dist_core::Namespace::default());
        let digest = |n: u8| dist_core::Digest::sha256(&[n]);
        let insert = |n| store.db().write(|t| content.insert(t, &digest(n), 1, true)).unwrap();
        let id = |n| -> i64 {
            let sql = "SELECT id FROM content WHERE digest = ?1";
            store
                .db()
                .read(|c| Ok(c.query_row(sql, [digest(n).to_string()], |r| r.get(0)).unwrap()))
                .unwrap()
        };
        let drop_row = |n| {
            let sql = "DELETE FROM content WHERE digest = ?1";
            store.db().write(|t| Ok(t.execute(sql, [digest(n).to_string()]).unwrap())).unwrap();
        };
        insert(1);
        insert(2);
        insert(3);
        let last = id(3);
        let rows = store.db().read(|c| Unsettled::find(c, store.boot_id())).unwrap();
        insert(2); // has another file now
        drop_row(3);
        insert(4);
        assert_eq!(id(4), last);
        assert_eq!(store.db().write(|t| rows.flip(t)).unwrap(), 1);
        let left = store.db().read(|c| Unsettled::find(c, store.boot_id())).unwrap();
        let left: Vec<_> = left.content.into_iter().map(|row| row.digest).collect();
        assert_eq!(left, [digest(2).to_string(), digest(4).to_string()]);
    }
}
