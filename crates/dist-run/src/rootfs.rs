//! What is looked up, and made, in the image's own tree.

use std::os::fd::AsRawFd as _;
use std::path::Path;

use dist_core::{Context as _, ErrorKind, Result};
use dist_layer::Confined;

use crate::{User, UserSpec, resolve_user};

/// Bytes that passwd and group may have.
const LIMIT: u64 = 16 << 20;

/// The tree of a container before it runs.
#[derive(Debug)]
pub struct Rootfs(Confined);

impl Rootfs {
    /// Opens the tree at `dir`.
    ///
    /// # Errors
    /// `Storage`.
    pub fn open(dir: &Path) -> Result<Self> {
        Confined::open(dir).map(Self)
    }

    /// Finds out who `spec` is here; see [`resolve_user`].
    ///
    /// # Errors
    /// `FailedPrecondition` for a name that is not there; `UnsafeLayer`; `ResourceExhausted`;
    /// `Storage`.
    pub fn user(&mut self, spec: Option<&UserSpec>) -> Result<User> {
        if spec.is_none() {
            return resolve_user(None, "", "");
        }
        let (passwd, group) = (self.text("/etc/passwd")?, self.text("/etc/group")?);
        resolve_user(spec, &passwd, &group)
    }

    /// Whether there is a directory at `path`.
    ///
    /// # Errors
    /// `UnsafeLayer`; `Storage`.
    pub fn has_dir(&mut self, path: &str) -> Result<bool> {
        self.0.open_dir(path).map(|dir| dir.is_some())
    }

    /// Makes the directory in which the command starts, where it is missing.
    ///
    /// # Errors
    /// `FailedPrecondition` where something else is in the way; `Storage`.
    pub fn make_working_dir(&mut self, path: &str) -> Result<()> {
        self.0.make_dir(path)
    }

    /// Makes the directory of a volume at `dir`: a copy of what the tree has at `path`, or an empty
    /// one.
    ///
    /// # Errors
    /// `Storage`.
    pub fn make_volume(&mut self, path: &str, dir: &Path) -> Result<()> {
        match self.0.open_dir(path)? {
            Some(source) => {
                // The dot makes it the directory, not the symlink to it.
                let source = format!("/proc/self/fd/{}/.", source.as_raw_fd());
                dist_snapshot::copy_dir(source.as_ref(), dir)
            }
            None => std::fs::create_dir(dir)
                .context(ErrorKind::Storage, || format!("make volume {}", dir.display())),
        }
    }

    fn text(&mut self, path: &str) -> Result<String> {
        let bytes = self.0.read(path, LIMIT)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}
