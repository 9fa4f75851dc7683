//! A mount as data: snapshotters make them, one file of one crate performs them.

use std::path::PathBuf;

/// One `mount(2)` that has not been performed.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Mount {
    /// The file system type; `bind` for a bind mount.
    pub fstype: String,
    /// What is mounted: a directory for `bind`, a word such as `overlay` otherwise.
    pub source: PathBuf,
    /// Where below the target it is mounted; `None` is the target itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<PathBuf>,
    /// Options as `mount -o` takes them, one a string.
    pub options: Vec<String>,
}

impl Mount {
    /// The value of the option `name=value`, where it is there.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
    }

    /// Whether the mount is read-only.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.options.iter().any(|option| option == "ro")
    }

    /// The directory that receives a layer's own entries: the bind source or the upper directory.
    ///
    /// `None` where nothing can be written.
    #[must_use]
    pub fn writable_dir(&self) -> Option<PathBuf> {
        if self.fstype == "bind" && !self.is_read_only() {
            Some(self.source.clone())
        } else {
            self.option("upperdir").map(PathBuf::from)
        }
    }
}
