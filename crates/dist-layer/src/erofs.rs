//! Layers as EROFS images: one file that is the tar, with what a kernel needs to mount it around.
//!
//! The tar is written once, as it comes; files of the image are blocks of it, so nothing is copied
//! and the tar can be read back byte for byte. Whiteouts and opaque directories are overlayfs's.
//! The format is that of `fs/erofs/erofs_fs.h` in Linux 6.4 and later.

pub(crate) mod beside;
mod build;
mod dir;
mod format;
mod inherit;
mod read;
mod sparse;
mod tree;
mod write;

use std::fs::File;
use std::io::{Read, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use dist_core::{Applied, Cancel, Context as _, Descriptor, DiffId, Digest, ErrorKind, Result};

pub use self::beside::{final_image_path, image_path, new_image_path};
use self::build::{Builder, Built};
pub use self::dir::write_erofs_dir;
pub use self::inherit::inherit_erofs_dirs;
use self::tree::Children;
use crate::compression::{Chunk, Chunks, Inflater, Stream, inflating};
use crate::tar::Tar;
use crate::{Cores, Limits};

/// Where the tar begins in an image.
const BASE: u64 = 4096;

/// What an image begins with that has a tar; behind it is how many bytes that has.
const TAR: [u8; 8] = *b"dist.tar";

/// How a layer becomes an image.
#[derive(Clone, Debug, Default)]
pub struct ErofsOptions {
    /// What a layer may cost.
    pub limits: Limits,
    /// Whether overlayfs will be mounted with `userxattr`, which names opaque directories otherwise.
    pub user_xattr: bool,
    /// As of [`crate::ApplyOptions::cores`].
    pub cores: Cores,
}

/// Writes a layer as an EROFS image to an empty file that can be read and written.
///
/// The same layer makes the same image, whoever writes it; nothing is synced. An image that was not
/// written to its end can't be mounted.
///
/// # Errors
/// As of [`crate::LayerApplier`]; `ResourceExhausted` also where the image would be larger than
/// 2 TiB.
pub fn write_erofs(
    layer: &Descriptor,
    input: impl Read + Send,
    file: &File,
    options: &ErofsOptions,
    cancel: &Cancel,
) -> Result<Applied> {
    let inflater = Inflater::new(&layer.media_type, input, options.limits)?;
    inflating(inflater, &options.cores, |chunks| {
        image(Stream::over(Tee::new(chunks, file, cancel)), file, options, cancel)
    })
}

/// Reads the tar that an image was written from.
///
/// # Errors
/// `InvalidData` where it was not written from one, or is cut off.
pub fn erofs_tar(mut file: File) -> std::io::Result<impl Read> {
    let mut head = [0; 16];
    file.read_exact_at(&mut head, 0)?;
    let size = format::u64_at(&head, TAR.len());
    let end = size.checked_add(BASE).filter(|_| head.starts_with(&TAR));
    if end.is_none_or(|end| file.metadata().is_ok_and(|meta| meta.len() < end)) {
        let message = "the image has no whole tar";
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, message));
    }
    file.seek(SeekFrom::Start(BASE))?;
    Ok(file.take(size))
}

/// Opens an image, and compares its length with what it says of itself: one read.
///
/// # Errors
/// `InvalidData` where it is no image, or is cut off; those of the file system.
pub fn open_erofs(path: &Path) -> std::io::Result<File> {
    let wrong = |message| Err(std::io::Error::new(std::io::ErrorKind::InvalidData, message));
    // Opening something else, as a pipe, may wait.
    if !std::fs::symlink_metadata(path)?.is_file() {
        return wrong("it is no file");
    }
    let file = File::open(path)?;
    match format::said_length(&file)? {
        Some(length) if length <= file.metadata()?.len() => Ok(file),
        Some(_) => wrong("the image is cut off"),
        None => wrong("it has no superblock"),
    }
}

fn image(
    stream: Stream<impl Chunks>,
    file: &File,
    options: &ErofsOptions,
    cancel: &Cancel,
) -> Result<Applied> {
    let tar = Tar::new(stream, options.limits);
    let Built { mut tree, sparse, warnings, tar } =
        Builder::new(options.user_xattr, BASE, cancel)?.run(tar)?;
    let (diff_id, size) = tar.finish()?;
    let mut head = [0; 16];
    head[..TAR.len()].copy_from_slice(&TAR);
    head[TAR.len()..].copy_from_slice(&size.to_le_bytes());
    file.write_all_at(&head, 0).context(ErrorKind::Storage, || "write image".into())?;
    let end = (BASE + size).next_multiple_of(format::BLOCK);
    tree.end();
    let children = Children::of(&tree);
    let tail = sparse::place((&mut tree, &children), sparse, file, (BASE, end), cancel)?;
    write::write((&tree, &children), file, tail, uuid(&diff_id))?;
    let implicit_dirs = children.implicit_dirs(&tree);
    Ok(Applied { diff_id, size, implicit_dirs, usage: None, warnings: warnings.into_vec() })
}

/// What tells images apart is what they are made from.
fn uuid(diff_id: &DiffId) -> [u8; 16] {
    let digest = diff_id.0.as_bytes();
    std::array::from_fn(|at| digest.get(at).copied().unwrap_or(0))
}

/// Writes chunks down as they pass.
struct Tee<'a, C> {
    chunks: C,
    file: &'a File,
    at: u64,
    cancel: &'a Cancel,
}

impl<'a, C> Tee<'a, C> {
    fn new(chunks: C, file: &'a File, cancel: &'a Cancel) -> Self {
        Self { chunks, file, at: BASE, cancel }
    }
}

impl<C: Chunks> Chunks for Tee<'_, C> {
    fn next(&mut self, chunk: &mut Chunk) -> Result<usize> {
        let made = self.chunks.next(chunk)?;
        self.cancel.check()?;
        self.file
            .write_all_at(&chunk[..made], self.at)
            .context(ErrorKind::Storage, || "write image".into())?;
        self.at += made as u64;
        Ok(made)
    }

    fn digest(&mut self) -> Result<Digest> {
        self.chunks.digest()
    }
}
