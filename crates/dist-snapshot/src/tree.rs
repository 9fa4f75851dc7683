//! Directory trees of any depth, walked with few open files.
//!
//! Layers are the work of strangers: a tree may be thousands of directories deep, with names that
//! exceed any path limit together. So nothing here recurses, nothing builds a path, and every name
//! is opened relative to its directory without following links. The way back up leads through
//! `..`, checked against the device and inode that were seen on the way down.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir};
use rustix::io::Errno;

/// How a directory is opened for reading.
pub(crate) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How many directories above the current one stay open.
const KEPT_OPEN: usize = 32;

/// A position in a tree: a directory and the way back to where the walk began.
pub(crate) struct Descent {
    current: OwnedFd,
    above: Vec<Frame>,
}

struct Frame {
    /// Closed for the directories far above, so that a deep tree does not exhaust the process.
    dir: Option<OwnedFd>,
    identity: (u64, u64),
}

impl Descent {
    /// Begins at `root`.
    pub(crate) fn new(root: OwnedFd) -> Self {
        Self { current: root, above: Vec::new() }
    }

    /// The directory reached.
    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.current.as_fd()
    }

    /// Goes down into `child`, an open directory in the current one.
    pub(crate) fn descend(&mut self, child: OwnedFd) -> io::Result<()> {
        let identity = identity(self.current.as_fd())?;
        let parent = std::mem::replace(&mut self.current, child);
        self.above.push(Frame { dir: Some(parent), identity });
        if let Some(far) = self.above.len().checked_sub(KEPT_OPEN + 1) {
            self.above[far].dir = None;
        }
        Ok(())
    }

    /// Goes back up. False at the root, where nothing changes.
    pub(crate) fn ascend(&mut self) -> io::Result<bool> {
        let Some(frame) = self.above.pop() else { return Ok(false) };
        self.current = match frame.dir {
            Some(dir) => dir,
            None => {
                let dir = rustix::fs::openat(&self.current, c"..", DIRECTORY, Mode::empty())?;
                if identity(dir.as_fd())? != frame.identity {
                    return Err(io::Error::other("a directory was moved during the walk"));
                }
                dir
            }
        };
        Ok(true)
    }
}

fn identity(dir: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(dir)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Opens the directory `path`, which is one of ours and no link.
pub(crate) fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty())?)
}

/// The entries of a freshly opened directory, `.` and `..` left out.
pub(crate) fn entries(dir: BorrowedFd<'_>) -> io::Result<Vec<(CString, FileType)>> {
    let mut buffer = Vec::with_capacity(16 << 10);
    let mut reader = RawDir::new(dir, buffer.spare_capacity_mut());
    let mut entries = Vec::new();
    while let Some(entry) = reader.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            entries.push((name.to_owned(), entry.file_type()));
        }
    }
    Ok(entries)
}

/// The path of `dir` for the calls that know no descriptors.
pub(crate) fn proc_path(dir: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", dir.as_raw_fd())
}

/// Removes `name` in `parent` with all that is below it, whatever its permissions.
///
/// What another process removes meanwhile is no error.
pub(crate) fn remove(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => (),
        Err(error) => return Err(error.into()),
    }
    let Some(root) = open_forced(parent, name)? else { return Ok(()) };
    let mut pending = vec![unlink_files(root.as_fd())?];
    let mut descent = Descent::new(root);
    let mut names: Vec<CString> = Vec::new();
    while let Some(level) = pending.last_mut() {
        if let Some(name) = level.pop() {
            if let Some(child) = open_forced(descent.dir(), &name)? {
                pending.push(unlink_files(child.as_fd())?);
                descent.descend(child)?;
                names.push(name);
            }
        } else {
            pending.pop();
            if let Some(name) = names.pop() {
                descent.ascend()?;
                remove_empty(descent.dir(), &name)?;
            }
        }
    }
    remove_empty(parent, name)
}

fn remove_empty(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Opens a directory that is to be emptied; `None` where it is gone.
fn open_forced(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<OwnedFd>> {
    let dir = match rustix::fs::openat(parent, name, DIRECTORY, Mode::empty()) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::ACCESS) => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let handle = rustix::fs::openat(parent, name, flags, Mode::empty())?;
            rustix::fs::chmod(proc_path(handle.as_fd()), Mode::RWXU)?;
            rustix::fs::openat(parent, name, DIRECTORY, Mode::empty())?
        }
        Err(error) => return Err(error.into()),
    };
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&dir)?.st_mode);
    if !mode.contains(Mode::RWXU) {
        // Where this is not allowed and needed, the unlink that follows says so.
        let _ = rustix::fs::fchmod(&dir, Mode::RWXU);
    }
    Ok(Some(dir))
}

/// Unlinks everything in `dir` but its directories, whose names it returns.
fn unlink_files(dir: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut directories = Vec::new();
    for (name, kind) in entries(dir)? {
        if kind == FileType::Directory {
            directories.push(name);
            continue;
        }
        match rustix::fs::unlinkat(dir, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => (),
            Err(Errno::ISDIR) => directories.push(name),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(directories)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn removes_deep_wide_and_closed_trees() {
        let temp = tempfile::tempdir().unwrap();
        let top = open_dir(temp.path()).unwrap();
        rustix::fs::mkdirat(&top, c"tree", Mode::RWXU).unwrap();
        let name = CString::new("d".repeat(200)).unwrap();
        let mut dir = rustix::fs::openat(&top, c"tree", DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&dir, &name, Mode::RWXU).unwrap();
            rustix::fs::mkdirat(&dir, c"side", Mode::empty()).unwrap();
            dir = rustix::fs::openat(&dir, &name, DIRECTORY, Mode::empty()).unwrap();
        }
        let shut = temp.path().join("tree/shut");
        std::fs::create_dir(&shut).unwrap();
        std::fs::write(shut.join("file"), b"x").unwrap();
        std::os::unix::fs::symlink("/", shut.join("link")).unwrap();
        std::fs::set_permissions(&shut, PermissionsExt::from_mode(0o000)).unwrap();
        drop(dir);
        remove(top.as_fd(), c"tree").unwrap();
        assert!(!temp.path().join("tree").exists());
        remove(top.as_fd(), c"tree").unwrap();
    }

    #[test]
    fn never_follows_a_link() {
        let temp = tempfile::tempdir().unwrap();
        let kept = temp.path().join("kept");
        std::fs::create_dir(&kept).unwrap();
        std::fs::write(kept.join("file"), b"x").unwrap();
        std::os::unix::fs::symlink(&kept, temp.path().join("link")).unwrap();
        let top = open_dir(temp.path()).unwrap();
        remove(top.as_fd(), c"link").unwrap();
        assert!(kept.join("file").exists());
    }
}
