//! `ROOT/format`: `{"version":1,"compatible":[],"read_only":[],"incompatible":["image-files"]}`.
//!
//! It is written last when a store is made, so a store that has it has all of its directories and
//! its database. The version changes when every older program must keep out. Between versions, a
//! feature that older programs may ignore is named in `compatible`, one that forbids them to write
//! in `read_only`, one that keeps them out in `incompatible`.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use dist_core::{Context as _, Error, ErrorKind, Result, ResultExt as _};

use crate::fsio::{self, at};
use crate::{Store, db, locks};

pub(crate) const VERSION: u64 = 1;
const LIMIT: u64 = 64 << 10;

/// What a store may have that programs without it take for damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// Committed snapshots that are one file each. A new store has it.
    ImageFiles,
}

impl Feature {
    const ALL: [Self; 1] = [Self::ImageFiles];

    fn name(self) -> &'static str {
        match self {
            Self::ImageFiles => "image-files",
        }
    }
}

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
    let known = |name: &&String| Feature::ALL.iter().any(|feature| feature.name() == **name);
    if let Some(feature) = format.incompatible.iter().find(|name| !known(name)) {
        return Err(refuse(format!("store feature {feature:?} is not known to this program")));
    }
    Ok(if format.read_only.is_empty() { Allowed::Write } else { Allowed::Read })
}

impl Store {
    /// Tells older programs, durably, that the store has `feature` from now on.
    ///
    /// # Errors
    /// `Storage`.
    pub fn demand(&self, feature: Feature) -> Result<()> {
        let root = self.root();
        if has(root, feature)? {
            return Ok(());
        }
        self.check_writable()?;
        let path = root.join("meta.lock");
        let gate = db::lock_file(&path)?;
        db::lock(&gate).context(ErrorKind::Storage, || at("lock", &path))?;
        let mut format = load(root)?;
        format.incompatible.push(feature.name().into());
        format.incompatible.sort();
        format.incompatible.dedup();
        replace(root, &format).during(|| format!("note that there are {}", feature.name()))?;
        locks::unlock(&gate);
        Ok(())
    }
}

fn has(root: &Path, feature: Feature) -> Result<bool> {
    Ok(load(root)?.incompatible.iter().any(|name| name == feature.name()))
}

fn load(root: &Path) -> Result<Format> {
    let path = root.join("format");
    let bytes = fsio::read_small(&path, LIMIT)?.unwrap_or_default();
    serde_json::from_slice(&bytes).context(ErrorKind::Storage, || at("read", &path))
}

/// Writes `root/format`, durably, after the names of all else in `root` are on the disk.
pub(crate) fn write(root: &Path) -> Result<()> {
    let format = Format {
        version: VERSION,
        compatible: Vec::new(),
        read_only: Vec::new(),
        incompatible: Feature::ALL.iter().map(|feature| feature.name().into()).collect(),
    };
    replace(root, &format)
}

fn replace(root: &Path, format: &Format) -> Result<()> {
    let mut bytes = serde_json::to_vec(format)
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
        let known = br#"{"version":1,"incompatible":["image-files"]}"#;
        assert_eq!(check(known, root).unwrap(), Allowed::Write);
        for (bytes, message) in [
            (&br#"{"version":3,"other":1}"#[..], "store format 3, this program knows 1"),
            (
                br#"{"version":1,"incompatible":["image-files","z"]}"#,
                "store feature \"z\" is not known",
            ),
            (b"", "open store /r: its format file is damaged"),
            (b"99", "its format file is damaged"),
            (br#"{"version":1,"incompatible":7}"#, "its format file is damaged"),
        ] {
            let error = check(bytes, root).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Storage);
            assert!(error.to_string().contains(message), "{error}");
        }
    }

    #[test]
    fn a_feature_is_told_once() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path(), crate::StoreOptions::default()).unwrap();
        let path = temp.path().join("format");
        let new = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, r#"{"version":1,"compatible":["x"]}"#).unwrap();
        assert!(!has(temp.path(), Feature::ImageFiles).unwrap());
        store.demand(Feature::ImageFiles).unwrap();
        let told = std::fs::read_to_string(&path).unwrap();
        assert_eq!(told, new.replace("\"compatible\":[]", "\"compatible\":[\"x\"]"));
        store.demand(Feature::ImageFiles).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), told);
    }
}
