//! Makes a tree from a tar with as few system calls as there can be.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, chmodat, chownat, fchmod,
    fchown, futimens, linkat, makedev, mkdirat, mknodat, openat, symlinkat, utimensat,
};

use crate::Result;

const BLOCK: usize = 512;
/// Directories that stay open.
const OPEN: usize = 512;

/// A tar whose bytes are fed as they come.
pub(crate) struct Untar {
    root: OwnedFd,
    open: HashMap<Vec<u8>, OwnedFd>,
    times: Vec<(Vec<u8>, i64)>,
    header: Vec<u8>,
    body: Body,
    /// Bytes of the body, then of its padding, still to come.
    left: u64,
    padding: u64,
    next: Overrides,
    entries: u64,
    ended: bool,
}

enum Body {
    None,
    File(File, Attributes),
    /// What names the next entry, by the type of its header.
    Names(u8, Vec<u8>),
}

struct Attributes {
    mode: u32,
    owner: (u32, u32),
    mtime: i64,
}

/// What extended headers say of the entry behind them.
#[derive(Default)]
struct Overrides {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Untar {
    pub(crate) fn new(root: &Path) -> Result<Self> {
        let root = openat(CWD, root, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self {
            root,
            open: HashMap::new(),
            times: Vec::new(),
            header: Vec::with_capacity(BLOCK),
            body: Body::None,
            left: 0,
            padding: 0,
            next: Overrides::default(),
            entries: 0,
            ended: false,
        })
    }

    /// Takes the next bytes of the tar.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() && !self.ended {
            if self.left > 0 {
                let (part, rest) = bytes.split_at(bytes.len().min(usize::try_from(self.left)?));
                match &mut self.body {
                    Body::File(file, _) => file.write_all(part)?,
                    Body::Names(_, names) => names.extend_from_slice(part),
                    Body::None => {}
                }
                self.left -= part.len() as u64;
                bytes = rest;
                if self.left == 0 {
                    self.end_of_body()?;
                }
            } else if self.padding > 0 {
                let count = bytes.len().min(usize::try_from(self.padding)?);
                self.padding -= count as u64;
                bytes = &bytes[count..];
            } else {
                let count = bytes.len().min(BLOCK - self.header.len());
                self.header.extend_from_slice(&bytes[..count]);
                bytes = &bytes[count..];
                if self.header.len() == BLOCK {
                    let header = std::mem::take(&mut self.header);
                    self.entry(&header)?;
                    self.header = header;
                    self.header.clear();
                }
            }
        }
        Ok(())
    }

    /// Gives directories their times; returns how many entries there were.
    pub(crate) fn finish(mut self) -> Result<u64> {
        if !self.ended {
            return Err("the tar has no end".into());
        }
        for (path, mtime) in std::mem::take(&mut self.times).into_iter().rev() {
            utimensat(&self.root, path.as_slice(), &times(mtime), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(self.entries)
    }

    fn end_of_body(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.body, Body::None) {
            Body::File(file, attributes) => finish_file(file.as_fd(), &attributes)?,
            Body::Names(kind, names) => self.names(kind, names)?,
            Body::None => {}
        }
        Ok(())
    }

    fn names(&mut self, kind: u8, mut names: Vec<u8>) -> Result<()> {
        if kind != b'x' {
            names.truncate(names.iter().position(|&byte| byte == 0).unwrap_or(names.len()));
            let place = if kind == b'L' { &mut self.next.path } else { &mut self.next.link };
            *place = Some(names);
            return Ok(());
        }
        let mut rest = names.as_slice();
        while let Some(space) = rest.iter().position(|&byte| byte == b' ') {
            let length: usize = str::from_utf8(&rest[..space])?.parse()?;
            let record = rest.get(space + 1..length - 1).ok_or("a record is cut off")?;
            let equals =
                record.iter().position(|&byte| byte == b'=').ok_or("a record is no pair")?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => self.next.path = Some(value.to_vec()),
                b"linkpath" => self.next.link = Some(value.to_vec()),
                b"size" => self.next.size = Some(str::from_utf8(value)?.parse()?),
                _ => {}
            }
            rest = &rest[length..];
        }
        Ok(())
    }

    fn entry(&mut self, header: &[u8]) -> Result<()> {
        if header.iter().all(|&byte| byte == 0) {
            self.ended = true;
            return Ok(());
        }
        let kind = header[156];
        let named = number(&header[124..136])?;
        let names = matches!(kind, b'x' | b'g' | b'L' | b'K');
        let next = if names { Overrides::default() } else { std::mem::take(&mut self.next) };
        let size = if names { named } else { next.size.unwrap_or(named) };
        self.left = if matches!(kind, b'1'..=b'6') { 0 } else { size };
        self.padding = self.left.next_multiple_of(BLOCK as u64) - self.left;
        if names {
            self.body = Body::Names(kind, Vec::new());
            return Ok(());
        }
        self.entries += 1;
        let path = next.path.unwrap_or_else(|| name_of(header));
        let link = next.link.unwrap_or_else(|| text(&header[157..257]).to_vec());
        let attributes = Attributes {
            mode: number(&header[100..108])? as u32 & 0o7777,
            owner: (number(&header[108..116])? as u32, number(&header[116..124])? as u32),
            mtime: number(&header[136..148])? as i64,
        };
        self.make(kind, clean(&path), &link, attributes, header)
    }

    fn make(
        &mut self,
        kind: u8,
        path: &[u8],
        link: &[u8],
        attributes: Attributes,
        header: &[u8],
    ) -> Result<()> {
        let (parent, name) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&[][..], path),
        };
        if name.is_empty() || name == b"." {
            return Ok(());
        }
        let link = if kind == b'1' { clean(link) } else { link };
        let mode = Mode::from_raw_mode(attributes.mode);
        let empty = self.left == 0;
        let dir = self.dir(parent)?;
        match kind {
            b'5' => {
                match mkdirat(dir, name, mode) {
                    Err(error) if error != rustix::io::Errno::EXIST => return Err(error.into()),
                    _ => {}
                }
                if attributes.owner != (0, 0) || attributes.mode & 0o7000 != 0 {
                    own(dir, name, &attributes)?;
                    chmodat(dir, name, mode, AtFlags::empty())?;
                }
                self.times.push((path.to_vec(), attributes.mtime));
            }
            b'1' => {
                let root = &self.root;
                let dir = if parent.is_empty() { root } else { &self.open[parent] };
                linkat(root, link, dir, name, AtFlags::empty())?;
            }
            b'2' => {
                symlinkat(link, dir, name)?;
                settle(dir, name, &attributes)?;
            }
            b'3' | b'4' | b'6' => {
                let device =
                    makedev(number(&header[329..337])? as u32, number(&header[337..345])? as u32);
                let kind = match kind {
                    b'3' => FileType::CharacterDevice,
                    b'4' => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                mknodat(dir, name, kind, mode, device)?;
                settle(dir, name, &attributes)?;
            }
            _ if empty => {
                mknodat(dir, name, FileType::RegularFile, mode, 0)?;
                settle(dir, name, &attributes)?;
            }
            _ => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let file = openat(dir, name, flags, mode)?;
                self.body = Body::File(File::from(file), attributes);
            }
        }
        Ok(())
    }

    fn dir(&mut self, path: &[u8]) -> Result<BorrowedFd<'_>> {
        if path.is_empty() {
            return Ok(self.root.as_fd());
        }
        if !self.open.contains_key(path) {
            if self.open.len() == OPEN {
                self.open.clear();
            }
            let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::PATH;
            let opened = match openat(&self.root, path, flags, Mode::empty()) {
                Err(rustix::io::Errno::NOENT) => {
                    let mut at = 0;
                    while let Some(slash) = path[at..].iter().position(|&byte| byte == b'/') {
                        at += slash;
                        let _exists = mkdirat(&self.root, &path[..at], Mode::from_raw_mode(0o755));
                        at += 1;
                    }
                    mkdirat(&self.root, path, Mode::from_raw_mode(0o755))?;
                    openat(&self.root, path, flags, Mode::empty())?
                }
                opened => opened?,
            };
            self.open.insert(path.to_vec(), opened);
        }
        Ok(self.open[path].as_fd())
    }
}

fn finish_file(file: BorrowedFd<'_>, attributes: &Attributes) -> Result<()> {
    let (user, group) = attributes.owner;
    if attributes.owner != (0, 0) {
        fchown(file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
        if attributes.mode & 0o6000 != 0 {
            fchmod(file, Mode::from_raw_mode(attributes.mode))?;
        }
    }
    Ok(futimens(file, &times(attributes.mtime))?)
}

fn own(dir: BorrowedFd<'_>, name: &[u8], attributes: &Attributes) -> Result<()> {
    let (user, group) = attributes.owner;
    if attributes.owner != (0, 0) {
        let (user, group) = (Some(Uid::from_raw(user)), Some(Gid::from_raw(group)));
        chownat(dir, name, user, group, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

fn settle(dir: BorrowedFd<'_>, name: &[u8], attributes: &Attributes) -> Result<()> {
    own(dir, name, attributes)?;
    Ok(utimensat(dir, name, &times(attributes.mtime), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn times(mtime: i64) -> Timestamps {
    let time = Timespec { tv_sec: mtime, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

/// The bytes before the first NUL.
fn text(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|&byte| byte == 0).unwrap_or(field.len())]
}

fn name_of(header: &[u8]) -> Vec<u8> {
    let (prefix, name) = (text(&header[345..500]), text(&header[..100]));
    let ustar = &header[257..263] == b"ustar\0" && !prefix.is_empty();
    if ustar { [prefix, b"/", name].concat() } else { name.to_vec() }
}

/// Without `./` before it and a slash behind it.
fn clean(mut path: &[u8]) -> &[u8] {
    while let Some(rest) = path.strip_prefix(b"./").or_else(|| path.strip_prefix(b"/")) {
        path = rest;
    }
    path.strip_suffix(b"/").unwrap_or(path)
}

/// Octal, or base 256 where the first bit is set.
fn number(field: &[u8]) -> Result<u64> {
    if field[0] & 0x80 != 0 {
        return Ok(field[1..].iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte)));
    }
    let digits = str::from_utf8(text(field))?.trim();
    Ok(if digits.is_empty() { 0 } else { u64::from_str_radix(digits, 8)? })
}
