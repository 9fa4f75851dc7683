//! What a tar's entries say, for whoever lays them down.

use dist_core::{Cancel, Error, ErrorKind, Result, ResultExt};

use crate::compression::Chunks;
use crate::name::{escape, normalize, split};
use crate::tar::{Entry, Kind, Tar};
use crate::warnings::Warnings;
use crate::whiteout::{Name, classify};
use crate::xattrs::sift;

/// What entries become. `name` is never empty; what has it before is replaced, but for directories.
pub(crate) trait Entries {
    /// A directory of it.
    type Dir;

    fn warnings(&mut self) -> &mut Warnings;

    /// Finds the directory at a path; makes what is missing of it.
    fn parent(&mut self, path: &[u8]) -> Result<Self::Dir>;

    /// Takes what the layer says of its root.
    fn root(&mut self, entry: &mut Entry) -> Result<()>;

    /// Hides `name` below.
    fn whiteout(&mut self, entry: &Entry, dir: &Self::Dir, name: &[u8]) -> Result<()>;

    /// Hides all that a directory has below.
    fn opaque(&mut self, dir: &Self::Dir) -> Result<()>;

    /// Makes what an ordinary entry is; its body is what `tar` has next.
    fn node<C: Chunks>(
        &mut self,
        entry: &mut Entry,
        tar: &mut Tar<C>,
        dir: &Self::Dir,
        name: &[u8],
    ) -> Result<()>;
}

/// Lays down every entry of `tar`, whose stream is then not yet read to its end.
///
/// # Errors
/// `UnsafeLayer` for a root that is no directory; `Corrupt` for a whiteout that is no file; what
/// [`normalize`], [`classify`], `tar` and `entries` return; `Cancelled`.
pub(crate) fn lay_down<C: Chunks>(
    tar: &mut Tar<C>,
    entries: &mut impl Entries,
    cancel: &Cancel,
) -> Result<()> {
    let mut entry = Entry::default();
    while tar.next(&mut entry)? {
        cancel.check()?;
        one(&mut entry, tar, entries)
            .during(|| format!("unpack entry {} at byte {}", escape(&entry.path), entry.offset))?;
    }
    Ok(())
}

fn one<C: Chunks>(entry: &mut Entry, tar: &mut Tar<C>, entries: &mut impl Entries) -> Result<()> {
    let path = normalize(&entry.path)?;
    if path.is_empty() {
        if entry.kind != Kind::Dir {
            let message = "replace the layer's root: it must stay a directory";
            return Err(Error::new(ErrorKind::UnsafeLayer, message));
        }
        sift(entry, entries.warnings())?;
        return entries.root(entry);
    }
    let (parent, name) = split(&path);
    let meaning = classify(parent, name)?;
    if matches!(meaning, Name::Whiteout(_) | Name::Opaque)
        && !matches!(entry.kind, Kind::File | Kind::Link)
    {
        return Err(Error::new(ErrorKind::Corrupt, "read whiteout: it is no file"));
    }
    if meaning == Name::Aufs {
        entries.warnings().add("bookkeeping of aufs skipped", &entry.path);
        return Ok(());
    }
    let dir = entries.parent(parent)?;
    match meaning {
        Name::Whiteout(hidden) => entries.whiteout(entry, &dir, hidden),
        Name::Opaque => entries.opaque(&dir),
        Name::Plain | Name::Aufs => {
            sift(entry, entries.warnings())?;
            entries.node(entry, tar, &dir, name)
        }
    }
}
