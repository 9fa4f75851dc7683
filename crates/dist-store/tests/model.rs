//! Random operations on two namespaces against a model of them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;

use dist_core::{
    Cancel, Committed, ContentMismatch, Digest, ErrorKind, Expected, Ingest, IngestKey,
    Ingester as _, Namespace, Provider as _, Writer,
};
use dist_store::{ContentStore, Durability, OpenMode, Store, StoreOptions};
use proptest::prelude::*;

/// Contents; the last two have the same bytes, so different keys meet in one digest.
const BLOBS: [&[u8]; 4] = [b"", b"one", b"three three", b"three three"];

#[derive(Clone, Debug)]
enum Step {
    /// Ingests blob `blob` of namespace `namespace`, writes `count` bytes more, then ends so.
    Ingest {
        namespace: usize,
        blob: usize,
        count: usize,
        end: End,
    },
    Delete {
        namespace: usize,
        blob: usize,
    },
    Abort {
        namespace: usize,
        blob: usize,
    },
    Lose {
        blob: usize,
    },
    Reopen {
        durability: Durability,
        reboot: bool,
    },
}

#[derive(Clone, Copy, Debug)]
enum End {
    Drop,
    Commit,
    Abort,
    Reset,
}

fn step() -> impl Strategy<Value = Step> {
    let end = prop_oneof![Just(End::Drop), Just(End::Commit), Just(End::Abort), Just(End::Reset)];
    let durability = prop_oneof![Just(Durability::None), Just(Durability::Content)];
    prop_oneof![
        6 => (0..2_usize, 0..4_usize, 0..14_usize, end).prop_map(|(namespace, blob, count, end)| {
            Step::Ingest { namespace, blob, count, end }
        }),
        2 => (0..2_usize, 0..4_usize).prop_map(|(namespace, blob)| Step::Delete { namespace, blob }),
        1 => (0..2_usize, 0..4_usize).prop_map(|(namespace, blob)| Step::Abort { namespace, blob }),
        1 => (0..4_usize).prop_map(|blob| Step::Lose { blob }),
        1 => (durability, any::<bool>()).prop_map(|(durability, reboot)| {
            Step::Reopen { durability, reboot }
        }),
    ]
}

#[derive(Default)]
struct Model {
    /// Which namespaces have which digest.
    rows: BTreeSet<(usize, Digest)>,
    /// Digests whose file may be there without being synced.
    unsettled: BTreeSet<Digest>,
    lost: BTreeSet<Digest>,
    /// Bytes in each left ingest, by namespace and blob.
    ingests: BTreeMap<(usize, usize), usize>,
    durable: bool,
}

struct World {
    dir: tempfile::TempDir,
    boot: u32,
    store: Store,
    model: Model,
}

impl World {
    fn new() -> Self {
        // In memory, where a sync costs nothing.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let store = open(&dir, 1, Durability::Content);
        Self { dir, boot: 1, store, model: Model { durable: true, ..Model::default() } }
    }

    fn content(&self, namespace: usize) -> ContentStore {
        let name: Namespace = ["a", "b"][namespace].parse().unwrap();
        self.store.content(&name)
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Ingest { namespace, blob, count, end } => {
                self.ingest(namespace, blob, count, end)
            }
            Step::Delete { namespace, blob } => {
                let digest = Digest::sha256(BLOBS[blob]);
                let deleted = self.content(namespace).delete(&digest);
                if self.model.rows.remove(&(namespace, digest)) {
                    deleted.unwrap();
                } else {
                    assert_eq!(deleted.unwrap_err().kind(), ErrorKind::NotFound);
                }
                self.forget_unused(digest);
            }
            Step::Abort { namespace, blob } => {
                let aborted = self.content(namespace).abort(&key(blob));
                match self.model.ingests.remove(&(namespace, blob)) {
                    Some(_) => aborted.unwrap(),
                    None => assert_eq!(aborted.unwrap_err().kind(), ErrorKind::NotFound),
                }
            }
            Step::Lose { blob } => {
                let digest = Digest::sha256(BLOBS[blob]);
                let path = self.store.root().join("content/blobs/sha256").join(digest.hex());
                if std::fs::remove_file(path).is_ok() {
                    self.model.lost.insert(digest);
                }
                self.forget_unused(digest);
            }
            Step::Reopen { durability, reboot } => {
                self.boot += u32::from(reboot);
                self.store = open(&self.dir, self.boot, durability);
                self.model.durable = durability != Durability::None;
                if reboot {
                    let gone = std::mem::take(&mut self.model.unsettled);
                    self.model.rows.retain(|(_, digest)| !gone.contains(digest));
                    gone.into_iter().for_each(|digest| self.forget_unused(digest));
                }
            }
        }
    }

    /// A file without rows is adopted or gone, either way without a trace in the model.
    fn forget_unused(&mut self, digest: Digest) {
        if !self.model.rows.iter().any(|row| row.1 == digest) {
            self.model.lost.remove(&digest);
            self.model.unsettled.remove(&digest);
        }
    }

    fn ingest(&mut self, namespace: usize, blob: usize, count: usize, end: End) {
        let bytes = BLOBS[blob];
        let digest = Digest::sha256(bytes);
        let expected = Expected { digest: Some(digest), size: Some(bytes.len() as u64) };
        let content = self.content(namespace);
        let opened = content.ingest(&key(blob), expected, &Cancel::default()).unwrap();
        let recorded = self.model.rows.iter().any(|row| row.1 == digest);
        let mut writer = match opened {
            Ingest::Exists(found) => {
                let had = self.model.rows.contains(&(namespace, digest));
                assert_eq!(matches!(found, Committed::Existed(_)), had);
                let info = found.info();
                assert_eq!((info.digest, info.size), (digest, bytes.len() as u64));
                assert!(!self.model.lost.contains(&digest));
                self.model.rows.insert((namespace, digest));
                self.model.ingests.remove(&(namespace, blob));
                if self.model.durable {
                    self.model.unsettled.remove(&digest);
                } else if !recorded {
                    self.model.unsettled.insert(digest);
                }
                return;
            }
            Ingest::Writer(writer) => writer,
        };
        if recorded {
            assert!(self.model.lost.remove(&digest), "written though it is there");
            self.model.rows.retain(|row| row.1 != digest);
            self.model.unsettled.remove(&digest);
        }
        let at = self.model.ingests.get(&(namespace, blob)).copied().unwrap_or(0);
        assert_eq!(writer.offset(), at as u64);
        let rest = &bytes[at..(at + count).min(bytes.len())];
        writer.write_all(rest).unwrap();
        let at = at + rest.len();
        if count > 0 && at == bytes.len() {
            writer.write_all(b"x").unwrap_err();
        }
        self.model.ingests.insert((namespace, blob), at);
        match end {
            End::Drop => drop(writer),
            End::Abort => {
                writer.abort().unwrap();
                self.model.ingests.remove(&(namespace, blob));
            }
            End::Reset => {
                writer.reset().unwrap();
                self.model.ingests.insert((namespace, blob), 0);
            }
            End::Commit => self.commit(writer, namespace, blob, at),
        }
    }

    fn commit(&mut self, writer: Box<dyn Writer>, namespace: usize, blob: usize, at: usize) {
        let bytes = BLOBS[blob];
        let digest = Digest::sha256(bytes);
        match writer.commit(Expected::default()) {
            Ok(committed) => {
                assert!(matches!(committed, Committed::New(_)));
                assert_eq!(at, bytes.len());
                self.model.rows.insert((namespace, digest));
                self.model.ingests.remove(&(namespace, blob));
                if !self.model.durable {
                    self.model.unsettled.insert(digest);
                }
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
                let (expected, got) = (bytes.len() as u64, at as u64);
                assert_eq!(error.find(), Some(&ContentMismatch::Size { expected, got }));
            }
        }
    }

    fn check(&self) {
        for namespace in 0..2 {
            let content = self.content(namespace);
            let listed: BTreeSet<_> =
                content.list().unwrap().into_iter().map(|info| (namespace, info.digest)).collect();
            let expected: BTreeSet<_> =
                self.model.rows.iter().copied().filter(|row| row.0 == namespace).collect();
            assert_eq!(listed, expected);
            for (_, digest) in expected {
                let opened = content.open(&digest);
                assert_eq!(opened.is_err(), self.model.lost.contains(&digest));
            }
        }
        let left: BTreeMap<_, _> = (0..2)
            .flat_map(|namespace| {
                let ingests = self.content(namespace).ingests().unwrap();
                ingests.into_iter().map(move |status| (namespace, status))
            })
            .map(|(namespace, status)| ((namespace, status.key), (status.offset, status.active)))
            .collect();
        let expected: BTreeMap<_, _> = self
            .model
            .ingests
            .iter()
            .map(|(&(namespace, blob), at)| ((namespace, key(blob)), (*at as u64, Some(false))))
            .collect();
        assert_eq!(left, expected);
    }
}

fn key(blob: usize) -> IngestKey {
    format!("key-{blob}").parse().unwrap()
}

fn open(dir: &tempfile::TempDir, boot: u32, durability: Durability) -> Store {
    let boot_id = dir.path().join("boot_id");
    std::fs::write(&boot_id, format!("{boot}")).unwrap();
    let options = StoreOptions { durability, mode: OpenMode::Create, boot_id };
    Store::open(&dir.path().join("root"), options).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_the_model(steps in prop::collection::vec(step(), 1..30)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            world.check();
        }
    }
}
