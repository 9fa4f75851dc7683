//! Snapshots as plain directories: each is a whole copy of its parent.
//!
//! Works on every file system and without privileges over mounts' internals; costs a copy a layer.

use std::path::{Path, PathBuf};

use dist_core::{Context, ErrorKind, LayerForm, Mount, Result, SnapshotKind};
use rustix::fs::Mode;

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
        let (Some(parent), SnapshotKind::Active) = (parents.first(), kind) else { return Ok(()) };
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
