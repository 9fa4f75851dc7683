//! What earlier runs have copied.
//!
//! ```text
//! {"destination":"...","source":"...","how":"...","digest":"sha256:..."}      one line a tag; the last one counts
//! ```
//!
//! A line is added when a tag is at the destination, so that a run that was killed is gone on with.
//! Lines that are lost cost a look at the destination, so that nothing is synced.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use dist_core::{Context as _, Digest, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// One tag that was copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Line {
    pub(super) destination: String,
    pub(super) source: String,
    /// What of it was wanted.
    pub(super) how: String,
    /// What `source` stood for.
    pub(super) digest: Digest,
}

/// The most bytes of a file: some millions of tags.
const MOST_BYTES: u64 = 1 << 30;

/// Lines beyond which a file is written anew, for each tag that it tells of.
const MOST_LINES: usize = 4;

/// The file of one sync, locked.
pub(super) struct State {
    file: Mutex<File>,
    known: HashMap<String, Line>,
}

impl State {
    /// Reads the file; makes it where there is none.
    ///
    /// # Errors
    /// `Busy` where another process has it; `InvalidArgument` for another file; `Storage`.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let what = || format!("open state {}", path.display());
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).context(ErrorKind::Storage, what)?;
        }
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(path).context(ErrorKind::Storage, what)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(ErrorKind::Busy, what()));
            }
            Err(TryLockError::Error(error)) => return Err(error).context(ErrorKind::Storage, what),
        }
        let metadata = file.metadata().context(ErrorKind::Storage, what)?;
        let mut bytes = Vec::new();
        if metadata.is_file() && metadata.len() <= MOST_BYTES {
            file.read_to_end(&mut bytes).context(ErrorKind::Storage, what)?;
        } else {
            let message = format!("{}: it is no regular file of at most 1 GiB", what());
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let mut known = HashMap::new();
        let mut lines = 0;
        // The last line may be half of one.
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            lines += 1;
            if let Ok(line) = serde_json::from_slice::<Line>(line) {
                known.insert(line.destination.clone(), line);
            }
        }
        // After a power cut there may be zeros. What never was such a file is somebody else's.
        if known.is_empty() && bytes.contains(&b'\n') {
            let message = format!("{}: it is another file than `dist sync` writes", what());
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let torn = bytes.last().is_some_and(|byte| *byte != b'\n');
        if torn || lines > MOST_LINES * (known.len() + 16) {
            rewrite(&mut file, &known).context(ErrorKind::Storage, what)?;
        }
        Ok(Self { file: Mutex::new(file), known })
    }

    /// Whether this was copied.
    pub(super) fn has(&self, line: &Line) -> bool {
        self.known.get(&line.destination) == Some(line)
    }

    /// Notes that it was.
    pub(super) fn add(&self, line: &Line) -> Result<()> {
        if self.has(line) {
            return Ok(());
        }
        let what = || format!("note that {} was copied", line.destination);
        let mut bytes = serde_json::to_vec(line).context(ErrorKind::Internal, what)?;
        bytes.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&bytes).context(ErrorKind::Storage, what)
    }
}

fn rewrite(file: &mut File, known: &HashMap<String, Line>) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    for line in known.values() {
        serde_json::to_writer(&mut bytes, line)?;
        bytes.push(b'\n');
    }
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(destination: &str, content: &str) -> Line {
        Line {
            destination: destination.to_owned(),
            source: "a".to_owned(),
            how: String::new(),
            digest: Digest::sha256(content.as_bytes()),
        }
    }

    #[test]
    fn half_a_line_costs_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/state");
        let state = State::open(&path).unwrap();
        assert_eq!(State::open(&path).map(drop).unwrap_err().kind(), ErrorKind::Busy);
        state.add(&line("x", "1")).unwrap();
        state.add(&line("y", "1")).unwrap();
        drop(state);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
        let state = State::open(&path).unwrap();
        assert!(state.has(&line("x", "1")));
        assert!(!state.has(&line("y", "1")));
        state.add(&line("y", "2")).unwrap();
        drop(state);
        let state = State::open(&path).unwrap();
        assert!(state.has(&line("x", "1")) && state.has(&line("y", "2")));
    }

    #[test]
    fn what_is_another_file_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes.txt");
        let text = "mine\n".repeat(100);
        std::fs::write(&path, &text).unwrap();
        let error = State::open(&path).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        let error = State::open(Path::new("/dev/zero")).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn a_file_does_not_grow_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        for count in 0..200 {
            let state = State::open(&path).unwrap();
            state.add(&line("x", &count.to_string())).unwrap();
        }
        assert!(State::open(&path).unwrap().has(&line("x", "199")));
        assert!(std::fs::metadata(&path).unwrap().len() < 20_000);
    }
}
