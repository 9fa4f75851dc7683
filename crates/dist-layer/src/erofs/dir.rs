//! Directories as images: what was written to the upper directory of an overlay.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use dist_core::{Cancel, Context as _, Error, ErrorKind, Result};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::beside::replace;
use super::format::{BLOCK, device, split_xattr};
use super::tree::{self, Attributes, Body, Children, NodeId, ROOT, Tree, Xattrs};
use super::write::{block_number, write};
use super::{BASE, beside};
use crate::tar::Time;

/// What overlayfs notes for itself in an upper directory and what means nothing in a lower one.
const NOTES: [&[u8]; 8] = [
    b"trusted.overlay.origin",
    b"trusted.overlay.impure",
    b"trusted.overlay.nlink",
    b"trusted.overlay.upper",
    b"user.overlay.origin",
    b"user.overlay.impure",
    b"user.overlay.nlink",
    b"user.overlay.upper",
];

/// Makes the image that stands for the directory `dir` of what is in it, overlayfs's marks and all.
///
/// Nobody may write in the directory meanwhile. Holes of files become zeros; sockets are left out.
///
/// # Errors
/// `ResourceExhausted` where the image would be larger than 2 TiB; `Unsupported` for an extended
/// attribute that an image can't have; `Storage`.
pub fn write_erofs_dir(dir: &Path, cancel: &Cancel) -> Result<()> {
    replace(&beside::new_image_path(dir), |file| {
        let mut reader = Reader { file, end: BASE, first: HashMap::new(), cancel };
        let tree = reader.tree(dir)?;
        write((&tree, &Children::of(&tree)), file, reader.end, [0; 16])
    })
}

struct Reader<'a> {
    file: &'a File,
    /// Where the next body goes.
    end: u64,
    /// Files with several names that were seen.
    first: HashMap<(u64, u64), NodeId>,
    cancel: &'a Cancel,
}

impl Reader<'_> {
    fn tree(&mut self, dir: &Path) -> Result<Tree> {
        let meta = look(dir)?;
        let mut tree = Tree::new(attributes(dir, &meta)?, false, self.cancel)?;
        let mut next = vec![(dir.to_owned(), ROOT)];
        while let Some((path, id)) = next.pop() {
            let list = || {
                let entries = std::fs::read_dir(&path)?.map(|entry| Ok(entry?.file_name()));
                let mut names = entries.collect::<std::io::Result<Vec<_>>>()?;
                names.sort();
                Ok(names)
            };
            let names = list().map_err(|error| failed("list", &path, error))?;
            for name in names {
                self.cancel.check()?;
                let path = path.join(&name);
                if let Some(child) = self.add(&mut tree, id, &name, &path)? {
                    next.push((path, child));
                }
            }
        }
        Ok(tree)
    }

    /// Adds what is at `path`; returns a directory's node.
    fn add(
        &mut self,
        tree: &mut Tree,
        dir: NodeId,
        name: &OsStr,
        path: &Path,
    ) -> Result<Option<NodeId>> {
        let meta = look(path)?;
        let key = (meta.dev(), meta.ino());
        if !meta.is_dir()
            && meta.nlink() > 1
            && let Some(first) = self.first.get(&key)
        {
            tree.link(dir, name.as_bytes(), *first)?;
            return Ok(None);
        }
        if meta.mode() & 0o170_000 == 0o140_000 {
            return Ok(None); // nobody listens on it any more
        }
        let body = self.body(path, &meta)?;
        let id = tree.add(dir, name.as_bytes(), attributes(path, &meta)?, body)?;
        if meta.is_dir() {
            return Ok(Some(id));
        }
        if meta.nlink() > 1 {
            self.first.insert(key, id);
        }
        Ok(None)
    }

    fn body(&mut self, path: &Path, meta: &Metadata) -> Result<Body<'static>> {
        Ok(match meta.mode() & 0o170_000 {
            tree::DIR => Body::Dir { implicit: false },
            tree::SYMLINK => {
                let target =
                    std::fs::read_link(path).map_err(|error| failed("read", path, error))?;
                Body::Symlink(target.into_os_string().into_vec().into())
            }
            tree::FILE => self.file(path)?,
            tree::CHAR | tree::BLOCK => {
                let (major, minor) =
                    (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
                Body::Device(device(major, minor).ok_or_else(|| {
                    let message = format!("write device {}: no such number", path.display());
                    Error::new(ErrorKind::Unsupported, message)
                })?)
            }
            _ => Body::Device(0),
        })
    }

    /// Copies a file's bytes behind those of the others.
    fn file(&mut self, path: &Path) -> Result<Body<'static>> {
        let start = self.end;
        let mut from = File::options()
            .read(true)
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
            .open(path)
            .map_err(|error| failed("open", path, error))?;
        let mut buffer = vec![0; 256 << 10];
        let mut size = 0;
        loop {
            let count = from.read(&mut buffer).map_err(|error| failed("read", path, error))?;
            if count == 0 {
                break;
            }
            self.cancel.check()?;
            self.file
                .write_all_at(&buffer[..count], start + size)
                .context(ErrorKind::Storage, || "write image".into())?;
            size += count as u64;
        }
        self.end = (start + size).next_multiple_of(BLOCK);
        let block = if size == 0 { 0 } else { block_number(start)? };
        block_number(self.end)?;
        Ok(Body::File { size, block })
    }
}

fn look(path: &Path) -> Result<Metadata> {
    std::fs::symlink_metadata(path).map_err(|error| failed("examine", path, error))
}

fn attributes(path: &Path, meta: &Metadata) -> Result<Attributes> {
    Ok(Attributes {
        mode: meta.mode(),
        uid: meta.uid(),
        gid: meta.gid(),
        mtime: Time { seconds: meta.mtime(), nanos: u32::try_from(meta.mtime_nsec()).unwrap_or(0) },
        xattrs: xattrs(path)?,
    })
}

fn xattrs(path: &Path) -> Result<Xattrs> {
    let mut list = vec![0; 65536];
    let length = match rustix::fs::llistxattr(path, list.as_mut_slice()) {
        Err(Errno::OPNOTSUPP) => 0,
        found => found.map_err(|errno| failed("list attributes of", path, errno.into()))?,
    };
    let mut found = Xattrs::new();
    for key in list[..length].split(|&byte| byte == 0) {
        if key.is_empty() || NOTES.contains(&key) || key == b"security.selinux" {
            continue;
        }
        if split_xattr(key).is_none() {
            let shown = crate::name::escape(key);
            let message =
                format!("write {}: no image can have the attribute {shown}", path.display());
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let mut value = vec![0; 65536];
        let length = rustix::fs::lgetxattr(path, key, value.as_mut_slice())
            .map_err(|errno| failed("read attributes of", path, errno.into()))?;
        found.push((key.into(), value[..length].into()));
    }
    Ok(found)
}

fn failed(what: &str, path: &Path, error: std::io::Error) -> Error {
    let shown: PathBuf = path.into();
    Error::new(ErrorKind::Storage, format!("{what} {}", shown.display())).with_source(error)
}
