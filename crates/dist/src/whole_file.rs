//! Files that get their names when they are whole.
//!
//! Until then one grows as `.NAME.part` beside its name, locked: of two processes that write the same file
//! the second fails, and what a process left that was killed is taken up or begun anew by the next one.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dist_core::{Context as _, Error, ErrorKind, Result};

/// How many links may lead to one another.
const MOST_LINKS: usize = 8;

/// The part of a file, with what an earlier process left in it.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) file: File,
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Where it goes when it is whole.
    pub(crate) to: PathBuf,
}

impl Part {
    /// Opens and locks the part of the file at `path`. A link stays, and what it leads to is written.
    ///
    /// # Errors
    /// `InvalidArgument` for what is there and can't be replaced: directories, devices, pipes; `Busy`
    /// where another process has it; `Storage`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let (to, name) = place(path)?;
        let path = to.with_file_name(format!(".{name}.part"));
        let what = || format!("open {}", path.display());
        loop {
            let mut options = File::options();
            let file = options.read(true).write(true).create(true).truncate(false).open(&path);
            let file = file.context(ErrorKind::Storage, what)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::new(ErrorKind::Busy, "another process writes it"));
                }
                Err(TryLockError::Error(error)) => {
                    return Err(error).context(ErrorKind::Storage, what);
                }
            }
            // It may have become whole, or gone, before it was locked.
            if is_same(&file, &path).context(ErrorKind::Storage, what)? {
                return Ok(Self { file, path, to });
            }
        }
    }
}

/// Whether what is at a path is this file.
fn is_same(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        there => there.map(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())),
    }
}

/// Where links lead, and the name there.
fn place(path: &Path) -> Result<(PathBuf, String)> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        let Ok(target) = std::fs::read_link(&path) else { break };
        path = path.parent().unwrap_or(Path::new("")).join(target);
    }
    let problem = match std::fs::symlink_metadata(&path) {
        Ok(there) if there.is_dir() => "it is a directory",
        Ok(there) if !there.is_file() => "it is no file, and would have to go",
        _ => match path.file_name().map(|name| name.to_string_lossy().into_owned()) {
            Some(name) => return Ok((path, name)),
            None => "it is a directory",
        },
    };
    Err(Error::new(ErrorKind::InvalidArgument, problem))
}

/// A file that appears when it is whole, in the place of one that was there, and goes where it does not
/// become whole. Pipes and devices are written as they are.
#[derive(Debug)]
pub struct WholeFile {
    file: Arc<File>,
    /// Where it is, and where it goes; nothing for a pipe.
    part: Option<(PathBuf, PathBuf)>,
}

impl WholeFile {
    /// Begins one. Blocks.
    ///
    /// # Errors
    /// `InvalidArgument` for a directory; `Busy` where another process writes it; `Storage`.
    pub fn create(path: &Path) -> Result<Self> {
        let is_special = std::fs::metadata(path).is_ok_and(|there| {
            let kind = there.file_type();
            kind.is_fifo() || kind.is_char_device() || kind.is_block_device() || kind.is_socket()
        });
        if is_special || path.starts_with("/dev") {
            let file = File::options().write(true).open(path);
            let file = file.context(ErrorKind::Storage, || "open it".into())?;
            return Ok(Self { file: Arc::new(file), part: None });
        }
        let Part { file, path, to } = Part::open(path)?;
        let this = Self { file: Arc::new(file), part: Some((path, to)) };
        this.file.set_len(0).context(ErrorKind::Storage, || "empty what was left of it".into())?;
        Ok(this)
    }

    /// Where it is written.
    #[must_use]
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Gives it its name; `durable`, after all of it is on the disk. Blocks.
    ///
    /// # Errors
    /// `Storage`.
    pub fn finish(mut self, durable: bool) -> Result<()> {
        let Some((part, to)) = &self.part else { return Ok(()) };
        let finish = || {
            if durable {
                self.file.sync_all()?;
            }
            std::fs::rename(part, to)
        };
        finish().context(ErrorKind::Storage, || format!("give {} its name", to.display()))?;
        self.part = None;
        Ok(())
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        if let Some((part, _)) = &self.part
            && let Err(error) = std::fs::remove_file(part)
        {
            tracing::warn!(%error, part = %part.display(), "a part of a file stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_file_is_there_when_it_is_whole_and_one_writes_it() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("a.tar"), dir.path().join("link"));
        std::os::unix::fs::symlink("a.tar", &link).unwrap();
        std::fs::write(dir.path().join(".a.tar.part"), "what a killed process left").unwrap();
        let whole = WholeFile::create(&link).unwrap();
        whole.file().as_ref().write_all(b"new").unwrap();
        let busy = WholeFile::create(&path).unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::Busy);
        assert!(!path.exists());
        whole.finish(true).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert!(link.is_symlink());
        drop(WholeFile::create(&path).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"new", "what is not whole replaces nothing");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "a part is left");
        let refused = |path: &Path| WholeFile::create(path).unwrap_err().kind();
        assert_eq!(refused(dir.path()), ErrorKind::InvalidArgument);
        assert_eq!(refused(&dir.path().join("none/a.tar")), ErrorKind::Storage);
    }

    #[test]
    fn what_became_whole_meanwhile_is_not_taken_for_a_part() {
        let dir = tempfile::tempdir().unwrap();
        let (part, path) = (dir.path().join(".a.part"), dir.path().join("a"));
        let file = File::create(&part).unwrap();
        assert!(is_same(&file, &part).unwrap());
        std::fs::rename(&part, &path).unwrap();
        assert!(!is_same(&file, &part).unwrap());
        std::fs::write(&part, "another").unwrap();
        assert!(!is_same(&file, &part).unwrap());
    }
}
