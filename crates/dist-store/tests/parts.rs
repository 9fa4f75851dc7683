//! Parts of an ingest that come before their turn, against a model: which bytes are there, and which
//! of them a writer after a kill, or after another boot, believes in.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use dist_core::{
    Cancel, Digest, ErrorKind, Expected, Extents, Ingest, IngestKey, Ingester as _, Namespace,
    Parts, Writer,
};
use dist_store::{ContentStore, Durability, OpenMode, Sharing, Store, StoreOptions};
use proptest::prelude::*;

const KIB: usize = 1 << 10;
/// More than what is told of at once, and more than one checkpoint.
const SIZE: usize = 10_000 * KIB;
const STEP: u64 = 1 << 20;

fn open(dir: &Path, boot: &str) -> ContentStore {
    std::fs::write(dir.join("boot_id"), boot).unwrap();
    let options = StoreOptions {
        durability: Durability::None,
        mode: OpenMode::Create,
        boot_id: dir.join("boot_id"),
    };
    Store::open(&dir.join("root"), options).unwrap().content(Namespace::default())
}

fn key() -> IngestKey {
    "k".parse().unwrap()
}

fn expected(bytes: &[u8]) -> Expected {
    Expected { digest: Some(Digest::sha256(bytes)), size: Some(bytes.len() as u64) }
}

fn begin(content: &ContentStore, bytes: &[u8]) -> Box<dyn Writer> {
    match content.ingest(&key(), expected(bytes), &Cancel::default()).unwrap() {
        Ingest::Writer(writer) => writer,
        Ingest::Exists(found) => panic!("{found:?} exists"),
    }
}

/// What a machine would find that lost this process at this moment: the files, without the locks.
fn killed(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    drop(open(copy.path(), "b1"));
    let (from, to) = (dir.join("root/content/ingest"), copy.path().join("root/content/ingest"));
    for ingest in std::fs::read_dir(&from).unwrap().map(Result::unwrap) {
        let to = to.join(ingest.file_name());
        std::fs::create_dir(&to).unwrap();
        for file in std::fs::read_dir(ingest.path()).unwrap().map(Result::unwrap) {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
    copy
}

fn content() -> Vec<u8> {
    (0..SIZE).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8 | 1).collect()
}

/// Brings what `writer` lacks, gap by gap, and commits it.
fn complete(mut writer: Box<dyn Writer>, bytes: &[u8]) {
    let parts = writer.parts().unwrap().unwrap();
    while let Some(gap) = parts.there().gap(0, bytes.len() as u64) {
        let (start, end) = (gap.start as usize, gap.end as usize);
        assert_eq!(parts.write_at(gap.start, &bytes[start..end]).unwrap(), gap.end - gap.start);
    }
    take_all(&mut *writer, bytes);
    writer.commit(expected(bytes)).unwrap();
    let late = parts.write_at(0, b"x").unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Cancelled);
}

fn take_all(writer: &mut dyn Writer, bytes: &[u8]) {
    let mut buffer = vec![0; 300 * KIB];
    loop {
        let at = writer.offset() as usize;
        let taken = writer.take_up(&mut buffer).unwrap();
        if taken == 0 {
            return;
        }
        assert!(buffer[..taken] == bytes[at..at + taken], "wrong bytes at {at}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Writes so many KiB at the offset.
    Write(usize),
    /// Writes so many KiB elsewhere.
    WriteAt(usize, usize),
    TakeUp,
    /// The process ends well, or is killed; another one goes on.
    Reopen,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    let sizes = prop_oneof![1..64_usize, 500..2500_usize];
    prop_oneof![
        2 => sizes.clone().prop_map(Step::Write),
        8 => (0..SIZE / KIB, sizes).prop_map(|(at, length)| Step::WriteAt(at, length)),
        2 => Just(Step::TakeUp),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
    ]
}

/// Bytes of `model` that `there` lacks, and whether it has others.
fn compare(model: &Extents, there: &Extents) -> (u64, bool) {
    let mut both = model.clone();
    let more = there.iter().map(|range| both.insert(range)).sum::<u64>();
    (model.bytes() + more - there.bytes(), more > 0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_believed_is_what_was_written(steps in prop::collection::vec(step(), 1..14)) {
        let bytes = content();
        let mut dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let mut writer = begin(&open(dir.path(), "b1"), &bytes);
        let mut model = Extents::default();
        for step in steps {
            let parts = writer.parts().unwrap().unwrap();
            match step {
                Step::Write(length) => {
                    let at = writer.offset() as usize;
                    let end = (at + length * KIB).min(SIZE);
                    writer.write_all(&bytes[at..end]).unwrap();
                    model.insert(at as u64..end as u64);
                }
                Step::WriteAt(at, length) => {
                    let (at, end) = (at * KIB, ((at + length) * KIB).min(SIZE));
                    let new = parts.write_at(at as u64, &bytes[at..end]).unwrap();
                    prop_assert_eq!(new, model.insert(at as u64..end as u64));
                }
                Step::TakeUp => {
                    take_all(&mut *writer, &bytes);
                    prop_assert_eq!(writer.offset(), model.end_at(0).max(writer.offset()));
                    prop_assert_eq!(model.end_at(writer.offset()), writer.offset());
                }
                Step::Reopen => {
                    drop((writer, parts));
                    writer = begin(&open(dir.path(), "b1"), &bytes);
                    let there = writer.parts().unwrap().unwrap().there();
                    prop_assert_eq!(compare(&model, &there), (0, false));
                }
                Step::Kill => {
                    let copy = killed(dir.path());
                    drop((writer, parts));
                    let content = open(copy.path(), "b1");
                    let status = content.ingest_status(&key()).unwrap();
                    writer = begin(&content, &bytes);
                    let there = writer.parts().unwrap().unwrap().there();
                    let (lost, more) = compare(&model, &there);
                    // Less than a step of each range that was written, never a byte too many.
                    let ranges = model.iter().count() as u64 + 14;
                    prop_assert!(!more && lost < ranges * STEP, "{lost} {more}");
                    prop_assert!(status.offset <= writer.offset(), "{status:?}");
                    model = there;
                    dir = copy;
                }
            }
        }
        let copy = killed(dir.path());
        complete(writer, &bytes);
        // The same, but the machine was started again: what no hash vouches for is not believed.
        let mut writer = begin(&open(copy.path(), "b2"), &bytes);
        let offset = writer.offset();
        let there = writer.parts().unwrap().unwrap().there();
        prop_assert_eq!((there.bytes(), there.end_at(0)), (offset, offset));
        complete(writer, &bytes);
    }
}

fn ingest_dir(dir: &Path) -> std::path::PathBuf {
    let mut found = std::fs::read_dir(dir.join("root/content/ingest")).unwrap();
    found.next().unwrap().unwrap().path()
}

#[test]
fn after_another_boot_no_part_is_believed() {
    let (dir, bytes) = (tempfile::tempdir().unwrap(), content());
    let mut writer = begin(&open(dir.path(), "b1"), &bytes);
    writer.write_all(&bytes[..9_000 * KIB]).unwrap();
    let parts = writer.parts().unwrap().unwrap();
    parts.write_at(9_500 * KIB as u64, &bytes[9_500 * KIB..]).unwrap();
    drop((parts, writer));
    // What a power cut may leave of it: the length, not the bytes.
    let data = ingest_dir(dir.path()).join("data");
    let file = std::fs::OpenOptions::new().write(true).open(data).unwrap();
    file.set_len(9_500 * KIB as u64).unwrap();
    file.set_len(SIZE as u64).unwrap();
    let content = open(dir.path(), "b2");
    let mut writer = begin(&content, &bytes);
    assert_eq!(writer.offset(), 9_000 * KIB as u64);
    let there = writer.parts().unwrap().unwrap().there();
    assert_eq!((there.bytes(), there.end_at(0)), (9_000 * KIB as u64, 9_000 * KIB as u64));
    complete(writer, &bytes);
}

#[test]
fn others_see_what_is_whole_and_go_on_from_there() {
    let (dir, bytes) = (tempfile::tempdir().unwrap(), content());
    let content = open(dir.path(), "b1");
    let mut writer = begin(&content, &bytes);
    writer.write_all(&bytes[..2_000 * KIB]).unwrap();
    let parts = writer.parts().unwrap().unwrap();
    parts.write_at(5_000 * KIB as u64, &bytes[5_000 * KIB..8_000 * KIB]).unwrap();
    let status = content.ingest_status(&key()).unwrap();
    assert_eq!((status.offset, status.active), (2_000 * KIB as u64, Some(true)));
    drop((writer, parts));
    assert_eq!(content.ingest_status(&key()).unwrap().offset, 2_000 * KIB as u64);
    // A writer that does not say what it will write can't know what the parts belong to.
    let mut other = content.open_writer(&key(), Expected::default(), Sharing::Shared).unwrap();
    assert_eq!(other.status().unwrap().offset, 2_000 * KIB as u64);
    other.write(&bytes[2_000 * KIB..2_001 * KIB]).unwrap();
    drop(other);
    assert_eq!(content.ingest_status(&key()).unwrap().offset, 2_001 * KIB as u64);
    assert!(!ingest_dir(dir.path()).join("parts").exists());
    complete(begin(&content, &bytes), &bytes);
}

#[test]
fn wrong_parts_are_found_out_and_gone() {
    let (dir, bytes) = (tempfile::tempdir().unwrap(), content());
    let content = open(dir.path(), "b1");
    let mut writer = begin(&content, &bytes);
    let parts: Arc<dyn Parts> = writer.parts().unwrap().unwrap();
    let beyond = parts.write_at(SIZE as u64 - 1, b"xx").unwrap_err();
    assert_eq!(beyond.kind(), ErrorKind::OutOfRange);
    parts.write_at(0, &bytes).unwrap();
    parts.write_at(7_000_000, b"x").unwrap();
    let mut buffer = vec![0; KIB];
    while writer.take_up(&mut buffer).unwrap() > 0 {}
    let error = writer.commit_or_abort(expected(&bytes)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(content.ingests().unwrap().is_empty());

    // Emptied, nothing of them is left.
    let mut writer = begin(&content, &bytes);
    let parts = writer.parts().unwrap().unwrap();
    parts.write_at(5_000_000, b"x").unwrap();
    writer.reset().unwrap();
    assert_eq!(parts.write_at(0, b"x").unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(writer.parts().unwrap().unwrap().there(), Extents::default());
    drop(writer);
    let mut writer = begin(&content, &bytes);
    assert_eq!(writer.parts().unwrap().unwrap().there().bytes(), 0);
    complete(writer, &bytes);
}
