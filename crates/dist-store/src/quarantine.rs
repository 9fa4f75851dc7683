//! `ROOT/quarantine`: what was not what its name says, put aside so that somebody can look at it.
//!
//! Each has the name that it had, with the time at which it came here in nanoseconds, a process and
//! a number behind: `NAME-TIME-PROCESS-NUMBER`. Nothing here is ever used again.

use std::path::PathBuf;

use dist_core::{Context as _, ErrorKind, Result};

use crate::Store;
use crate::fsio::at;

/// How long something stays in quarantine, in nanoseconds: a week, so that whoever reads on a Monday
/// what was found on a Friday can still look at it.
pub const QUARANTINE_LIFETIME: i64 = 7 * 24 * 60 * 60 * 1_000_000_000;

/// Something that was put aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// Where it is: a file or a directory.
    pub path: PathBuf,
    /// Until when it is kept, in nanoseconds since the epoch.
    pub ends_at: i64,
}

impl Store {
    /// Lists what was put aside. What somebody else has put there is not told of.
    ///
    /// # Errors
    /// `Storage`.
    pub fn quarantined(&self) -> Result<Vec<Quarantined>> {
        let dir = self.root().join("quarantine");
        let what = || at("list", &dir);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&dir).context(ErrorKind::Storage, what)? {
            let entry = entry.context(ErrorKind::Storage, what)?;
            if let Some(since) = since(&entry.file_name().to_string_lossy()) {
                let ends_at = since.saturating_add(QUARANTINE_LIFETIME);
                found.push(Quarantined { path: entry.path(), ends_at });
            }
        }
        Ok(found)
    }
}

/// When something of this name was put aside.
fn since(name: &str) -> Option<i64> {
    let mut parts = name.rsplitn(4, '-');
    let (_number, _process): (u64, u32) =
        (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let time = parts.next()?.parse().ok()?;
    parts.next().map(|_name| time)
}

#[cfg(test)]
mod tests {
    use super::since;
    use crate::fsio;

    #[test]
    fn names_tell_when_they_were_made() {
        let before = fsio::now();
        assert!(since(&fsio::unique("a-b")).is_some_and(|at| at >= before));
        for (name, expected) in [
            ("x-7-1-0", Some(7)),
            ("x-1-2-7-1-0", Some(7)),
            ("-7-1-0", Some(7)),
            ("7-1-0", None),
            ("fsck-12-0", None),
            ("x-7-1-a", None),
            ("mine", None),
        ] {
            assert_eq!(since(name), expected, "{name}");
        }
    }
}
