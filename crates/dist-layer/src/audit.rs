//! All that is wrong with a layer, without unpacking it.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io::Read;

use dist_core::{DiffId, Error, ErrorKind, MediaType, Result};

use crate::Limits;
use crate::compression::{Inflater, Stream};
use crate::name::{join, normalize, show, split};
use crate::tar::{Entry, Fault, Kind, Tar};
use crate::warnings::Warnings;
use crate::whiteout::{Name, classify, is_host_xattr, is_private_xattr};
use crate::xattrs::{CAPABILITY, sift};

/// How bad something is that was found in content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// It breaks what the specification demands, or it is refused when it is used.
    Error,
    /// It breaks what the specification recommends, or tools differ about it.
    Warning,
    /// It is allowed, and worth a look.
    Note,
}

/// Something about an entry of a layer, or about the layer as a whole.
#[derive(Debug)]
pub struct LayerFlaw {
    /// How bad it is.
    pub severity: Severity,
    /// The entry's path, escaped; empty for the layer.
    pub path: String,
    /// What it is.
    pub what: String,
    /// The error that unpacking it would give, where there is one.
    pub cause: Option<Error>,
    /// Which part of the specification speaks of it, as `layer.md#whiteouts`.
    pub spec: &'static str,
}

/// The most paths that are remembered, so that duplicates and links' targets are found.
const PATHS: usize = 1 << 20;

/// Bytes of symlinks' targets that are remembered.
const TARGETS: usize = 16 << 20;

/// Symlinks on one path, as the kernel has it.
const SYMLINKS: usize = 40;

/// Linux' limits for a name and for a symlink's target.
const NAME_MAX: usize = 255;
const TARGET_MAX: usize = 4095;

const TAR: &str = "layer.md#distributable-format";
const TYPES: &str = "layer.md#file-types";
const LINKS: &str = "layer.md#hardlinks";
const WHITEOUTS: &str = "layer.md#whiteouts";
const ATTRIBUTES: &str = "layer.md#file-attributes";
const DUPLICATES: &str = "layer.md#creating";

/// Reads a layer to its end and reports everything in it that is not as it should be. Returns its diff
/// ID; `None` where its bytes can't be decompressed, which is reported.
///
/// Memory does not grow with contents, only with the number of paths, and with that up to a million.
///
/// # Errors
/// The kinds that `input` failed with, where they are not about the layer's own bytes.
pub fn audit_layer(
    (media_type, input): (&MediaType, impl Read),
    limits: Limits,
    report: &mut dyn FnMut(LayerFlaw),
) -> Result<Option<DiffId>> {
    let mut audit = Audit {
        report,
        seen: HashMap::new(),
        targets: HashMap::new(),
        target_bytes: 0,
        keys: RandomState::new(),
        full: false,
    };
    let inflater = match Inflater::new(media_type, input, limits) {
        Ok(inflater) => inflater,
        Err(error) => return audit.refused("", error).map(|()| None),
    };
    let mut tar = Tar::new(Stream::over(inflater), limits);
    let mut entry = Entry::default();
    loop {
        match tar.next(&mut entry) {
            Ok(true) => audit.entry(&mut entry)?,
            Ok(false) => break,
            Err(error) => {
                let readable = error.find::<Fault>().is_some();
                audit.refused("", error)?;
                if !readable {
                    return Ok(None);
                }
                break;
            }
        }
    }
    match tar.finish() {
        Ok((diff_id, _)) => Ok(Some(diff_id)),
        Err(error) => audit.refused("", error).map(|()| None),
    }
}

struct Audit<'a> {
    report: &'a mut dyn FnMut(LayerFlaw),
    /// What the paths are, by their hashes under a key of this process.
    seen: HashMap<u64, Kind>,
    /// Where symlinks lead.
    targets: HashMap<u64, Vec<u8>>,
    target_bytes: usize,
    keys: RandomState,
    /// Whether there were too many of them.
    full: bool,
}

impl Audit<'_> {
    fn tell(
        &mut self,
        severity: Severity,
        path: &[u8],
        what: impl Into<String>,
        spec: &'static str,
    ) {
        let (path, what) = (show(path), what.into());
        (self.report)(LayerFlaw { severity, path, what, cause: None, spec });
    }

    /// Reports what unpacking would fail with; fails with what is not the layer's fault.
    fn refused(&mut self, path: &str, error: Error) -> Result<()> {
        let (what, spec) = match error.kind() {
            ErrorKind::Corrupt => ("it is malformed", TAR),
            ErrorKind::Unsupported => ("it is not supported", TYPES),
            ErrorKind::UnsafeLayer => ("it is unsafe", TYPES),
            ErrorKind::ResourceExhausted => ("it exceeds a limit", TAR),
            _ => return Err(error),
        };
        let (path, what) = (path.to_owned(), what.to_owned());
        (self.report)(LayerFlaw {
            severity: Severity::Error,
            path,
            what,
            cause: Some(error),
            spec,
        });
        Ok(())
    }

    fn get(&self, path: &[u8]) -> Option<Kind> {
        self.seen.get(&self.keys.hash_one(path)).copied()
    }

    fn entry(&mut self, entry: &mut Entry) -> Result<()> {
        let path = match normalize(&entry.path) {
            Ok(path) => path,
            Err(error) => return self.refused(&show(&entry.path), error),
        };
        if path.is_empty() {
            if entry.kind != Kind::Dir {
                self.tell(Severity::Error, b"/", "the root is no directory", TYPES);
            }
            return Ok(());
        }
        let (dir, name) = split(&path);
        match classify(dir, name) {
            Err(error) => return self.refused(&show(&path), error),
            Ok(Name::Aufs) => {
                self.tell(Severity::Warning, &path, "bookkeeping of aufs, not unpacked", WHITEOUTS);
                return Ok(());
            }
            Ok(Name::Whiteout(_) | Name::Opaque) => self.whiteout(entry, &path),
            Ok(Name::Plain) => self.node(entry, &path)?,
        }
        if name.len() > NAME_MAX {
            self.tell(Severity::Error, &path, "its name is longer than 255 bytes", TYPES);
        }
        let path = self.way(dir, name, &path);
        self.remember(entry, path);
        Ok(())
    }

    fn whiteout(&mut self, entry: &Entry, path: &[u8]) {
        if !matches!(entry.kind, Kind::File | Kind::Link) {
            self.tell(Severity::Error, path, "the whiteout is no file", WHITEOUTS);
        } else if entry.size > 0 {
            self.tell(Severity::Warning, path, "the whiteout is not empty", WHITEOUTS);
        }
    }

    fn node(&mut self, entry: &mut Entry, path: &[u8]) -> Result<()> {
        match entry.kind {
            Kind::Link => self.link(entry, path)?,
            Kind::Symlink if entry.link.is_empty() => {
                self.tell(Severity::Error, path, "the symlink has no target", TYPES);
            }
            Kind::Symlink if entry.link.len() > TARGET_MAX => {
                let what = "the symlink's target is longer than 4095 bytes";
                self.tell(Severity::Error, path, what, TYPES);
            }
            Kind::Char if entry.device == (0, 0) => {
                let what = "the device 0:0 is a whiteout of overlayfs, and not unpacked";
                self.tell(Severity::Warning, path, what, TYPES);
            }
            Kind::Char | Kind::Block => {
                let (major, minor) = entry.device;
                let noun = if entry.kind == Kind::Char { "character" } else { "block" };
                self.tell(Severity::Note, path, format!("{noun} device {major}:{minor}"), TYPES);
            }
            Kind::File if entry.mode & 0o6000 != 0 => {
                let bits = match entry.mode & 0o6000 {
                    0o4000 => "setuid",
                    0o2000 => "setgid",
                    _ => "setuid and setgid",
                };
                let what =
                    format!("{bits}, mode {:04o}, owner {}:{}", entry.mode, entry.uid, entry.gid);
                self.tell(Severity::Note, path, what, ATTRIBUTES);
            }
            Kind::File | Kind::Dir | Kind::Symlink | Kind::Fifo => {}
        }
        for (key, _) in &entry.xattrs {
            if is_private_xattr(key) || is_host_xattr(key) {
                let what = format!("the attribute {} is not unpacked", show(key));
                self.tell(Severity::Warning, path, what, ATTRIBUTES);
            } else if key == CAPABILITY {
                self.tell(Severity::Note, path, "capabilities", ATTRIBUTES);
            }
        }
        match sift(entry, &mut Warnings::default()) {
            Err(error) => self.refused(&show(path), error),
            Ok(()) => Ok(()),
        }
    }

    fn link(&mut self, entry: &Entry, path: &[u8]) -> Result<()> {
        let target = match normalize(&entry.link) {
            Ok(target) => target,
            Err(error) => return self.refused(&show(path), error),
        };
        let what = |problem: &str| format!("the hard link to {}: {problem}", show(&target));
        let (dir, name) = split(&target);
        let target = self.resolve(dir).map(|dir| join(&dir, name));
        let Some(target) = target else {
            self.tell(Severity::Error, path, what("there are too many symlinks"), LINKS);
            return Ok(());
        };
        if target == path {
            self.tell(Severity::Error, path, what("it is the link itself"), LINKS);
        } else if self.get(&target) == Some(Kind::Dir) || target.is_empty() {
            self.tell(Severity::Error, path, what("it is a directory"), LINKS);
        } else if self.get(&target).is_none() && !self.full {
            self.tell(Severity::Error, path, what("it is not in the layer before it"), LINKS);
        }
        Ok(())
    }

    /// Where the directory `path` is, through the layer's symlinks and beneath its root; nothing where
    /// there are too many of them.
    fn resolve(&self, path: &[u8]) -> Option<Vec<u8>> {
        let parts = |path: &[u8]| -> Vec<Vec<u8>> {
            let parts =
                path.split(|&byte| byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
            parts.rev().map(<[u8]>::to_vec).collect()
        };
        let (mut at, mut left, mut links) = (Vec::new(), parts(path), 0);
        while let Some(part) = left.pop() {
            if part == b".." {
                at = split(&at).0.to_vec();
                continue;
            }
            let next = join(&at, &part);
            match self.targets.get(&self.keys.hash_one(next.as_slice())) {
                Some(target) if self.get(&next) == Some(Kind::Symlink) => {
                    links += 1;
                    if links > SYMLINKS || left.len() > TARGET_MAX {
                        return None;
                    }
                    if target.starts_with(b"/") {
                        at.clear();
                    }
                    left.extend(parts(target));
                }
                _ => at = next,
            }
        }
        Some(at)
    }

    /// The directories on the way to `path`, the nearest last.
    fn ways(path: &[u8]) -> impl Iterator<Item = &[u8]> {
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        slashes.map(|(at, _)| &path[..at])
    }

    /// Looks at the directories that the entry is put in; returns where it comes to be.
    fn way(&mut self, dir: &[u8], name: &[u8], path: &[u8]) -> Vec<u8> {
        let Some(resolved) = self.resolve(dir) else {
            self.tell(Severity::Error, path, "it is put through too many symlinks", TYPES);
            return path.to_vec();
        };
        if resolved != dir {
            let what = format!("it is put through a symlink, into /{}", show(&resolved));
            self.tell(Severity::Warning, path, what, TYPES);
        }
        let real = join(&resolved, name);
        let is_other = |dir: &&[u8]| self.get(dir).is_some_and(|kind| kind != Kind::Dir);
        if let Some(odd) = Self::ways(&real).find(is_other).map(show) {
            self.tell(Severity::Error, path, format!("{odd} is no directory"), TYPES);
        }
        real
    }

    fn remember(&mut self, entry: &Entry, path: Vec<u8>) {
        let before = if self.seen.len() < PATHS {
            self.seen.insert(self.keys.hash_one(path.as_slice()), entry.kind)
        } else {
            if !std::mem::replace(&mut self.full, true) {
                let what = format!("it has more than {PATHS} paths: duplicates are not all found");
                self.tell(Severity::Note, b"", what, DUPLICATES);
            }
            self.get(&path)
        };
        if entry.kind == Kind::Symlink && self.target_bytes + entry.link.len() <= TARGETS {
            self.target_bytes += entry.link.len();
            self.targets.insert(self.keys.hash_one(path.as_slice()), entry.link.clone());
        }
        match before {
            Some(Kind::Dir) if entry.kind == Kind::Dir => {
                self.tell(Severity::Warning, &path, "the directory is there twice", DUPLICATES);
            }
            Some(_) => self.tell(Severity::Error, &path, "the path is there twice", DUPLICATES),
            None => {}
        }
    }
}
