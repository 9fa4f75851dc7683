//! What is looked up, and made, in the image's own tree.

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

    /// Makes the directory in which the command starts, where it is missing.
    ///
    /// # Errors
    /// `FailedPrecondition` where something else is in the way; `Storage`.
    pub fn make_working_dir(&mut self, path: &str) -> Result<()> {
        self.0.make_dir(path)
    }

    /// Makes an empty directory for a volume at `dir`, with the owner and the mode of what the tree
    /// has at `path`.
    ///
    /// # Errors
    /// `Storage`.
    pub fn make_volume(&mut self, path: &str, dir: &Path) -> Result<()> {
        use std::os::unix::fs::{PermissionsExt as _, chown};
        let like = self.0.dir_owner(path)?;
        let make = || {
            std::fs::create_dir_all(dir)?;
            if let Some((uid, gid, mode)) = like {
                chown(dir, Some(uid), Some(gid))?;
                std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode))?;
            }
            Ok(())
        };
        make()
            .map_err(|error: std::io::Error| error)
            .context(ErrorKind::Storage, || format!("make volume {}", dir.display()))
    }

    fn text(&mut self, path: &str) -> Result<String> {
        let bytes = self.0.read(path, LIMIT)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}
