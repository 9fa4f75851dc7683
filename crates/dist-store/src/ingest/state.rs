//! `state`: what lets a resume go on without reading everything again.
//!
//! A log of checkpoints, one a line: `<sha256 of the rest> <offset> <algorithm> <hash state in hex>
//! <boot id>`. A line that doesn't match its sum is ignored, so a torn one costs nothing but
//! itself. Nothing here is synced.
//!
//! Within one boot the bytes before a checkpoint are in the file, because they were written before
//! it: the hash goes on from its state. After another boot they may be gone while the checkpoint is
//! there, so the file is hashed from its start and kept as far as the last checkpoint that agrees.

use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::path::Path;

use dist_core::{Cancel, Context as _, Digest, ErrorKind, Hasher, Result};

use crate::fsio::{self, at};

/// A longer log counts as none; a checkpoint each 8 MiB makes this enough for 700 GiB.
const LOG_LIMIT: u64 = 32 << 20;

/// A hash state and the offset it belongs to.
#[derive(Clone, Debug)]
pub(super) struct Checkpoint {
    pub(super) offset: u64,
    pub(super) hasher: Hasher,
    pub(super) boot_id: String,
}

impl Checkpoint {
    fn line(&self) -> String {
        let text = format!(
            "{} {} {} {}",
            self.offset,
            self.hasher.algorithm(),
            hex::encode(self.hasher.save()),
            self.boot_id
        );
        // The newline comes first as well, so that a torn line before doesn't spoil this one.
        format!("\n{} {text}\n", Digest::sha256(text.as_bytes()).hex())
    }

    fn parse(line: &str) -> Option<Self> {
        let (sum, text) = line.split_once(' ')?;
        if Digest::sha256(text.as_bytes()).hex() != sum {
            return None;
        }
        let mut fields = text.split(' ');
        let offset = fields.next()?.parse().ok()?;
        let algorithm = fields.next()?;
        let hasher = Hasher::restore(algorithm, &hex::decode(fields.next()?).ok()?)?;
        Some(Self { offset, hasher, boot_id: fields.next()?.into() })
    }
}

/// The log of one ingest, open for appending.
#[derive(Debug)]
pub(super) struct Log(File);

impl Log {
    /// Reads the checkpoints of an earlier writer, ordered by offset.
    pub(super) fn read(path: &Path) -> Result<Vec<Checkpoint>> {
        let bytes = match fsio::read_small(path, LOG_LIMIT) {
            Ok(bytes) => bytes.unwrap_or_default(),
            Err(error) if is_too_large(&error) => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut checkpoints: Vec<_> =
            String::from_utf8_lossy(&bytes).lines().filter_map(Checkpoint::parse).collect();
        checkpoints.sort_by_key(|checkpoint| checkpoint.offset);
        Ok(checkpoints)
    }

    /// Begins a log that holds `checkpoints`, in place of the one that is there.
    pub(super) fn start(path: &Path, checkpoints: &[Checkpoint]) -> Result<Self> {
        let new = path.with_extension("new");
        let start = || {
            let mut file = File::create(&new)?;
            let text: String = checkpoints.iter().map(Checkpoint::line).collect();
            file.write_all(text.as_bytes())?;
            std::fs::rename(&new, path)?;
            Ok(Self(file))
        };
        start().map_err(|error: io::Error| error).context(ErrorKind::Storage, || at("write", path))
    }

    /// Adds a checkpoint. Failing costs work at a resume and nothing else.
    pub(super) fn append(&mut self, checkpoint: &Checkpoint) {
        if let Err(error) = self.0.write_all(checkpoint.line().as_bytes()) {
            tracing::debug!(%error, "save the state of an ingest");
        }
    }
}

fn is_too_large(error: &dist_core::Error) -> bool {
    error.find::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::FileTooLarge)
}

/// Finds how much of `data` can be kept and its hash; behind `length` nothing is there.
///
/// `log` is shortened to the checkpoints that still hold.
pub(super) fn restore(
    (data, length): (&mut File, u64),
    log: &mut Vec<Checkpoint>,
    fresh: Hasher,
    boot_id: &str,
    cancel: &Cancel,
) -> io::Result<(u64, Hasher)> {
    let same_boot = log.iter().any(|checkpoint| checkpoint.boot_id == boot_id);
    log.retain(|checkpoint| {
        checkpoint.offset <= length && checkpoint.hasher.algorithm() == fresh.algorithm()
    });
    if !same_boot {
        return restore_after_boot(data, log, fresh, cancel);
    }
    let last = log.iter().rev().find(|checkpoint| checkpoint.boot_id == boot_id);
    let (from, mut hasher) =
        last.map_or((0, fresh), |checkpoint| (checkpoint.offset, checkpoint.hasher.clone()));
    data.seek(io::SeekFrom::Start(from))?;
    let rest = fsio::hash(data, length - from, &mut hasher, cancel)?;
    Ok((from + rest, hasher))
}

fn restore_after_boot(
    data: &mut File,
    log: &mut Vec<Checkpoint>,
    fresh: Hasher,
    cancel: &Cancel,
) -> io::Result<(u64, Hasher)> {
    let mut good = (0, fresh.clone());
    let mut hasher = fresh;
    let mut at = 0;
    data.rewind()?;
    for checkpoint in log.drain(..) {
        at += fsio::hash(data, checkpoint.offset - at, &mut hasher, cancel)?;
        if at != checkpoint.offset || hasher.save() != checkpoint.hasher.save() {
            break;
        }
        good = (at, hasher.clone());
    }
    Ok(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashed(bytes: &[u8]) -> Hasher {
        let mut hasher = Hasher::sha256();
        hasher.update(bytes);
        hasher
    }

    fn checkpoint(bytes: &[u8], offset: usize, boot_id: &str) -> Checkpoint {
        Checkpoint {
            offset: offset as u64,
            hasher: hashed(&bytes[..offset]),
            boot_id: boot_id.into(),
        }
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn lines_round_trip_and_damaged_ones_are_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let bytes = vec![7; 100];
        let mut log = Log::start(&path, &[checkpoint(&bytes, 0, "a")]).unwrap();
        log.append(&checkpoint(&bytes, 40, "a"));
        log.0.write_all(b"\n0123 40 sha256 torn").unwrap();
        log.append(&checkpoint(&bytes, 64, "a"));
        let offsets =
            |path: &Path| Log::read(path).unwrap().iter().map(|c| c.offset).collect::<Vec<_>>();
        assert_eq!(offsets(&path), [0, 40, 64]);
        let text = std::fs::read_to_string(&path).unwrap().replace(" 64 ", " 65 ");
        std::fs::write(&path, text).unwrap();
        assert_eq!(offsets(&path), [0, 40]);
        std::fs::write(&path, [0xff; 4000]).unwrap();
        assert_eq!(offsets(&path), [0_u64; 0]);
        assert_eq!(offsets(&dir.path().join("none")), [0_u64; 0]);
    }

    #[test]
    fn where_a_resume_begins() {
        let bytes: Vec<u8> = (0..200).collect();
        let mut holed = bytes.clone();
        holed[70] ^= 1;
        let log = |boots: [&str; 3]| {
            vec![
                checkpoint(&bytes, 0, boots[0]),
                checkpoint(&bytes, 64, boots[1]),
                checkpoint(&bytes, 128, boots[2]),
            ]
        };
        for (what, mut log, data, offset) in [
            ("same boot: all", log(["b"; 3]), &bytes[..], 200),
            (
                "same boot, no checkpoint but the first",
                vec![checkpoint(&bytes, 0, "b")],
                &bytes,
                200,
            ),
            ("same boot, state beyond the file", log(["b"; 3]), &bytes[..100], 100),
            ("other boot: to the last checkpoint", log(["a"; 3]), &bytes, 128),
            ("other boot, bytes lost", log(["a"; 3]), &holed, 64),
            ("other boot, short file", log(["a"; 3]), &bytes[..100], 64),
            ("no state: nothing can be said", vec![], &bytes, 0),
            ("both: this boot had checked", log(["a", "b", "b"]), &bytes, 200),
        ] {
            let (got, hasher) = restore(
                (&mut file(data), data.len() as u64),
                &mut log,
                Hasher::sha256(),
                "b",
                &Cancel::default(),
            )
            .unwrap();
            assert_eq!(got, offset, "{what}");
            let expected = hashed(&data[..usize::try_from(got).unwrap()]);
            assert_eq!(hasher.finish(), expected.finish(), "{what}");
        }
    }

    #[test]
    fn within_a_boot_nothing_is_read_twice() {
        let bytes = [1; 200];
        let mut log = vec![checkpoint(&bytes, 128, "b")];
        let mut changed = bytes;
        changed[3] = 2;
        let (_, hasher) = restore(
            (&mut file(&changed), 200),
            &mut log,
            Hasher::sha256(),
            "b",
            &Cancel::default(),
        )
        .unwrap();
        assert_eq!(hasher.finish(), hashed(&bytes).finish());
    }

    #[test]
    fn another_algorithm_is_hashed_anew() {
        let bytes = [1; 200];
        let mut log = vec![checkpoint(&bytes, 128, "b")];
        let (offset, hasher) =
            restore((&mut file(&bytes), 200), &mut log, Hasher::sha512(), "b", &Cancel::default())
                .unwrap();
        let mut expected = Hasher::sha512();
        expected.update(&bytes);
        assert_eq!((offset, hasher.finish()), (200, expected.finish()));
    }
}
