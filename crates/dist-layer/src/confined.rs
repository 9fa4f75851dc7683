//! Single files of a tree that somebody else made, read and made as from inside it.

use std::collections::VecDeque;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use dist_core::{Context as _, Error, ErrorKind, Result};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::beneath::{Dir, Missing, Tree, failed};
use crate::name::{escape, join, normalize, split};

/// Symlinks on the way to one file, as the kernel has it.
const LINKS: usize = 40;

/// A tree that nothing leaves: `/` and `..` at the top of a symlink mean its root, as after chroot(2).
#[derive(Debug)]
pub struct Confined(Tree);

impl Confined {
    /// Opens the tree whose root is the directory `root`.
    ///
    /// # Errors
    /// `Storage`.
    pub fn open(root: &Path) -> Result<Self> {
        Tree::open(root).map(Self)
    }

    /// Reads the file at `path`, through symlinks; `None` where there is none, or none that is a
    /// regular file.
    ///
    /// # Errors
    /// `UnsafeLayer` for more symlinks than the kernel would follow; `ResourceExhausted` for more
    /// than `limit` bytes; `Storage`.
    pub fn read(&mut self, path: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some((bytes, shown)) = self.head(path, limit.saturating_add(1))? else {
            return Ok(None);
        };
        if bytes.len() as u64 > limit {
            let message = format!("read {shown}: it has more than {limit} bytes");
            return Err(Error::new(ErrorKind::ResourceExhausted, message));
        }
        Ok(Some(bytes))
    }

    /// As [`read`](Self::read), but no more than the first `most` bytes.
    ///
    /// # Errors
    /// `UnsafeLayer`; `Storage`.
    pub fn read_head(&mut self, path: &str, most: u64) -> Result<Option<Vec<u8>>> {
        Ok(self.head(path, most)?.map(|(bytes, _)| bytes))
    }

    /// The beginning of a file, and how it is called in messages.
    fn head(&mut self, path: &str, most: u64) -> Result<Option<(Vec<u8>, String)>> {
        let Some((dir, name)) = self.find(path.as_bytes())? else { return Ok(None) };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let shown = self.0.show(&dir.path, &name);
        let file = match rustix::fs::openat(&dir.fd, &*name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(failed(errno, format!("open {shown}"))),
        };
        let stat =
            rustix::fs::fstat(&file).map_err(|errno| failed(errno, format!("examine {shown}")))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        std::fs::File::from(file)
            .take(most)
            .read_to_end(&mut bytes)
            .context(ErrorKind::Storage, || format!("read {shown}"))?;
        Ok(Some((bytes, shown)))
    }

    /// Makes the directory at `path` and those above it, as far as they are missing, through
    /// symlinks; their mode is 0755, their owner who makes them.
    ///
    /// # Errors
    /// `FailedPrecondition` where something else is in the way; `UnsafeLayer` for `..` in `path`;
    /// `Storage`.
    pub fn make_dir(&mut self, path: &str) -> Result<()> {
        let path = normalize(path.as_bytes())?;
        let found = self.0.dir(&path, &mut |tree, dir, name, missing| match missing {
            Missing::Nothing => {
                match rustix::fs::mkdirat(&dir.fd, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => Ok(true),
                    Err(errno) => {
                        let message = format!("make directory {}", tree.show(&dir.path, name));
                        Err(failed(errno, message))
                    }
                }
            }
            Missing::Node(_) => Ok(false),
        })?;
        match found {
            Some(_) => Ok(()),
            None => {
                let message = format!("make directory {}: a file is in the way", escape(&path));
                Err(Error::new(ErrorKind::FailedPrecondition, message))
            }
        }
    }

    /// Opens the directory at `path`, through symlinks; `None` where there is none.
    ///
    /// # Errors
    /// `UnsafeLayer`; `Storage`.
    pub fn open_dir(&mut self, path: &str) -> Result<Option<OwnedFd>> {
        let path = normalize(path.as_bytes())?;
        let Some(dir) = self.0.existing(&path)? else { return Ok(None) };
        let shown = || format!("open directory {}", self.0.show(&dir.path, b""));
        dir.fd.try_clone().map(Some).context(ErrorKind::Storage, shown)
    }

    /// The directory that a file is in, and its name there, which is no symlink.
    fn find(&mut self, path: &[u8]) -> Result<Option<(Rc<Dir>, Vec<u8>)>> {
        let mut rest: VecDeque<Vec<u8>> = components(path).collect();
        let (mut dir, mut links) = (self.0.root().clone(), 0);
        while let Some(name) = rest.pop_front() {
            if name == b".." {
                let above = split(&dir.path).0.to_vec();
                let Some(found) = self.0.existing(&above)? else { return Ok(None) };
                dir = found;
                continue;
            }
            let Some(stat) = self.0.try_stat(&dir, &name)? else { return Ok(None) };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
                links += 1;
                if links > LINKS {
                    let message = format!("resolve path {}: too many symlinks", escape(path));
                    return Err(Error::new(ErrorKind::UnsafeLayer, message));
                }
                let target =
                    rustix::fs::readlinkat(&dir.fd, &*name, Vec::new()).map_err(|errno| {
                        failed(errno, format!("read symlink {}", self.0.show(&dir.path, &name)))
                    })?;
                let target = target.into_bytes();
                if target.starts_with(b"/") {
                    dir = self.0.root().clone();
                }
                for component in components(&target).collect::<Vec<_>>().into_iter().rev() {
                    rest.push_front(component);
                }
                continue;
            }
            if rest.is_empty() {
                return Ok(Some((dir, name)));
            }
            let below = join(&dir.path, &name);
            let Some(found) = self.0.existing(&below)? else { return Ok(None) };
            dir = found;
        }
        Ok(None)
    }
}

fn components(path: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    path.split(|&byte| byte == b'/')
        .filter(|component| !matches!(*component, b"" | b"."))
        .map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A root with its neighbour, which nobody may reach.
    fn tree() -> (tempfile::TempDir, Confined) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("usr/etc")).unwrap();
        fs::create_dir(root.join("etc")).unwrap();
        fs::write(root.join("usr/etc/passwd"), "inside").unwrap();
        fs::write(dir.path().join("passwd"), "outside").unwrap();
        let confined = Confined::open(&root).unwrap();
        (dir, confined)
    }

    #[test]
    fn links_stay_inside() {
        let (dir, mut confined) = tree();
        let root = dir.path().join("root");
        for (name, target, inside) in [
            ("a", "/usr/etc/passwd", true),
            ("b", "../../../../../usr/etc/passwd", true),
            ("c", "../usr/./etc//passwd", true),
            ("d", "../../passwd", false),
            ("e", "/../passwd", false),
            ("f", "f", false),
            ("g", "../usr", false),
        ] {
            symlink(target, root.join("etc").join(name)).unwrap();
            let read = confined.read(&format!("/etc/{name}"), 100);
            let read = if name == "f" {
                assert_eq!(read.unwrap_err().kind(), ErrorKind::UnsafeLayer);
                None
            } else {
                read.unwrap()
            };
            assert_eq!(read.as_deref(), inside.then_some(&b"inside"[..]), "{name} -> {target}");
        }
        assert_eq!(confined.read("../passwd", 100).unwrap(), None);
        let error = confined.read("usr/etc/passwd", 3).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    }

    #[test]
    fn a_pipe_is_no_file_and_does_not_block() {
        let (dir, mut confined) = tree();
        let pipe = dir.path().join("root/etc/passwd");
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, mode, 0).unwrap();
        assert_eq!(confined.read("/etc/passwd", 100).unwrap(), None);
    }

    #[test]
    fn directories_are_made_inside() {
        let (dir, mut confined) = tree();
        let root = dir.path().join("root");
        symlink("../../outside", root.join("out")).unwrap();
        symlink("/usr", root.join("var")).unwrap();
        confined.make_dir("/out/work").unwrap();
        confined.make_dir("/var/lib/redis").unwrap();
        confined.make_dir("/").unwrap();
        assert!(root.join("outside/work").is_dir() && root.join("usr/lib/redis").is_dir());
        assert!(!dir.path().join("outside").exists());
        let error = confined.make_dir("/usr/etc/passwd/x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(confined.make_dir("/../x").is_err());
        assert!(confined.open_dir("/var/lib").unwrap().is_some());
        assert!(confined.open_dir("/nothing").unwrap().is_none());
    }
}
