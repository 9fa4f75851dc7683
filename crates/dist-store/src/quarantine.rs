//! `ROOT/quarantine`: what was not what its name says, put aside so that somebody can look at it.
//!
//! Each has the name that it had, with the time at which it came here in nanoseconds, a process and
//! a number behind: `NAME-TIME-PROCESS-NUMBER`. Nothing here is ever used again. What has another
//! name was put here by somebody else and stays.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::str::FromStr;

use dist_core::{Context as _, ErrorKind, Result};

use crate::Store;
use crate::fsio::at;

/// How long something stays in quarantine, in nanoseconds: a week, so that whoever reads on a Monday
/// what was found on a Friday can still look at it.
pub const QUARANTINE_LIFETIME: i64 = 7 * 24 * 60 * 60 * 1_000_000_000;

/// The earliest time that a name can tell, in nanoseconds: in 2020. Dates and versions at the end of
/// somebody's file are far below.
const EARLIEST: i64 = 1_600_000_000 * 1_000_000_000;

/// Something that was put aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// Where it is: a file or a directory.
    pub path: PathBuf,
    /// Until when it is kept, in nanoseconds since the epoch.
    pub ends_at: i64,
}

impl Store {
    /// Lists what was put aside. What somebody else has put there is not told of, and what was
    /// moved or changed later is kept from then on.
    ///
    /// # Errors
    /// `Storage`.
    pub fn quarantined(&self) -> Result<Vec<Quarantined>> {
        let dir = self.root().join("quarantine");
        let what = || at("list", &dir);
        let mut found = Vec::new();
        let entries = match std::fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            entries => entries.context(ErrorKind::Storage, what)?,
        };
        for entry in entries {
            let entry = entry.context(ErrorKind::Storage, what)?;
            let Some(since) = since(&entry.file_name().to_string_lossy()) else { continue };
            let changed = match entry.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                meta => meta.context(ErrorKind::Storage, || at("stat", &entry.path()))?,
            };
            let changed = changed.ctime().saturating_mul(1_000_000_000);
            let ends_at = since.max(changed).saturating_add(QUARANTINE_LIFETIME);
            found.push(Quarantined { path: entry.path(), ends_at });
        }
        Ok(found)
    }
}

/// When something of this name was put aside; `None` for a name that is not of our making.
fn since(name: &str) -> Option<i64> {
    let mut parts = name.rsplitn(4, '-');
    let _number: u64 = number(parts.next()?)?;
    let process: u32 = number(parts.next()?)?;
    let time = number(parts.next()?)?;
    let stem = parts.next()?;
    (process > 0 && time >= EARLIEST && !stem.is_empty()).then_some(time)
}

/// Reads a number that is written as we write numbers: without a sign and without zeros before it.
fn number<T: FromStr + ToString>(text: &str) -> Option<T> {
    text.parse().ok().filter(|number: &T| number.to_string() == text)
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
            ("x-1700000000000000000-1-0", Some(1_700_000_000_000_000_000)),
            ("x-1-2-1600000000000000000-1-0", Some(1_600_000_000_000_000_000)),
            ("redis-layer-2026-11-22", None),
            ("x-1599999999999999999-1-0", None),
            ("x-1700000000000000000-1-00", None),
            ("x-1700000000000000000-+1-0", None),
            ("x-1700000000000000000-0-0", None),
            ("-1700000000000000000-1-0", None),
            ("1700000000000000000-1-0", None),
            ("fsck-12-0", None),
            ("x-1700000000000000000-1-a", None),
            ("mine", None),
        ] {
            assert_eq!(since(name), expected, "{name}");
        }
    }
}
