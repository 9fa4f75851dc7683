//! `ROOT/format`: `{"version":1,"compatible":[],"read_only":[],"incompatible":[]}`.
//!
//! It is written last when a store is made, so a store that has it has all of its directories and
//! its database. The version changes when every older program must keep out. Between versions, a
//! feature that older programs may ignore is named in `compatible`, one that forbids them to write
//! in `read_only`, one that keeps them out in `incompatible`.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use dist_core::{Context as _, Error, ErrorKind, Result};

use crate::fsio::{self, at};

pub(crate) const VERSION: u64 = 1;
const LIMIT: u64 = 64 << 10;

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Format {
    version: u64,
    #[serde(default)]
    compatible: Vec<String>,
    #[serde(default)]
    read_only: Vec<String>,
    #[serde(default)]
    incompatible: Vec<String>,
}

/// What a store's format lets this program do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allowed {
    Write,
    Read,
}

/// Reads `root/format`; `None` where there is no store.
///
/// # Errors
/// `Storage` for a format this program doesn't know, or one it can't read.
pub(crate) fn read(root: &Path) -> Result<Option<Allowed>> {
    let path = root.join("format");
    match fsio::read_small(&path, LIMIT)? {
        None => Ok(None),
        Some(bytes) => check(&bytes, root).map(Some),
    }
}

fn check(bytes: &[u8], root: &Path) -> Result<Allowed> {
    let refuse = |why: String| {
        Error::new(ErrorKind::Storage, format!("open store {}: {why}", root.display()))
    };
    // The version alone first: all else may look different in another one.
    #[derive(serde::Deserialize)]
    struct Version {
        version: u64,
    }
    const DAMAGED: &str = "its format file is damaged, restore it or move the store away";
    let Ok(Version { version }) = serde_json::from_slice(bytes) else {
        return Err(refuse(DAMAGED.into()));
    };
    if version != VERSION {
        return Err(refuse(format!("store format {version}, this program knows {VERSION}")));
    }
    let Ok(format) = serde_json::from_slice::<Format>(bytes) else {
        return Err(refuse(DAMAGED.into()));
    };
    if let Some(feature) = format.incompatible.first() {
        return Err(refuse(format!("store feature {feature:?} is not known to this program")));
    }
    Ok(if format.read_only.is_empty() { Allowed::Write } else { Allowed::Read })
}

/// Writes `root/format`, durably, after the names of all else in `root` are on the disk.
pub(crate) fn write(root: &Path) -> Result<()> {
    let format = Format {
        version: VERSION,
        compatible: Vec::new(),
        read_only: Vec::new(),
        incompatible: Vec::new(),
    };
    let mut bytes = serde_json::to_vec(&format)
        .context(ErrorKind::Internal, || "write the store's format".into())?;
    bytes.push(b'\n');
    let (path, new) = (root.join("format"), root.join("format.new"));
    let write = || {
        let mut file = File::create(&new)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        File::open(root)?.sync_all()?;
        std::fs::rename(&new, &path)
    };
    write().context(ErrorKind::Storage, || at("write", &path))?;
    fsio::sync_dir(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        let root = Path::new("/r");
        assert_eq!(check(br#"{"version":1}"#, root).unwrap(), Allowed::Write);
        assert_eq!(
            check(br#"{"version":1,"compatible":["x"],"read_only":["y"]}"#, root).unwrap(),
            Allowed::Read
        );
        for (bytes, message) in [
            (&br#"{"version":3,"other":1}"#[..], "store format 3, this program knows 1"),
            (br#"{"version":1,"incompatible":["z"]}"#, "store feature \"z\" is not known"),
            (b"", "open store /r: its format file is damaged"),
            (b"99", "its format file is damaged"),
            (br#"{"version":1,"incompatible":7}"#, "its format file is damaged"),
        ] {
            let error = check(bytes, root).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Storage);
            assert!(error.to_string().contains(message), "{error}");
        }
    }
}
