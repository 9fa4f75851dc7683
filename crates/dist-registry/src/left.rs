//! Addresses of uploads, kept over the end of a process: what a killed one sent is gone on with.
//!
//! ```text
//! DIR/<sha256 of registry NUL repository NUL digest>     locked by who sends that blob; the last whole line counts
//! {"location":"https://...","at":0}
//! {"location":"https://...","at":83886080,"hash":"<base64>"}
//! ```
//!
//! An address may be a secret, as it can be all that is asked for to go on, so that nobody else reads
//! these files. A file is removed when its blob has arrived, and by whoever comes after a week:
//! registries forget uploads by then. Nothing is synced, and a file that can't be written or read costs
//! bytes that are sent again, nothing else.

use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dist_core::{Descriptor, Digest, Hasher};
use fs_err as fs;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use url::Url;

/// Smaller blobs are sent again.
const LEAST: u64 = 1 << 20;
/// When what was left is of no use any more.
const OLD: Duration = Duration::from_secs(7 * 24 * 3600);
/// More is no file of ours.
const MOST: u64 = 16 << 20;

/// The file of one blob on its way, locked.
pub(crate) struct Left {
    path: PathBuf,
    file: File,
    is_empty: bool,
}

/// Where an upload was.
pub(crate) struct State {
    pub(crate) location: Url,
    /// How much was hashed, and its hash.
    pub(crate) hashed: Option<(u64, Hasher)>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    location: String,
    at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
}

impl Left {
    /// Opens the file of a blob, made where there is none, with what it says; `None` for small
    /// blobs, and where another process is sending this one.
    pub(crate) fn open(
        dir: &Path,
        place: (&str, &str),
        desc: &Descriptor,
    ) -> io::Result<Option<(Self, Option<State>)>> {
        if desc.size < LEAST {
            return Ok(None);
        }
        if !dir.is_dir() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        remove_old(dir)?;
        let path = path(dir, place, desc);
        let Some(mut file) = lock(&path, true)? else { return Ok(None) };
        let mut text = Vec::new();
        (&mut file).take(MOST).read_to_end(&mut text)?;
        let is_empty = text.is_empty();
        if text.last().is_some_and(|byte| *byte != b'\n') {
            file.write_all(b"\n")?;
        }
        let lines = text.rsplit(|byte| *byte == b'\n');
        let line = lines.filter_map(|line| serde_json::from_slice::<Line>(line).ok()).next();
        let state = line.and_then(|line| state(&line, desc));
        Ok(Some((Self { path, file, is_empty }, state)))
    }

    /// Removes the file of a blob that has arrived.
    pub(crate) fn remove(dir: &Path, place: (&str, &str), desc: &Descriptor) -> io::Result<()> {
        let path = path(dir, place, desc);
        if desc.size >= LEAST
            && let Some(_locked) = lock(&path, false)?
        {
            fs::remove_file(&path)?;
        }
        Ok(())
    }

    /// Notes where the upload is now, and the hash of all before it.
    pub(crate) fn note(
        &mut self,
        location: &Url,
        hashed: Option<&(u64, Hasher)>,
    ) -> io::Result<()> {
        let line = Line {
            location: location.to_string(),
            at: hashed.map_or(0, |(at, _)| *at),
            hash: hashed.map(|(_, hasher)| STANDARD.encode(hasher.save())),
        };
        let mut line = serde_json::to_vec(&line)?;
        line.push(b'\n');
        self.is_empty = false;
        self.file.write_all(&line)
    }

    /// Removes the file: there is nothing left to go on with.
    pub(crate) fn end(mut self) {
        self.is_empty = true;
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        if self.is_empty
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!(%error, "the note of an upload stays");
        }
    }
}

fn path(dir: &Path, (registry, repository): (&str, &str), desc: &Descriptor) -> PathBuf {
    let key = format!("{registry}\0{repository}\0{}", desc.digest);
    dir.join(Digest::sha256(key.as_bytes()).hex())
}

fn state(line: &Line, desc: &Descriptor) -> Option<State> {
    let location = Url::parse(&line.location).ok()?;
    let hashed = || {
        let hash = STANDARD.decode(line.hash.as_deref()?).ok()?;
        let hasher = Hasher::restore(desc.digest.algorithm(), &hash)?;
        (line.at < desc.size).then_some((line.at, hasher))
    };
    Some(State { location, hashed: hashed() })
}

/// Opens and locks a file; `None` where it is locked, or not there and not to be made.
fn lock(path: &Path, create: bool) -> io::Result<Option<File>> {
    loop {
        let flags = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0);
        let mut options = std::fs::OpenOptions::new();
        options.read(true).append(true).create(create).mode(0o600).custom_flags(flags);
        let file = match options.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !create => return Ok(None),
            file => file?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Whoever had it may have removed it.
        let held = file.metadata()?;
        if fs::symlink_metadata(path).is_ok_and(|there| there.ino() == held.ino()) {
            return Ok(Some(file));
        }
    }
}

/// Removes what nobody has written to for long.
fn remove_old(dir: &Path) -> io::Result<()> {
    let Some(since) = SystemTime::now().checked_sub(OLD) else { return Ok(()) };
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let is_old = || fs::symlink_metadata(&path).and_then(|file| file.modified());
        if is_old().is_ok_and(|modified| modified < since)
            && let Some(_locked) = lock(&path, false)?
        {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dist_core::MediaType;

    const REPOSITORY: (&str, &str) = ("r.example.com", "team/app");

    fn desc() -> Descriptor {
        let media_type = MediaType::parse("application/octet-stream");
        Descriptor::new(media_type, Digest::sha256(b"x"), 1 << 30)
    }

    fn open(dir: &Path) -> Option<(Left, Option<State>)> {
        Left::open(dir, REPOSITORY, &desc()).unwrap()
    }

    #[test]
    fn the_last_whole_line_counts_and_half_a_line_harms_none() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("a/uploads");
        let location: Url = "https://r.example.com/v2/u?_state=1".parse().unwrap();
        let (mut left, state) = open(&dir).unwrap();
        assert!(state.is_none());
        assert!(open(&dir).is_none(), "it is locked");
        left.note(&location, None).unwrap();
        let mut hasher = Hasher::sha256();
        hasher.update(b"some");
        left.note(&location, Some(&(4, hasher.clone()))).unwrap();
        left.file.write_all(br#"{"location":"http"#).unwrap();
        let mode = fs::metadata(&left.path).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o600);
        drop(left);
        let (mut left, state) = open(&dir).unwrap();
        let state = state.unwrap();
        assert_eq!(state.location, location);
        let (at, restored) = state.hashed.unwrap();
        assert_eq!((at, restored.finish()), (4, hasher.finish()));
        let other: Url = "https://r.example.com/v2/other".parse().unwrap();
        left.note(&other, None).unwrap();
        drop(left);
        let (left, state) = open(&dir).unwrap();
        assert_eq!(state.unwrap().location, other);
        left.end();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    }

    #[test]
    fn old_files_go_and_empty_ones_do_not_stay() {
        let dir = tempfile::tempdir().unwrap();
        let location: Url = "https://r.example.com/v2/u".parse().unwrap();
        let (mut left, _) = open(dir.path()).unwrap();
        left.note(&location, None).unwrap();
        let old = SystemTime::now() - OLD - Duration::from_secs(60);
        left.file.set_modified(old).unwrap();
        let held = Left::open(dir.path(), ("other", "x"), &desc()).unwrap().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "it is locked");
        drop(held);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        drop(left);
        let (_left, state) = open(dir.path()).unwrap();
        assert!(state.is_none(), "it was old");
        let small = Descriptor { size: 1000, ..desc() };
        assert!(Left::open(dir.path(), REPOSITORY, &small).unwrap().is_none());
    }
}
