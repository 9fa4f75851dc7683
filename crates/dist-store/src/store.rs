//! Opening, and making, the root directory.
//!
//! A store is made under an exclusive `flock` on `meta.lock`: directories, database, and last the
//! `format` file. One that has its `format` is opened without any lock.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dist_core::{Context as _, Error, ErrorKind, Result, ResultExt as _, Stage, enter};
use rustix::fs::Access;
use rustix::io::Errno;

use crate::check::EmptyDatabase;
use crate::db::{self, Db};
use crate::format::{self, Allowed};
use crate::fsio::{self, at};
use crate::{Durability, ImageStore, Removal, Scope, durability, reserve};

const DIRS: [&str; 9] = [
    "content",
    "content/blobs",
    "content/blobs/sha256",
    "content/blobs/sha512",
    "content/ingest",
    "snapshots",
    "locks",
    "quarantine",
    "trash",
];

/// Whether a store is made, changed or only read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OpenMode {
    /// It is made where it is missing.
    #[default]
    Create,
    /// It must be there.
    Existing,
    /// It must be there and nothing in it is changed.
    ReadOnly,
}

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// How much is on the disk before a call answers.
    pub durability: Durability,
    /// Whether it may be made or changed.
    pub mode: OpenMode,
    /// The file with the id of the running boot; another one only in tests.
    pub boot_id: PathBuf,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            durability: Durability::default(),
            mode: OpenMode::default(),
            boot_id: "/proc/sys/kernel/random/boot_id".into(),
        }
    }
}

/// One root directory, open. Clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
    pub(crate) removal: Removal,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    durability: Durability,
    read_only: bool,
    boot_id: String,
    db: Arc<Db>,
    /// One directory of every file system that the store lies on, opened before anything is
    /// written: `syncfs` on it reports every write error since.
    file_systems: Vec<(PathBuf, File)>,
}

impl Drop for Inner {
    /// Makes the reserve again where it was given away and there is room now.
    fn drop(&mut self) {
        if !self.read_only
            && self.root.join("format").exists()
            && let Err(error) = self.db.demand_space()
        {
            tracing::debug!(?error, "the store has no reserve");
        }
    }
}

impl Store {
    /// Opens the store at `root`, and makes it if `options` say so.
    ///
    /// A store on a read-only mount, or without write permission, is opened for reading. Rows that
    /// an unclean stop left undurable are dropped, directories that somebody removed are made again.
    ///
    /// # Errors
    /// `NotFound` where there is no store and none is to be made; `FailedPrecondition` where one is
    /// to be made in a directory with other things in it; `Storage` for a newer format, a network
    /// file system, a lost database, and where the disk fails.
    pub fn open(root: &Path, options: StoreOptions) -> Result<Self> {
        let root = std::path::absolute(root)
            .context(ErrorKind::InvalidArgument, || at("open store", root))?;
        if options.mode == OpenMode::Create && !root.exists() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&root)
                .context(ErrorKind::Storage, || at("create store", &root))?;
        }
        let mut allowed = format::read(&root)?;
        let writable = options.mode != OpenMode::ReadOnly && is_writable(&root)?;
        if allowed.is_none() && options.mode == OpenMode::Create {
            if !writable {
                return Err(Error::new(ErrorKind::Storage, at("create store", &root))
                    .with_source(io::Error::from(io::ErrorKind::PermissionDenied)));
            }
            refuse_network(&root)?;
            create(&root)?;
            allowed = format::read(&root)?;
        }
        let Some(allowed) = allowed else {
            let message = format!("open store {}: there is none", root.display());
            return Err(Error::new(ErrorKind::NotFound, message));
        };
        refuse_network(&root)?;
        let boot_id = durability::read_boot_id(&options.boot_id)?;
        let read_only = !writable || allowed == Allowed::Read;
        check_database(&root)?;
        if !read_only {
            make_dirs(&root)?;
        }
        let file_systems = if read_only { Vec::new() } else { file_systems(&root)? };
        let db = if read_only {
            Db::open_read_only(&root, &boot_id)?
        } else {
            Db::open(&root, options.durability != Durability::None)?
        };
        if !read_only {
            if let Err(error) = db.demand_space() {
                tracing::debug!(?error, "the store has no reserve");
            }
            drop_stale(&db, &boot_id).during(|| at("open store", &root))?;
        }
        let inner = Inner {
            root,
            durability: options.durability,
            read_only,
            boot_id,
            db: Arc::new(db),
            file_systems,
        };
        Ok(Self { inner: Arc::new(inner), removal: Removal::default() })
    }

    /// The root directory, absolute.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// How much is on the disk before a call answers.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.inner.durability
    }

    /// Whether nothing can be written.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.inner.read_only
    }

    /// The metadata.
    #[must_use]
    pub fn db(&self) -> &Arc<Db> {
        &self.inner.db
    }

    /// The images of a namespace. Those that expire go into the scope's lease.
    #[must_use]
    pub fn images(&self, scope: impl Into<Scope>) -> ImageStore {
        ImageStore::new(self.inner.db.clone(), scope.into())
    }

    /// The id of the running boot, as rows that are not yet durable carry it.
    #[must_use]
    pub fn boot_id(&self) -> &str {
        &self.inner.boot_id
    }

    /// Fails where nothing can be written.
    ///
    /// # Errors
    /// `Storage`.
    pub fn check_writable(&self) -> Result<()> {
        if self.inner.read_only {
            let message = format!("write store {}: it is read-only", self.inner.root.display());
            return Err(Error::new(ErrorKind::Storage, message));
        }
        Ok(())
    }

    /// Writes all that waits for the store's disks, of every process.
    pub(crate) fn sync_file_systems(&self) -> Result<()> {
        let _sync = enter(Stage::Sync);
        for (path, dir) in &self.inner.file_systems {
            rustix::fs::syncfs(dir)
                .context(ErrorKind::Storage, || at("sync the file system of", path))?;
        }
        Ok(())
    }
}

fn drop_stale(db: &Db, boot_id: &str) -> Result<()> {
    if db.read(|connection| durability::has_stale(connection, boot_id))? {
        db.write_freeing(|transaction| durability::drop_stale(transaction, boot_id))?;
    }
    Ok(())
}

/// Makes the store, or waits for the process that does.
fn create(root: &Path) -> Result<()> {
    let path = root.join("meta.lock");
    check_empty(root)?;
    let gate = db::lock_file(&path)?;
    db::lock(&gate).context(ErrorKind::Storage, || at("lock", &path))?;
    if format::read(root)?.is_some() {
        return Ok(());
    }
    make_dirs(root)?;
    // Whoever makes snapshots locks it.
    db::lock_file(&root.join("snapshots/lock"))?;
    Db::create(root).map_err(|error| reserve::explain(error, root))?;
    for dir in ["content/blobs", "content"] {
        fsio::sync_dir(&root.join(dir))?;
    }
    format::write(root)?;
    if let Some(parent) = root.parent() {
        fsio::sync_dir(parent)?;
    }
    crate::locks::unlock(&gate);
    Ok(())
}

/// Makes the directories that are missing, in a new store or where somebody removed one.
fn make_dirs(root: &Path) -> Result<()> {
    DIRS.iter().try_for_each(|dir| fsio::make_dir(&root.join(dir)).map(drop))
}

/// Fails where a store lost its database: a new one would not know what the files belong to.
fn check_database(root: &Path) -> Result<()> {
    let path = root.join("meta.db");
    match std::fs::metadata(&path) {
        Ok(meta) if meta.len() == 0 => {
            let message = at("open database", &path);
            Err(Error::new(ErrorKind::Storage, message).with_source(EmptyDatabase))
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::new(
            ErrorKind::Storage,
            format!(
                "open store {}: its database {} is gone, restore it or move the store away",
                root.display(),
                path.display()
            ),
        )),
        Err(error) => Err(error).context(ErrorKind::Storage, || at("stat", &path)),
    }
}

/// Refuses to make a store among other things: a mistyped root should not fill a home directory.
fn check_empty(root: &Path) -> Result<()> {
    let entries = std::fs::read_dir(root).context(ErrorKind::Storage, || at("list", root))?;
    for entry in entries {
        let name = entry.context(ErrorKind::Storage, || at("list", root))?.file_name();
        let name = name.to_string_lossy();
        let ours = name == "lost+found"
            || name.starts_with("meta.")
            || name.starts_with("format")
            || name.starts_with("reserve")
            || DIRS.contains(&&*name);
        if !ours {
            let message = format!(
                "create store {}: the directory is not empty (it holds {name:?})",
                root.display()
            );
            return Err(Error::new(ErrorKind::FailedPrecondition, message));
        }
    }
    Ok(())
}

fn is_writable(root: &Path) -> Result<bool> {
    match rustix::fs::access(root, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => Ok(true),
        Err(Errno::ROFS | Errno::ACCESS | Errno::NOENT) => Ok(false),
        Err(error) => Err(error).context(ErrorKind::Storage, || at("open store", root)),
    }
}

/// Refuses file systems without coherent shared memory or `flock` between machines.
fn refuse_network(root: &Path) -> Result<()> {
    const REFUSED: [(u32, &str); 5] = [
        (0x6969, "NFS"),
        (0x0102_1997, "9p"),
        (0xff53_4d42, "CIFS"),
        (0xfe53_4d42, "SMB2"),
        (0x517b, "SMB"),
    ];
    let stat = rustix::fs::statfs(root).context(ErrorKind::Storage, || at("open store", root))?;
    #[expect(clippy::cast_possible_truncation, reason = "magic numbers have 32 bits")]
    #[expect(clippy::cast_sign_loss, reason = "magic numbers have 32 bits")]
    let magic = stat.f_type as u32;
    match REFUSED.iter().find(|(refused, _)| *refused == magic) {
        None => Ok(()),
        Some((_, name)) => Err(Error::new(
            ErrorKind::Storage,
            format!("open store {}: a store can't lie on {name}", root.display()),
        )),
    }
}

fn file_systems(root: &Path) -> Result<Vec<(PathBuf, File)>> {
    let mut found: Vec<(u64, PathBuf, File)> = Vec::new();
    for dir in ["snapshots", "content"] {
        let path = root.join(dir);
        let open = || {
            let file = File::open(&path)?;
            Ok((file.metadata()?.dev(), file))
        };
        let (device, file) = open()
            .map_err(|error: io::Error| error)
            .context(ErrorKind::Storage, || at("open", &path))?;
        if found.iter().all(|(known, ..)| *known != device) {
            found.push((device, path, file));
        }
    }
    Ok(found.into_iter().map(|(_, path, file)| (path, file)).collect())
}
