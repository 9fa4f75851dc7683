//! Layers as mounted images.

#![allow(dead_code, reason = "each test uses its part of it")]

use std::fs::File;
use std::path::{Path, PathBuf};

use dist_core::{Applied, Cancel, Compression, Result};
use dist_layer::{ErofsOptions, inherit_erofs_dirs, write_erofs};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::tree::descriptor;

/// An image that is mounted as long as this lives.
pub(crate) struct Image {
    pub(crate) file: PathBuf,
    pub(crate) at: PathBuf,
    pub(crate) applied: Applied,
}

impl Image {
    pub(crate) fn new(layer: &[u8], dir: &Path) -> Self {
        Self::above(layer, dir, &[])
    }

    /// With those below it, nearest first.
    pub(crate) fn above(layer: &[u8], dir: &Path, parents: &[Self]) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let (file, at) = (dir.join("layer.erofs"), dir.join("mounted"));
        let applied = write(layer, &file).unwrap();
        let opened = File::options().read(true).write(true).open(&file).unwrap();
        let parents: Vec<File> =
            parents.iter().map(|image| File::open(&image.file).unwrap()).collect();
        inherit_erofs_dirs(&opened, &parents, &applied.implicit_dirs).unwrap();
        std::fs::create_dir(&at).unwrap();
        rustix::mount::mount(&file, &at, "erofs", MountFlags::RDONLY, None).unwrap();
        Self { file, at, applied }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.at, UnmountFlags::DETACH).unwrap();
    }
}

pub(crate) fn write(layer: &[u8], path: &Path) -> Result<Applied> {
    let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    let descriptor = descriptor(Compression::None);
    write_erofs(&descriptor, layer, &file, &ErofsOptions::default(), &Cancel::default())
}
