//! `parts`: what of an ingest came before its turn, and the hand that writes it.
//!
//! A log of ranges, one a line: `<sha256 of the rest> <first byte> <end> <boot id>`. It is there as
//! long as `data` has, or had, something behind its offset; without it `data` is whole up to its end.
//! A line is written after the bytes that it tells of, so within one boot they are in the file. After
//! another boot nobody knows which of them are, and there is no hash to ask: nothing is believed, and
//! the file is cut at the last offset that a checkpoint vouches for. A line that doesn't match its
//! sum is ignored. Nothing here is synced.

use std::fs::File;
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use dist_core::{Context as _, Digest, Error, ErrorKind, Extents, Parts, Result};

use crate::fsio::{self, at};

/// The log's name in the ingest.
pub(super) const NAME: &str = "parts";

/// Bytes after which a range is told of; a kill costs no more of each.
const STEP: u64 = 1 << 20;

/// A longer log counts as none.
const LOG_LIMIT: u64 = 32 << 20;

fn line(range: &Range<u64>, boot_id: &str) -> String {
    let text = format!("{} {} {boot_id}", range.start, range.end);
    // The newline comes first as well, so that a torn line before doesn't spoil this one.
    format!("\n{} {text}\n", Digest::sha256(text.as_bytes()).hex())
}

fn parse(line: &str) -> Option<(Range<u64>, &str)> {
    let (sum, text) = line.split_once(' ')?;
    let mut fields = text.split(' ');
    let (start, end) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let boot_id = fields.next()?;
    (start < end && Digest::sha256(text.as_bytes()).hex() == sum).then_some((start..end, boot_id))
}

/// What the log of an ingest tells of; `None` where there is no log. Lines of another boot than
/// `boot_id` are left out, where one is given.
pub(super) fn read(dir: &Path, boot_id: Option<&str>) -> Result<Option<Extents>> {
    let path = dir.join(NAME);
    let bytes = match fsio::read_small(&path, LOG_LIMIT) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        Err(error)
            if error
                .find::<io::Error>()
                .is_some_and(|error| error.kind() == io::ErrorKind::FileTooLarge) =>
        {
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    let mut there = Extents::default();
    for (range, boot) in String::from_utf8_lossy(&bytes).lines().filter_map(parse) {
        if boot_id.is_none_or(|boot_id| boot_id == boot) {
            there.insert(range);
        }
    }
    Ok(Some(there))
}

/// Writes parts of one ingest, as long as its writer lives.
#[derive(Debug)]
pub(super) struct PartWriter {
    /// `None` once the writer has ended: nobody may change the file then.
    data: RwLock<Option<File>>,
    state: Mutex<State>,
    dir: PathBuf,
    size: u64,
    boot_id: String,
}

#[derive(Debug)]
struct State {
    there: Extents,
    /// What the log doesn't tell of.
    untold: Extents,
    /// `None` as long as nothing came before its turn.
    log: Option<File>,
    /// What is in the file can't be trusted any more.
    failed: bool,
}

impl PartWriter {
    /// Parts of the ingest at `dir`, which has the bytes `there` in `data`.
    pub(super) fn new(
        dir: &Path,
        data: File,
        (there, size): (Extents, u64),
        boot_id: &str,
    ) -> Self {
        let state = State { there, untold: Extents::default(), log: None, failed: false };
        Self {
            data: RwLock::new(Some(data)),
            state: Mutex::new(state),
            dir: dir.into(),
            size,
            boot_id: boot_id.into(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a log of what is there, in place of one that may be there.
    pub(super) fn begin_log(&self) -> Result<()> {
        let mut state = self.state();
        if state.log.is_some() {
            return Ok(());
        }
        let path = self.dir.join(NAME);
        let new = path.with_extension("new");
        let begin = || {
            let mut file = File::create(&new)?;
            let text: String =
                state.there.iter().map(|range| line(&range, &self.boot_id)).collect();
            file.write_all(text.as_bytes())?;
            std::fs::rename(&new, &path)?;
            Ok(file)
        };
        let begun = begin().map_err(|error: io::Error| error);
        state.log = Some(begun.context(ErrorKind::Storage, || at("write", &path))?);
        Ok(())
    }

    /// Whether there is anything in the file behind its offset, or may be.
    pub(super) fn is_sparse(&self) -> bool {
        self.state().log.is_some()
    }

    /// Notes what was written in its turn.
    pub(super) fn note(&self, range: Range<u64>) -> u64 {
        let mut state = self.state();
        let new = state.there.insert(range.clone());
        if state.log.is_none() {
            return new;
        }
        state.untold.insert(range.clone());
        let joins = state.there.end_at(range.end) > range.end || range.end == self.size;
        let long = |untold: &Range<u64>| joins || untold.end - untold.start >= STEP;
        if let Some(untold) = state.untold.take_at(range.start) {
            if long(&untold) {
                let text = line(&untold, &self.boot_id);
                state.tell(&text);
            } else {
                state.untold.insert(untold);
            }
        }
        new
    }

    /// The first byte from `at` on that is not there.
    pub(super) fn end_at(&self, at: u64) -> u64 {
        self.state().there.end_at(at)
    }

    /// Whether a write failed for another reason than want of room.
    pub(super) fn has_failed(&self) -> bool {
        self.state().failed
    }

    /// Ends all writing. What is there is told of.
    pub(super) fn close(&self) {
        *self.data.write().unwrap_or_else(PoisonError::into_inner) = None;
        let mut state = self.state();
        let untold = std::mem::take(&mut state.untold);
        let text: String = untold.iter().map(|range| line(&range, &self.boot_id)).collect();
        if !text.is_empty() {
            state.tell(&text);
        }
    }
}

impl State {
    /// Adds lines to the log. Failing costs work at a resume and nothing else.
    fn tell(&mut self, text: &str) {
        if let Some(log) = &mut self.log
            && let Err(error) = log.write_all(text.as_bytes())
        {
            tracing::debug!(%error, "tell of a part of an ingest");
        }
    }
}

impl Parts for PartWriter {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<u64> {
        let path = || at("write", &self.dir.join("data"));
        let end = offset.saturating_add(bytes.len() as u64);
        if end > self.size {
            return Err(Error::new(ErrorKind::OutOfRange, path()));
        }
        let data = self.data.read().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = &*data else { return Err(Error::cancelled()) };
        self.begin_log()?;
        if let Err(error) = file.write_all_at(bytes, offset) {
            self.state().failed |= !is_room(&error);
            return Err(error).context(ErrorKind::Storage, path);
        }
        Ok(self.note(offset..end))
    }

    fn there(&self) -> Extents {
        self.state().there.clone()
    }
}

/// Whether a write failed for want of room: then the file is as good as before.
pub(super) fn is_room(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}
