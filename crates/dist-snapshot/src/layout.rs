//! How the snapshots of a snapshotter lie on the disk: what is to be known of them without mounting
//! anything.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use dist_core::{Context, ErrorKind, Result, Usage};
use dist_store::Feature;
use rustix::io::Errno;

use crate::dirs::{at, remove_tree};
use crate::usage;

/// Where the files of snapshots are. `fs` is what [`crate::dirs::Dirs::fs`] says of one.
pub(crate) trait Layout: fmt::Debug + Send + Sync {
    /// What older programs must know to find the snapshots.
    fn feature(&self) -> Option<Feature> {
        None
    }

    /// What a snapshot may have beside its directory: what follows the id in the names.
    fn beside(&self) -> &'static [&'static str];

    /// What a snapshot's directory may hold.
    fn inside(&self) -> &'static [&'static str];

    /// What a committed snapshot is.
    fn committed(&self, fs: &Path) -> PathBuf;

    /// Whether what a committed snapshot is can be used, as far as a short look tells.
    fn is_usable(&self, fs: &Path) -> io::Result<bool> {
        match std::fs::symlink_metadata(self.committed(fs)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            meta => meta.map(|_| true),
        }
    }

    /// Whether a committed snapshot needs its directory no more.
    fn has_left_directory(&self, _fs: &Path) -> bool {
        false
    }

    /// What a committed snapshot takes on the disk.
    fn measure(&self, fs: &Path) -> io::Result<Usage>;

    /// Puts what was made anew at `new` beside `fs`, an empty tree at first, in the place of what a
    /// committed snapshot is.
    fn replace(&self, new: &Path, fs: &Path) -> Result<()>;

    /// Whether what is mounted on one of a snapshot's places is the snapshot itself.
    fn is_itself(&self, _place: &Path) -> Result<bool> {
        Ok(false)
    }

    /// Whether a snapshot was mounted on one of its places.
    fn is_attached(&self, _fs: &Path) -> bool {
        false
    }

    /// Unmounts the snapshot from its own places. A process of another mount namespace keeps its own.
    fn detach(&self, _fs: &Path) -> Result<()> {
        Ok(())
    }
}

/// A committed snapshot is its tree.
#[derive(Debug)]
pub(crate) struct Trees;

impl Layout for Trees {
    fn beside(&self) -> &'static [&'static str] {
        &[]
    }

    fn inside(&self) -> &'static [&'static str] {
        &["fs", "new", "old", "work", "links"]
    }

    fn committed(&self, fs: &Path) -> PathBuf {
        fs.to_owned()
    }

    fn measure(&self, fs: &Path) -> io::Result<Usage> {
        usage::measure(fs)
    }

    fn replace(&self, new: &Path, fs: &Path) -> Result<()> {
        let old = fs.with_file_name("old");
        match rustix::fs::rename(fs, &old) {
            Ok(()) | Err(Errno::NOENT) => (),
            Err(error) => return Err(error).context(ErrorKind::Storage, || at("rename", fs)),
        }
        rustix::fs::rename(new, fs).context(ErrorKind::Storage, || at("rename", new))?;
        remove_tree(&old)
    }
}
