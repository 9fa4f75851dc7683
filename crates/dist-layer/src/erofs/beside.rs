//! Images that stand for directories: each is beside the directory that its layer would be unpacked
//! to, and takes the place of that one's parent in the end.
//!
//! ```text
//! <id>/fs            the directory
//! <id>/layer.erofs   its image, when it is written
//! <id>.erofs         its image, when nothing else of `<id>` is needed any more
//! ```

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use dist_core::{Applied, Cancel, Context as _, Descriptor, ErrorKind, Result, ResultExt as _};

use super::{ErofsOptions, inherit_erofs_dirs, write_erofs};

const NAME: &str = "layer.erofs";
const EXTENSION: &str = "erofs";

/// The image that stands for the directory `dir`, which may be gone.
#[must_use]
pub fn image_path(dir: &Path) -> PathBuf {
    let new = new_image_path(dir);
    match final_image_path(dir) {
        Some(path) if path.exists() || !new.exists() => path,
        _ => new,
    }
}

/// Where the image that stands for `dir` is written.
#[must_use]
pub fn new_image_path(dir: &Path) -> PathBuf {
    dir.with_file_name(NAME)
}

/// Where that image is to stay; `None` where `dir` has no parent with a name.
#[must_use]
pub fn final_image_path(dir: &Path) -> Option<PathBuf> {
    let parent = dir.parent()?;
    let mut name = parent.file_name()?.to_owned();
    name.push(".");
    name.push(EXTENSION);
    Some(parent.with_file_name(name))
}

/// Writes a layer as the image that stands for `dir`, in the place of one that is there.
pub(crate) fn write_layer(
    layer: &Descriptor,
    input: &mut (dyn Read + Send),
    dir: &Path,
    options: &ErofsOptions,
    cancel: &Cancel,
) -> Result<Applied> {
    replace(&new_image_path(dir), |file| write_erofs(layer, input, file, options, cancel))
}

/// Makes a file that has its name only when it is whole.
pub(super) fn replace<T>(path: &Path, write: impl FnOnce(&File) -> Result<T>) -> Result<T> {
    let new = path.with_extension("new");
    let during = || format!("write {}", path.display());
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&new)
        .context(ErrorKind::Storage, during)?;
    let written = match write(&file) {
        // What is wrong with a layer does not depend on where it goes.
        Err(error) if error.kind() == ErrorKind::Storage => Err(error).during(during),
        written => written,
    };
    let made = written.and_then(|made| {
        std::fs::rename(&new, path).context(ErrorKind::Storage, during).map(|()| made)
    });
    if made.is_err()
        && let Err(error) = std::fs::remove_file(&new)
    {
        tracing::debug!(path = %new.display(), %error, "an unfinished image was not removed");
    }
    made
}

/// Does what [`crate::inherit_dirs`] says where an image stands for `target`; says whether one does.
pub(crate) fn inherit(target: &Path, parents: &[PathBuf], dirs: &[Vec<u8>]) -> Result<bool> {
    let open = |path: &Path, write: bool| {
        File::options()
            .read(true)
            .write(write)
            .open(path)
            .context(ErrorKind::Storage, || format!("open {}", path.display()))
    };
    // What is made anew stands beside what it will replace.
    let new = new_image_path(target);
    let image = if new.exists() { new } else { image_path(target) };
    if !image.exists() {
        return Ok(false);
    }
    let parents: Vec<File> =
        parents.iter().map(|parent| open(&image_path(parent), false)).collect::<Result<_>>()?;
    inherit_erofs_dirs(&open(&image, true)?, &parents, dirs)
        .during(|| format!("complete {}", image.display()))?;
    Ok(true)
}
