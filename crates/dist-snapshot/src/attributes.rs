//! Extended attributes of files that are open and of files that can't be opened.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::tree;

/// Enough for almost every list and value; the kernel allocates as much as it is offered.
const USUAL_BYTES: usize = 512;
/// The kernel's own limit for a list and for a value.
const LIMIT_BYTES: usize = 64 << 10;

/// A file whose attributes are wanted; links are never followed.
pub(crate) enum Node<'a> {
    /// Open for reading or writing.
    Open(BorrowedFd<'a>),
    /// Reached through an open directory.
    Named(PathBuf),
}

impl Node<'_> {
    /// `name` in the open directory `dir`.
    pub(crate) fn named(dir: BorrowedFd<'_>, name: &CStr) -> Self {
        Self::Named(PathBuf::from(tree::proc_path(dir)).join(OsStr::from_bytes(name.to_bytes())))
    }

    fn list(&self) -> io::Result<Vec<CString>> {
        let list = read(|buffer| match self {
            Node::Open(file) => rustix::fs::flistxattr(file, buffer),
            Node::Named(path) => rustix::fs::llistxattr(path, buffer),
        });
        match list {
            Ok(list) => list
                .split(|byte| *byte == 0)
                .filter(|name| !name.is_empty())
                .map(|name| Ok(CString::new(name)?))
                .collect(),
            Err(Errno::OPNOTSUPP) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    fn get(&self, name: &CStr) -> rustix::io::Result<Vec<u8>> {
        read(|buffer| match self {
            Node::Open(file) => rustix::fs::fgetxattr(file, name, buffer),
            Node::Named(path) => rustix::fs::lgetxattr(path, name, buffer),
        })
    }

    fn set(&self, name: &CStr, value: &[u8]) -> rustix::io::Result<()> {
        match self {
            Node::Open(file) => rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()),
            Node::Named(path) => rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()),
        }
    }
}

/// Reads into a small buffer, and into the largest where that was too small.
fn read(
    mut call: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; USUAL_BYTES];
    let length = match call(&mut buffer) {
        Err(Errno::RANGE) => {
            buffer.resize(LIMIT_BYTES, 0);
            call(&mut buffer)?
        }
        other => other?,
    };
    buffer.truncate(length);
    Ok(buffer)
}

/// Gives `to` the extended attributes of `from` whose names are `wanted`.
///
/// A security module's label is left to the module where it does not allow copying it.
pub(crate) fn copy(
    from: &Node<'_>,
    to: &Node<'_>,
    wanted: impl Fn(&[u8]) -> bool,
) -> io::Result<()> {
    for name in from.list()? {
        if !wanted(name.to_bytes()) {
            continue;
        }
        let value = match from.get(&name) {
            Ok(value) => value,
            Err(Errno::NODATA) => continue,
            Err(error) => return Err(error.into()),
        };
        match to.set(&name, &value) {
            Ok(()) => (),
            Err(_) if name.as_c_str() == c"security.selinux" => (),
            Err(error) => {
                let name = name.to_string_lossy().into_owned();
                let kind = io::Error::from(error).kind();
                return Err(io::Error::new(kind, SetError { name, source: error }));
            }
        }
    }
    Ok(())
}

/// Which attribute could not be set.
#[derive(Debug, thiserror::Error)]
#[error("set extended attribute {name}")]
struct SetError {
    name: String,
    source: Errno,
}
