//! What lies in a store's directories and has no row.

use std::fs::DirEntry;
use std::io;
use std::path::{Path, PathBuf};

use dist_core::{Context as _, Digest, ErrorKind, Result};

use super::{Checked, Finding, Problem, Subject};
use crate::blobs::{known, open_file};
use crate::fsio::{self, at};
use crate::{Store, locks};

/// What a root directory may hold.
const ROOT: [&str; 15] = [
    "format",
    "format.new",
    "meta.db",
    "meta.db-wal",
    "meta.db-shm",
    "meta.lock",
    "reserve",
    "reserve.new",
    "uuid",
    "containers",
    "content",
    "snapshots",
    "locks",
    "quarantine",
    "trash",
];

/// What an ingest may hold.
const INGEST: [&str; 11] = [
    "ref",
    "namespace",
    "data",
    "shared",
    "link",
    "total",
    "expected",
    "startedat",
    "updatedat",
    "state",
    "leased",
];

impl Store {
    pub(super) fn check_files(&self, checked: &mut Checked) -> Result<()> {
        let root = self.root();
        strays(root, checked, |name| ROOT.contains(&name) || name == "lost+found")?;
        let content = root.join("content");
        strays(&content, checked, |name| matches!(name, "blobs" | "ingest"))?;
        let blobs = content.join("blobs");
        strays(&blobs, checked, |name| matches!(name, "sha256" | "sha512"))?;
        for algorithm in ["sha256", "sha512"] {
            self.check_blob_dir(algorithm, &blobs.join(algorithm), checked)?;
        }
        strays(&content.join("ingest"), checked, is_hash)?;
        for entry in entries(&content.join("ingest"))? {
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_hash(&name(&entry)) && is_dir {
                strays(&entry.path(), checked, |name| INGEST.contains(&name))?;
            } else if is_hash(&name(&entry)) {
                checked.add(Problem::Stray, Subject::Path(entry.path()), "no ingest is a file");
            }
        }
        strays(&root.join("locks"), checked, is_hash)?;
        for entry in entries(&root.join("locks"))? {
            if is_hash(&name(&entry)) && is_free(&entry.path())? {
                checked.add(Problem::Lock, Subject::Path(entry.path()), "");
            }
        }
        // What a check that was killed had unpacked, to compare it.
        for entry in entries(&root.join("quarantine"))? {
            if name(&entry).starts_with("fsck-") && is_free(&entry.path())? {
                checked.add(Problem::Trash, Subject::Path(entry.path()), "");
            }
        }
        Ok(())
    }

    fn check_blob_dir(&self, algorithm: &str, dir: &Path, checked: &mut Checked) -> Result<()> {
        let digest = |name: &str| format!("{algorithm}:{name}").parse::<Digest>().ok();
        strays(dir, checked, |name| digest(name).is_some())?;
        for entry in entries(dir)? {
            let Some(digest) = digest(&name(&entry)) else { continue };
            if self.db().read(|connection| known(connection, &digest))?.is_none() {
                checked.add(Problem::BlobUnowned, Subject::Path(entry.path()), "");
            }
        }
        Ok(())
    }

    /// Removes a leftover, if it is still one. What may be somebody's goes to `ROOT/quarantine`:
    /// returns where it is there.
    ///
    /// # Errors
    /// `Storage`.
    pub fn remove_leftover(&self, finding: &Finding) -> Result<Option<PathBuf>> {
        self.check_writable()?;
        let Subject::Path(path) = &finding.subject else { return Ok(None) };
        match finding.problem {
            Problem::BlobUnowned => self.remove_unowned_at(path)?,
            Problem::Lock => remove_lock(path)?,
            Problem::Trash if is_free(path)? => fsio::remove_all(path)?,
            Problem::Stray => return fsio::set_aside(path, &self.root().join("quarantine")),
            _ => (),
        }
        Ok(None)
    }

    fn remove_unowned_at(&self, path: &Path) -> Result<()> {
        let text = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
        let digest = path.parent().and_then(text).zip(text(path));
        let Some(digest) = digest.and_then(|(kind, hex)| format!("{kind}:{hex}").parse().ok())
        else {
            return Ok(());
        };
        self.remove_unowned(&digest)
    }
}

/// Notes the names in a directory that are not `expected`; a directory that is missing has none.
fn strays(dir: &Path, checked: &mut Checked, expected: impl Fn(&str) -> bool) -> Result<()> {
    for entry in entries(dir)? {
        if !expected(&name(&entry)) {
            checked.add(Problem::Stray, Subject::Path(entry.path()), "");
        }
    }
    Ok(())
}

fn entries(dir: &Path) -> Result<Vec<DirEntry>> {
    let list = || std::fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>();
    match list() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(Vec::new()),
        list => list.context(ErrorKind::Storage, || at("list", dir)),
    }
}

fn name(entry: &DirEntry) -> String {
    entry.file_name().to_string_lossy().into_owned()
}

fn is_hash(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Removes the lock at `path`, under it, if nobody holds it.
fn remove_lock(path: &Path) -> Result<()> {
    let file = match open_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file.context(ErrorKind::Storage, || at("open", path))?,
    };
    let free = locks::try_exclusive(&file).context(ErrorKind::Storage, || at("lock", path))?;
    if free && locks::leads_to(path, &file)? {
        fsio::remove_all(path)?;
    }
    Ok(())
}

/// Whether nobody holds the lock at `path`.
fn is_free(path: &Path) -> Result<bool> {
    match open_file(path) {
        Ok(file) => locks::try_exclusive(&file).context(ErrorKind::Storage, || at("lock", path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).context(ErrorKind::Storage, || at("open", path)),
    }
}
