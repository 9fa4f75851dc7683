//! One path looked up in a layer, without unpacking it.

use std::io::{Read, Write};

use dist_core::{Context as _, Error, ErrorKind, MediaType, Result};

use crate::Limits;
use crate::compression::{Inflater, Stream};
use crate::name::{escape, join, normalize, split};
use crate::tar::{Entry, Kind, Tar};
use crate::whiteout::{Name, classify};

/// What a layer says of a path, as the layers below it do not matter or do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Nothing: the layer below is to be asked. So many of the path's components are known to be
    /// directories.
    Nothing(usize),
    /// It is a file, which was written out.
    File,
    /// It is the path's own or a directory's symlink, which leads to this path from the root.
    Symlink(Vec<u8>),
    /// It is another name of this path in the same layer.
    Link(Vec<u8>),
    /// It is there, and no file.
    NoFile,
    /// It is not there, whatever is below.
    Gone,
}

/// A place to write a file to, which begins anew where the layer has the file once more.
pub trait Spool: Write {
    /// Forgets what was written.
    ///
    /// # Errors
    /// As writing.
    fn restart(&mut self) -> std::io::Result<()>;
}

/// Reads a layer to its end for what it says of `path`; the bytes of a file go to `spool`.
///
/// `dirs` components of the path are directories by what is above the layer. Paths are compared as
/// the layer has them: a symlink below is not looked through for what this layer puts beneath it.
///
/// # Errors
/// `Corrupt`, `Unsupported`; `UnsafeLayer`, `ResourceExhausted` as when it is unpacked; the kinds that
/// `input` and `spool` failed with.
pub fn look_up(
    (media_type, input): (&MediaType, impl Read),
    limits: Limits,
    path: &[u8],
    dirs: usize,
    spool: &mut dyn Spool,
) -> Result<Said> {
    let stream = Stream::over(Inflater::new(media_type, input, limits)?);
    let mut tar = Tar::new(stream, limits);
    let mut looking = Looking {
        path: normalize(path)?,
        said: None,
        links: Vec::new(),
        dirs,
        hidden: false,
        blocked: false,
    };
    let mut entry = Entry::default();
    while tar.next(&mut entry)? {
        if looking.take(&entry)? {
            spool.restart().context(ErrorKind::Storage, || "write the file".into())?;
            write_body(&entry, &mut tar, spool)?;
        }
    }
    tar.finish()?;
    Ok(looking.end())
}

fn write_body<R: Read>(
    entry: &Entry,
    tar: &mut Tar<Inflater<R>>,
    spool: &mut dyn Spool,
) -> Result<()> {
    if entry.regions.is_some() {
        let message = format!("read {}: it is sparse in the layer", escape(&entry.path));
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    loop {
        let chunk = tar.chunk()?;
        if chunk.is_empty() {
            return Ok(());
        }
        spool.write_all(chunk).context(ErrorKind::Storage, || "write the file".into())?;
        let count = chunk.len();
        tar.consume(count);
    }
}

struct Looking {
    path: Vec<u8>,
    /// What the layer last said of the path itself.
    said: Option<Said>,
    /// Symlinks among the directories: after how many components, and the target.
    links: Vec<(usize, Vec<u8>)>,
    dirs: usize,
    /// Whether what is below is hidden.
    hidden: bool,
    /// Whether a directory of the path is none.
    blocked: bool,
}

impl Looking {
    /// Takes an entry; whether it is the file that is looked for.
    fn take(&mut self, entry: &Entry) -> Result<bool> {
        let path = normalize(&entry.path)?;
        if path.is_empty() {
            return Ok(false);
        }
        let (dir, name) = split(&path);
        match classify(dir, name)? {
            Name::Whiteout(hidden) => self.hidden |= self.depth(&join(dir, hidden)).is_some(),
            Name::Opaque => {
                self.hidden |= dir.is_empty() || self.depth(dir).is_some_and(|at| !self.is_all(at));
            }
            Name::Aufs => {}
            Name::Plain => match self.depth(&path) {
                Some(at) if self.is_all(at) => return self.itself(entry, dir),
                Some(at) => self.directory(at, entry, dir),
                None => {}
            },
        }
        Ok(false)
    }

    fn itself(&mut self, entry: &Entry, dir: &[u8]) -> Result<bool> {
        self.said = Some(match entry.kind {
            Kind::File => Said::File,
            Kind::Link => Said::Link(normalize(&entry.link)?),
            Kind::Symlink => Said::Symlink(resolve(dir, &entry.link)),
            _ => Said::NoFile,
        });
        Ok(entry.kind == Kind::File)
    }

    /// Takes an entry for a directory of the path.
    fn directory(&mut self, at: usize, entry: &Entry, dir: &[u8]) {
        self.links.retain(|(other, _)| *other != at);
        match entry.kind {
            Kind::Dir => self.dirs = self.dirs.max(at),
            Kind::Symlink if at > self.dirs => self.links.push((at, resolve(dir, &entry.link))),
            _ if at > self.dirs => self.blocked = true,
            _ => {}
        }
    }

    /// After how many components the path comes through `other`.
    fn depth(&self, other: &[u8]) -> Option<usize> {
        let rest = self.path.strip_prefix(other)?;
        let through = rest.is_empty() || rest.starts_with(b"/");
        through.then(|| components(other))
    }

    fn is_all(&self, at: usize) -> bool {
        at == components(&self.path)
    }

    fn end(self) -> Said {
        let Self { path, said, links, dirs, hidden, blocked } = self;
        if let Some(said) = said {
            return said;
        }
        let link = links.into_iter().filter(|(at, _)| *at > dirs).min_by_key(|(at, _)| *at);
        if let Some((at, target)) = link {
            let rest = path.split(|&byte| byte == b'/').skip(at);
            return Said::Symlink(rest.fold(target, |path, name| join(&path, name)));
        }
        if hidden || blocked { Said::Gone } else { Said::Nothing(dirs) }
    }
}

fn components(path: &[u8]) -> usize {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).count()
}

/// Where a symlink in `dir` leads, from the root, above which there is nothing.
fn resolve(dir: &[u8], target: &[u8]) -> Vec<u8> {
    let mut at = if target.starts_with(b"/") { Vec::new() } else { dir.to_vec() };
    for name in target.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => at = split(&at).0.to_vec(),
            name => at = join(&at, name),
        }
    }
    at
}
