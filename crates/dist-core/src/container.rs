//! Containers: what is to run, and what became of it. The fields are those of containerd's
//! containers service, v1.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::image::identifier;
use crate::{Labels, NameError};

/// Names a container in its namespace: letters and digits, with single `.`, `_` or `-` between them,
/// at most 76 bytes (containerd's rule for identifiers), so that it can be a part of a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(Box<str>);

impl ContainerId {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContainerId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        identifier(text)?;
        Ok(Self(text.into()))
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A value whose type only its URL tells (`google.protobuf.Any`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Any {
    /// What it is.
    pub type_url: String,
    /// Its bytes.
    pub value: Vec<u8>,
}

/// A container: what is to run. Processes are its [`Task`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its id.
    pub id: ContainerId,
    /// Its labels.
    pub labels: Labels,
    /// The name of its image; empty where it has none.
    pub image: String,
    /// The name of the shim's runtime, as `io.containerd.runc.v2`.
    pub runtime: String,
    /// What that runtime is told.
    pub runtime_options: Option<Any>,
    /// The runtime spec; none while it is being made.
    pub spec: Option<Any>,
    /// The snapshotter of its root file system; empty where it has none of ours.
    pub snapshotter: String,
    /// The snapshot that is its root file system, kept as long as the container is there.
    pub snapshot_key: String,
    /// What clients attach to it.
    pub extensions: BTreeMap<String, Any>,
    /// When it was made, in nanoseconds since the epoch.
    pub created_at: i64,
    /// When it last changed, in nanoseconds since the epoch.
    pub updated_at: i64,
    /// Its processes, if it ever had any.
    pub task: Option<Task>,
}

/// The processes of a container, as far as they are not the shim's to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The id of the boot in which they were started: in another one they are gone.
    pub boot_id: String,
    /// Where the shim listens.
    pub address: String,
    /// The version of the shim's task service.
    pub version: u32,
    /// How it ended; none as long as nobody has asked the shim, or it runs.
    pub exit: Option<Exit>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code; 128 and the signal's number, where a signal ended it.
    pub status: u32,
    /// When, in nanoseconds since the epoch.
    pub at: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_parts_of_paths() {
        for good in ["redis", "a.b-c_d", "1"] {
            assert_eq!(good.parse::<ContainerId>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "a/b", "-a", "a b", &"a".repeat(77)] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad}");
        }
    }
}
