//! Layers onto directories.
//!
//! A stacked layer is unpacked alone into its directory. A merged one is unpacked alone too: into
//! a directory inside the target, from which its entries are then moved over what is there; onto
//! an empty target it goes directly. So a layer means the same in both forms: it never sees the
//! layers below, their symlinks lead nowhere, and its whiteouts hide only what is below, wherever
//! in the layer they stand.

mod attributes;
mod entries;
mod fill;
mod settle;
mod unpack;

use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use dist_core::{
    Applied, Applier, Cancel, Descriptor, DiffId, Error, ErrorKind, LayerForm, Mount, Result, Usage,
};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use self::attributes::Host;
use self::settle::settle;
use self::unpack::{Unpacked, Unpacker};
use crate::ApplyOptions;
use crate::acl::DEFAULT;
use crate::beneath::{Tree, each, failed, open_dir_at, remove_tree};
use crate::compression::{Chunks, Inflater, Stream, inflating};
use crate::erofs::{ErofsOptions, beside};
use crate::ledger::{Final, Finals};
use crate::merge::merge;
use crate::tar::Tar;
use crate::warnings::Warnings;
use crate::whiteout::{Marks, STAGING_PREFIX};

pub(crate) use self::attributes::{copy_xattrs, set_mode, set_times, timestamps};
pub(crate) use self::entries::{Entries, lay_down};
pub(crate) use self::settle::IMPLICIT_MODE;
pub(crate) use self::unpack::time_of;

/// Unpacks layers into directories; any number of them at a time.
#[derive(Clone, Debug)]
pub struct LayerApplier {
    options: ApplyOptions,
}

impl LayerApplier {
    /// Makes one that unpacks every layer by `options`.
    #[must_use]
    pub fn new(options: ApplyOptions) -> Self {
        Self { options }
    }
}

impl Applier for LayerApplier {
    fn apply(
        &self,
        layer: &Descriptor,
        input: &mut (dyn Read + Send),
        mounts: &[Mount],
        cancel: &Cancel,
    ) -> Result<Applied> {
        let span = tracing::debug_span!("apply", digest = %layer.digest);
        let _entered = span.enter();
        let target = match mounts {
            [mount] => mount.writable_dir(),
            _ => None,
        };
        let target = target.ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidArgument,
                format!("unpack layer {}: its mounts have no directory to write in", layer.digest),
            )
        })?;
        let applied = match self.options.form {
            LayerForm::Image { user_xattr } => {
                let ApplyOptions { limits, cores, .. } = self.options.clone();
                let options = ErofsOptions { limits, user_xattr, cores };
                beside::write_layer(layer, input, &target, &options, cancel)?
            }
            _ => Job::new(&self.options, layer, cancel, &target)
                .and_then(|(job, tree)| job.run(input, tree, &target))?,
        };
        for warning in &applied.warnings {
            tracing::debug!(what = warning.what, count = warning.count, first = warning.first);
        }
        Ok(applied)
    }
}

struct Job<'a> {
    options: &'a ApplyOptions,
    layer: &'a Descriptor,
    cancel: &'a Cancel,
    host: Host,
}

/// A layer that is unpacked and hashed; its directories are not settled.
struct Outcome {
    diff_id: DiffId,
    size: u64,
    finals: Finals,
    warnings: Warnings,
    marked: bool,
    usage: Option<Usage>,
}

impl<'a> Job<'a> {
    fn new(
        options: &'a ApplyOptions,
        layer: &'a Descriptor,
        cancel: &'a Cancel,
        target: &Path,
    ) -> Result<(Self, Tree)> {
        let tree = Tree::open(target)?;
        let root = rustix::fs::fstat(&tree.root().fd)
            .map_err(|errno| failed(errno, format!("examine {}", tree.show(&[], &[]))))?;
        let host = Host::probe().beneath(root.st_mode);
        Ok((Self { options, layer, cancel, host }, tree))
    }

    fn run(&self, input: &mut (dyn Read + Send), tree: Tree, target: &Path) -> Result<Applied> {
        let inflater = Inflater::new(&self.layer.media_type, input, self.options.limits)?;
        inflating(inflater, &self.options.cores, |chunks| {
            self.lay_down(Stream::over(chunks), tree, target)
        })
    }

    fn lay_down(
        &self,
        stream: Stream<impl Chunks>,
        mut tree: Tree,
        target: &Path,
    ) -> Result<Applied> {
        match self.options.form {
            LayerForm::Stacked { user_xattr } => {
                let mut done = self.unpack(stream, &mut tree, Marks::Overlay { user_xattr })?;
                if done.finals.get(b"").is_none() {
                    done.finals.replace(b"", Final::Implicit);
                }
                self.settle(&mut tree, done)
            }
            LayerForm::Image { .. } => {
                Err(Error::new(ErrorKind::Internal, "unpack an image into a directory"))
            }
            LayerForm::Merged => {
                let root = tree.stat(tree.root(), b".")?;
                let mut done = self.merge(stream, &mut tree, target)?;
                if !matches!(done.finals.get(b""), Some(Final::Explicit { .. })) {
                    // What was made in it changed its time.
                    let (mode, mtime) = (root.st_mode & 0o7777, time_of(&root));
                    done.finals.replace(b"", Final::Kept { mode, mtime });
                }
                self.settle(&mut tree, done)
            }
        }
    }

    /// Lays down a layer over what is there; all but the ends of directories.
    fn merge(
        &self,
        stream: Stream<impl Chunks>,
        tree: &mut Tree,
        target: &Path,
    ) -> Result<Outcome> {
        if is_empty(tree)? {
            return self.unpack(stream, tree, Marks::Ignored);
        }
        let staging = Staging::new(tree)?;
        let mut done = self.unpack(stream, &mut staging.open(tree, target)?, Marks::Nodes)?;
        let mut staged = staging.open(tree, target)?;
        merge(tree, &mut staged, &staging.name, &mut done.finals, done.marked)?;
        drop(staged);
        staging.remove(tree)?;
        Ok(done)
    }

    fn unpack(
        &self,
        stream: Stream<impl Chunks>,
        tree: &mut Tree,
        marks: Marks,
    ) -> Result<Outcome> {
        let tar = Tar::new(stream, self.options.limits);
        let Unpacked { ledger, warnings, marked, usage, tar } =
            Unpacker::new(tree, marks, &self.host, self.cancel).run(tar)?;
        let (diff_id, size) = tar.finish()?;
        Ok(Outcome { diff_id, size, finals: ledger.finish(), warnings, marked, usage })
    }

    fn settle(&self, tree: &mut Tree, done: Outcome) -> Result<Applied> {
        let Outcome { diff_id, size, finals, mut warnings, usage, .. } = done;
        // Of a merged tree more is there than the layer.
        let stacked = matches!(self.options.form, LayerForm::Stacked { .. });
        let mut usage = usage.filter(|_| stacked);
        settle(tree, &finals, &self.host, &mut warnings, &mut usage)?;
        let implicit = |&(_, end): &(&[u8], Final)| end == Final::Implicit;
        let implicit_dirs = finals.iter().filter(implicit).map(|(path, _)| path.to_vec()).collect();
        Ok(Applied { diff_id, size, implicit_dirs, usage, warnings: warnings.into_vec() })
    }
}

fn is_empty(tree: &Tree) -> Result<bool> {
    let mut empty = true;
    each(
        &tree.root().fd,
        |errno| failed(errno, format!("list directory {}", tree.show(&[], &[]))),
        |_, _| {
            empty = false;
            Ok(())
        },
    )?;
    Ok(empty)
}

/// The directory that a layer is unpacked in before it is merged; removed when dropped.
struct Staging {
    name: Vec<u8>,
    root: std::rc::Rc<crate::beneath::Dir>,
    removed: std::cell::Cell<bool>,
}

impl Staging {
    fn new(tree: &Tree) -> Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("{STAGING_PREFIX}{}-{count}", std::process::id()).into_bytes();
            match rustix::fs::mkdirat(&tree.root().fd, name.as_slice(), Mode::RWXU) {
                Ok(()) => {
                    let root = tree.root().clone();
                    let fd = open_dir_at(&root.fd, &name);
                    // All that is made in it would inherit the target's.
                    match fd.and_then(|fd| rustix::fs::fremovexattr(fd, DEFAULT)) {
                        Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                        Err(errno) => {
                            let message = format!("prepare directory {}", tree.show(&[], &name));
                            return Err(failed(errno, message));
                        }
                    }
                    return Ok(Self { name, root, removed: std::cell::Cell::new(false) });
                }
                Err(Errno::EXIST) => {} // left by a process of the same number
                Err(errno) => {
                    let message = format!("make directory {}", tree.show(&[], &name));
                    return Err(failed(errno, message));
                }
            }
        }
    }

    fn open(&self, tree: &Tree, target: &Path) -> Result<Tree> {
        let fd = open_dir_at(&tree.root().fd, &self.name)
            .map_err(|errno| failed(errno, format!("open {}", tree.show(&[], &self.name))))?;
        Ok(Tree::new(fd, target.to_owned()))
    }

    fn remove(&self, tree: &Tree) -> Result<()> {
        self.removed.set(true);
        remove_tree(&tree.root().fd, &self.name)
            .map_err(|errno| failed(errno, format!("remove {}", tree.show(&[], &self.name))))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.removed.get()
            && let Err(errno) = remove_tree(&self.root.fd, &self.name)
        {
            tracing::debug!(%errno, "remove staging directory");
        }
    }
}

/// Adds what one inode takes.
fn count(usage: &mut Usage, stat: &rustix::fs::Stat) {
    usage.inodes += 1;
    usage.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
}

/// Opens a directory below `tree` again for a change of its attributes.
pub(crate) fn open_for_attributes(
    tree: &Tree,
    dir: &crate::beneath::Dir,
    name: &[u8],
) -> Result<std::os::fd::OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(&dir.fd, name, flags, Mode::empty())
        .map_err(|errno| failed(errno, format!("open directory {}", tree.show(&dir.path, name))))
}
