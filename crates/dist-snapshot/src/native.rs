//! Snapshots as plain directories: each is a whole copy of its parent.
//!
//! Works on every file system and without privileges over mounts' internals; costs a copy a layer.

use std::path::{Path, PathBuf};

use dist_core::{Context, ErrorKind, LayerForm, Mount, Result, SnapshotKind};
use rustix::fs::{AtFlags, CWD, Mode, Timespec, Timestamps};

use crate::copy;
use crate::dirs::{at, io_kind, remove_tree};
use crate::driver::{Driver, bind};

/// The snapshotter's name.
pub(crate) const NAME: &str = "native";

/// Copies parents.
#[derive(Debug)]
pub(crate) struct Native;

impl Driver for Native {
    fn name(&self) -> &'static str {
        NAME
    }

    fn layer_form(&self) -> LayerForm {
        LayerForm::Merged
    }

    fn fill(&self, new: &Path, parents: &[PathBuf], kind: SnapshotKind) -> Result<()> {
        if kind != SnapshotKind::Active {
            return Ok(());
        }
        let Some(parent) = parents.first() else { return begin(new) };
        let staging = new.with_file_name("links");
        rustix::fs::mkdir(&staging, Mode::RWXU)
            .context(ErrorKind::Storage, || at("create directory", &staging))?;
        copy::copy_tree(parent, new, &staging).map_err(|error| {
            let kind = io_kind(&error);
            let message = format!("copy {} to {}", parent.display(), new.display());
            dist_core::Error::new(kind, message).with_source(error)
        })?;
        remove_tree(&staging)
    }

    fn mounts(&self, dir: &Path, parents: &[PathBuf], kind: SnapshotKind) -> Result<Vec<Mount>> {
        let source = match parents.first() {
            Some(parent) if kind == SnapshotKind::View => parent.clone(),
            _ => dir.join("fs"),
        };
        Ok(vec![bind(source, kind)])
    }
}

/// Gives a root the time that it has with the other snapshotters where no layer says one.
fn begin(new: &Path) -> Result<()> {
    let epoch = Timespec { tv_sec: 0, tv_nsec: 0 };
    let times = Timestamps { last_access: epoch, last_modification: epoch };
    rustix::fs::utimensat(CWD, new, &times, AtFlags::SYMLINK_NOFOLLOW)
        .context(ErrorKind::Storage, || at("set times of", new))
}
