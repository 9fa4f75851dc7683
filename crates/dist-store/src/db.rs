//! The metadata: `ROOT/meta.db`, an SQLite database in WAL mode, and `ROOT/meta.lock`.
//!
//! The database is made under another name, complete with its schema, and renamed into place while
//! `meta.lock` is held, so that whoever finds it finds all of it and needs no lock to open it.
//! Every write transaction is `BEGIN IMMEDIATE` behind an exclusive `flock` on `meta.lock`: the
//! kernel's queue is fair where SQLite's busy handler is not. Nothing but `stat`, `link` and
//! `rename` is done to other files inside a write transaction.

mod session;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dist_core::{Context as _, Error, ErrorKind, Result};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};
use rustix::fs::FlockOperation;

pub(crate) use self::session::Session;
use crate::check::name_damage;
use crate::reserve;
use crate::schema::{self, VERSION};

const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of a log from which on the last to close the database writes it back, whoever that is: who
/// opens it next has to read all of them.
const SMALL_LOG: u64 = 2 << 20;

/// How many statements a connection keeps prepared.
const STATEMENTS: usize = 128;

/// The metadata of one store, shared by all threads and processes that use it.
#[derive(Debug)]
pub struct Db {
    path: PathBuf,
    access: Access,
    synchronous: &'static str,
    /// Whether the file is of this program's version.
    current: bool,
    /// Statements that every new connection runs last.
    setup: String,
    /// Connections that no thread uses now; as many as were ever used at once.
    idle: Mutex<Vec<Connection>>,
    /// `meta.lock`. The mutex makes threads queue, the `flock` processes.
    gate: Mutex<Option<File>>,
    /// Whether anything was written that waited for the disk.
    durable: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Write,
    Read,
    /// Read, where SQLite can neither find nor make its shared memory.
    Immutable,
}

impl Db {
    /// Opens `root/meta.db` for reading and writing; it must be there. One of an earlier version is
    /// brought to this program's.
    pub(crate) fn open(root: &Path, durable: bool) -> Result<Self> {
        let db = Self::new(root, Access::Write, if durable { "FULL" } else { "NORMAL" });
        let open = || {
            let connection = db.connect()?;
            Ok((version(&connection, &db.path)?, connection))
        };
        let (version, connection) = reserve::with(root, open).map_err(|error| db.explain(error))?;
        match version {
            VERSION => db.give_back(connection),
            1..VERSION => {
                drop(connection);
                db.migrate()?;
            }
            _ => return Err(db.wrong_version(version)),
        }
        Ok(db)
    }

    /// Brings the database to this program's version, durably; another process may do it first.
    fn migrate(&self) -> Result<()> {
        let migrate = |transaction: &Transaction<'_>| {
            let found = version(transaction, &self.path)?;
            if found < VERSION {
                schema::migrate(transaction, found).sql(|| {
                    format!("migrate database {} to version {VERSION}", self.path.display())
                })?;
                tracing::info!(found, VERSION, "the database has a new version");
            }
            Ok(())
        };
        reserve::with(self.root(), || self.try_write(migrate)).map_err(|error| self.explain(error))
    }

    /// Makes `root/meta.db` where it is missing. The caller holds `meta.lock`.
    pub(crate) fn create(root: &Path) -> Result<()> {
        let path = root.join("meta.db");
        if path.try_exists().context(ErrorKind::Storage, || at("stat", &path))? {
            return Ok(());
        }
        let new = root.join("meta.db.new");
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let stale = root.join(format!("meta.db.new{suffix}"));
            match std::fs::remove_file(&stale) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).context(ErrorKind::Storage, || at("remove", &stale));
                }
                _ => (),
            }
        }
        let mut connection =
            connect(&new, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        let create = |connection: &mut Connection| {
            connection.pragma_update(None, "synchronous", "OFF")?; // one sync below does for all
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            schema::migrate(&transaction, 0)?;
            transaction.commit()?;
            // Last: until here all is in the one file that gets its name below. A log that could
            // not be written back at the close would be left behind.
            connection.pragma_update(None, "journal_mode", "WAL")
        };
        create(&mut connection).sql(|| at("create database", &new))?;
        connection.close().map_err(|(_, error)| error).sql(|| at("close database", &new))?;
        if has_log(&new)? {
            let message = at("create database", &new);
            return Err(Error::new(ErrorKind::Storage, format!("{message}: its log is not empty")));
        }
        File::open(&new)
            .and_then(|file| file.sync_all())
            .and_then(|()| std::fs::rename(&new, &path))
            .context(ErrorKind::Storage, || at("create database", &path))
    }

    /// Opens `root/meta.db` for reading only, without writing anything anywhere.
    ///
    /// Rows that are not known to be on the disk and come from another boot than `boot_id` are
    /// hidden, because they can't be dropped. What an earlier version lacks is made in memory.
    pub(crate) fn open_read_only(root: &Path, boot_id: &str) -> Result<Self> {
        let mut db = Self::new(root, Access::Read, "FULL");
        let mut opened = db.connect().and_then(|c| Ok((version(&c, &db.path)?, c)));
        if opened.is_err() && !has_log(&db.path)? {
            db.access = Access::Immutable;
            opened = db.connect().and_then(|c| Ok((version(&c, &db.path)?, c)));
        }
        let (version, connection) = opened.map_err(|error| db.explain(error))?;
        db.current = version == VERSION;
        db.setup = schema::stand_in(version).ok_or_else(|| db.wrong_version(version))?;
        let has_stale = crate::durability::has_stale(&connection, boot_id);
        if has_stale.map_err(|error| db.explain(error))? {
            db.setup.push_str(&crate::durability::hiding_views(boot_id));
        }
        let set_up = connection.execute_batch(&db.setup).sql(|| at("read database", &db.path));
        set_up.map_err(|error| db.explain(error))?;
        db.give_back(connection);
        Ok(db)
    }

    fn new(root: &Path, access: Access, synchronous: &'static str) -> Self {
        Self {
            path: root.join("meta.db"),
            access,
            synchronous,
            current: true,
            setup: String::new(),
            idle: Mutex::default(),
            gate: Mutex::default(),
            durable: AtomicBool::new(false),
        }
    }

    /// Reads one consistent state of the metadata.
    ///
    /// # Errors
    /// What `f` returns; `Busy` where the database stays locked for 30 s; `Storage`.
    pub fn read<T>(&self, f: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let read = |connection: &Connection| {
            let transaction = connection
                .unchecked_transaction() // DEFERRED: a snapshot for readers, never upgraded
                .sql(|| at("read database", &self.path))?;
            let value = f(&transaction)?;
            transaction.finish().sql(|| at("read database", &self.path))?;
            Ok(value)
        };
        self.with(read).map_err(|error| self.explain(error))
    }

    /// Changes the metadata in one transaction: all that `f` does is done, durably, or none of it.
    ///
    /// `f` does no I/O but `stat`, `link` and `rename`, and does not call [`Db::write`].
    ///
    /// # Errors
    /// What `f` returns; `Busy` where the database stays locked for 30 s; `Storage` where the disk
    /// fails or the store is read-only.
    pub fn write<T>(&self, f: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        self.try_write(f).map_err(|error| self.explain(error))
    }

    /// As [`Db::write`], for what a power cut may take back: it is on the disk with the next durable
    /// change, of whatever process, or not at all.
    ///
    /// # Errors
    /// As [`Db::write`].
    pub fn write_lazily<T>(&self, f: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        self.try_write_lazily(f).map_err(|error| self.explain(error))
    }

    /// As [`Db::write_freeing`], for what a power cut may take back, as [`Db::write_lazily`].
    ///
    /// # Errors
    /// As [`Db::write`].
    pub fn write_freeing_lazily<T>(
        &self,
        mut f: impl FnMut(&Transaction<'_>) -> Result<T>,
    ) -> Result<T> {
        reserve::with(self.root(), || self.try_write_lazily(&mut f))
            .map_err(|error| self.explain(error))
    }

    /// As [`Db::write`], for a change that lets space be freed: on a full disk it uses the reserve.
    ///
    /// `f` may run twice; what its first run did to files is not undone.
    ///
    /// # Errors
    /// As [`Db::write`].
    pub fn write_freeing<T>(&self, mut f: impl FnMut(&Transaction<'_>) -> Result<T>) -> Result<T> {
        reserve::with(self.root(), || self.try_write(&mut f)).map_err(|error| self.explain(error))
    }

    fn try_write<T>(&self, f: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        self.durable.store(true, Ordering::Relaxed);
        self.with(|connection| self.change(connection, f))
    }

    fn try_write_lazily<T>(&self, f: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        self.with(|connection| {
            let set = |level| {
                let path = || at("write database", &self.path);
                connection.pragma_update(None, "synchronous", level).sql(path)
            };
            set("NORMAL")?;
            let result = self.change(connection, f);
            set(self.synchronous)?;
            result
        })
    }

    /// Lends a connection. It is kept for the next caller unless the database itself has failed: to
    /// open another one costs more than most calls, and to close the last one writes the log back.
    fn with<T>(&self, f: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let connection = self.take()?;
        let result = f(&connection);
        let sound = match &result {
            Ok(_) => true,
            Err(error) => error.find::<rusqlite::Error>().is_none() && connection.is_autocommit(),
        };
        if sound {
            self.give_back(connection);
        }
        result
    }

    fn change<T>(
        &self,
        connection: &Connection,
        f: impl FnOnce(&Transaction<'_>) -> Result<T>,
    ) -> Result<T> {
        let what = || at("write database", &self.path);
        if self.is_read_only() {
            return Err(Error::new(ErrorKind::Storage, at("write read-only database", &self.path)));
        }
        let _gate = self.enter()?;
        let transaction =
            Transaction::new_unchecked(connection, TransactionBehavior::Immediate).sql(what)?;
        let value = f(&transaction)?;
        transaction.commit().sql(what)?;
        Ok(value)
    }

    /// Fails where only what frees space may still be written.
    pub(crate) fn demand_space(&self) -> Result<()> {
        reserve::demand(self.root())
    }

    fn root(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    fn explain(&self, error: Error) -> Error {
        name_damage(reserve::explain(error, self.root()), &self.path)
    }

    /// Whether the database has the tables of this program's version, none of them made in memory.
    pub(crate) fn is_current(&self) -> bool {
        self.current
    }

    /// Whether [`Db::write`] always fails.
    pub(crate) fn is_read_only(&self) -> bool {
        self.access != Access::Write
    }

    fn take(&self) -> Result<Connection> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(|| self.connect(), Ok)
    }

    /// Keeps a connection for the next caller.
    fn give_back(&self, connection: Connection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }

    fn connect(&self) -> Result<Connection> {
        let connection = match self.access {
            Access::Write => connect(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE)?,
            Access::Read => connect(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY)?,
            Access::Immutable => connect(
                Path::new(&immutable_uri(&self.path)),
                OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI,
            )?,
        };
        // A pull has some dozens of statements, some of which come again and again.
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        let configure = || {
            connection.pragma_update(None, "synchronous", self.synchronous)?;
            connection.pragma_update(None, "foreign_keys", true)?;
            connection.pragma_update(None, "temp_store", "MEMORY")?;
            connection.execute_batch(&self.setup)
        };
        configure().sql(|| at("open database", &self.path))?;
        Ok(connection)
    }

    fn enter(&self) -> Result<Gate<'_>> {
        let mut slot = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.path.with_file_name("meta.lock");
        if slot.is_none() {
            *slot = Some(lock_file(&path)?);
        }
        if let Some(file) = slot.as_ref() {
            lock(file).context(ErrorKind::Storage, || at("lock", &path))?;
        }
        Ok(Gate(slot))
    }

    fn wrong_version(&self, found: i64) -> Error {
        Error::new(
            ErrorKind::Storage,
            format!(
                "open database {}: database version {found}, this program knows {VERSION}",
                self.path.display()
            ),
        )
    }
}

/// Who waited for the disk at no time does not wait for it at the end either: the log is then written
/// back by somebody else, until it is large.
impl Drop for Db {
    fn drop(&mut self) {
        let is_lazy = !self.durable.load(Ordering::Relaxed);
        if self.access == Access::Write
            && is_lazy
            && log_bytes(&self.path).is_ok_and(|n| n < SMALL_LOG)
        {
            let idle = self.idle.get_mut().unwrap_or_else(PoisonError::into_inner);
            for connection in idle {
                let config = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
                if let Err(error) = connection.set_db_config(config, true) {
                    tracing::debug!(%error, "the log is written back");
                }
            }
        }
    }
}

/// The turn to write; dropped, the next in the queue has it.
struct Gate<'a>(MutexGuard<'a, Option<File>>);

impl Drop for Gate<'_> {
    fn drop(&mut self) {
        if let Some(file) = self.0.take() {
            // Closing would unlock as well, except while a child between fork and exec has a copy.
            match rustix::fs::flock(&file, FlockOperation::Unlock) {
                Ok(()) => *self.0 = Some(file),
                Err(error) => tracing::debug!(%error, "unlock meta.lock"),
            }
        }
    }
}

/// Opens (and makes, where missing) `meta.lock`.
pub(crate) fn lock_file(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .context(ErrorKind::Storage, || at("open", path))
}

/// Waits for the exclusive lock. Held for short times only, so the wait can't be cancelled.
pub(crate) fn lock(file: &File) -> io::Result<()> {
    Ok(rustix::io::retry_on_intr(|| rustix::fs::flock(file, FlockOperation::LockExclusive))?)
}

/// Gives an SQLite error its kind: `Busy` for a lock that another holds, else `Storage`.
pub(crate) trait SqlContext<T> {
    /// Wraps the error; `message` says verb, object and value in lower case.
    ///
    /// # Errors
    /// The wrapped error, where `self` was one.
    fn sql(self, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T> SqlContext<T> for rusqlite::Result<T> {
    fn sql(self, message: impl FnOnce() -> String) -> Result<T> {
        let kind = match &self {
            Err(error) => match error.sqlite_error_code() {
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => ErrorKind::Busy,
                _ => ErrorKind::Storage,
            },
            Ok(_) => ErrorKind::Storage,
        };
        self.context(kind, message)
    }
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .sql(|| at("open database", path))?;
    connection.busy_timeout(BUSY_TIMEOUT).sql(|| at("open database", path))?;
    Ok(connection)
}

fn version(connection: &Connection, path: &Path) -> Result<i64> {
    connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .sql(|| at("read database", path))
}

/// Whether the write-ahead log holds anything that is not yet in the database itself.
fn has_log(path: &Path) -> Result<bool> {
    log_bytes(path).map(|bytes| bytes > 0)
}

/// The size of the write-ahead log; 0 where there is none.
fn log_bytes(path: &Path) -> Result<u64> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let log = PathBuf::from(log);
    match std::fs::metadata(&log) {
        Ok(meta) => Ok(meta.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error).context(ErrorKind::Storage, || at("stat", &log)),
    }
}

fn immutable_uri(path: &Path) -> String {
    let mut uri = String::from("file:");
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    uri + "?immutable=1"
}

fn at(verb: &str, path: &Path) -> String {
    format!("{verb} {}", path.display())
}
