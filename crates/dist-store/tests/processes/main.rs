//! Several processes on one store, processes that are killed, and disks that fail.
//!
//! A test starts this program again with a job in its environment; `child` does the job and
//! answers in lines that begin with `child: `. Faults are put in by `strace`, file systems that are
//! small or read-only are mounted in a mount namespace of the child's own, so both `strace` and
//! root are needed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "a child answers on its standard output")]

mod disks;
mod faults;
mod jobs;
mod kills;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use dist_core::{
    Cancel, Committed, Digest, Error, Expected, Ingest, IngestKey, Ingester as _, Namespace, Result,
};
use dist_store::{ContentStore, Store, StoreOptions};

const JOB: &str = "DIST_STORE_JOB";

// ── the child ───────────────────────────────────────────────────────────────────────────────────

#[test]
fn child() {
    let Ok(job) = std::env::var(JOB) else { return };
    let words: Vec<&str> = job.split(' ').collect();
    let root = Path::new(words[1]);
    let result = match words[0] {
        "open" => Store::open(root, StoreOptions::default()).map(|_| say("opened")),
        "ingest" => jobs::ingest(root, words[2], &content(words[3])),
        "partial" => jobs::partial(root, words[2], &content(words[3]), words[4].parse().unwrap()),
        "settle" => jobs::settle(root),
        "register" => jobs::register(root, &content(words[2])),
        "read" => jobs::read(root, &content(words[2])),
        "full" => jobs::fill(root),
        "starve" => jobs::starve(root),
        other => panic!("job {other}"),
    };
    if let Err(error) = result {
        say(&format!("error {:?} {error:?}", error.kind()));
    }
}

fn say(line: &str) {
    println!("\nchild: {line}");
    std::io::stdout().flush().unwrap();
}

/// `seed,size`: content that is the same in every process.
fn content(text: &str) -> Vec<u8> {
    let (seed, size) = text.split_once(',').unwrap();
    let (mut state, size): (u64, usize) = (seed.parse().unwrap(), size.parse().unwrap());
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bytes.extend((state >> 16).to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

fn expect(bytes: &[u8]) -> Expected {
    Expected { digest: Some(Digest::sha256(bytes)), size: Some(bytes.len() as u64) }
}

fn key(text: &str) -> IngestKey {
    text.parse().unwrap()
}

fn open(root: &Path) -> Result<ContentStore> {
    Ok(Store::open(root, StoreOptions::default())?.content(Namespace::default()))
}

fn write(content: &ContentStore, name: &str, bytes: &[u8]) -> Result<&'static str> {
    match content.ingest(&key(name), expect(bytes), &Cancel::default())? {
        Ingest::Exists(_) => Ok("exists"),
        Ingest::Writer(mut writer) => {
            let offset = usize::try_from(writer.offset()).unwrap();
            for chunk in bytes[offset..].chunks(64 << 10) {
                writer.write_all(chunk).map_err(|error| error.downcast::<Error>().unwrap())?;
            }
            match writer.commit(expect(bytes))? {
                Committed::New(_) => Ok("new"),
                Committed::Existed(_) => Ok("existed"),
            }
        }
    }
}

// ── the parent ──────────────────────────────────────────────────────────────────────────────────

fn start(wrapper: &[&str], job: &str) -> Child {
    let me = std::env::current_exe().unwrap();
    let mut words = wrapper.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    words.push(me.to_str().unwrap().into());
    Command::new(&words[0])
        .args(&words[1..])
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(JOB, job)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap_or_else(|error| panic!("start {}: {error}", words[0]))
}

/// What the child says first. Its output stays open, so that it can go on talking.
fn answer(child: &mut Child) -> String {
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let said = reader
        .by_ref()
        .lines()
        .map(Result::unwrap)
        .find_map(|line| line.strip_prefix("child: ").map(str::to_owned));
    child.stdout = Some(reader.into_inner());
    said.unwrap_or_else(|| "nothing".into())
}

fn run(wrapper: &[&str], job: &str) -> String {
    let mut child = start(wrapper, job);
    let answer = answer(&mut child);
    child.wait().unwrap();
    answer
}

struct Root(tempfile::TempDir);

impl Root {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("root")
    }

    fn ingest_path(&self, name: &str) -> PathBuf {
        self.path()
            .join("content/ingest")
            .join(Digest::sha256(format!("default\0{name}").as_bytes()).hex())
    }

    fn job(&self, verb: &str, rest: &str) -> String {
        format!("{verb} {} {rest}", self.path().display())
    }
}

/// Everything that has a row is there and whole; nothing else lies about.
fn check(root: &Path) -> ContentStore {
    let content = open(root).unwrap();
    for info in content.list().unwrap() {
        content.verify(&info.digest, &Cancel::default()).unwrap();
    }
    content
}

#[test]
fn sixteen_processes_make_one_store() {
    for _ in 0..3 {
        let root = Root::new();
        let children: Vec<_> = (0..16).map(|_| start(&[], &root.job("open", ""))).collect();
        for mut child in children {
            assert_eq!(answer(&mut child), "opened");
            child.wait().unwrap();
        }
    }
}

#[test]
fn sixteen_processes_write_one_blob_once() {
    for same_key in [true, false] {
        let root = Root::new();
        let children: Vec<_> = (0..16)
            .map(|n| {
                let name = if same_key { "k".into() } else { format!("k{n}") };
                start(&[], &root.job("ingest", &format!("{name} 7,3000000")))
            })
            .collect();
        let answers: Vec<_> = children
            .into_iter()
            .map(|mut child| {
                let answer = answer(&mut child);
                child.wait().unwrap();
                answer
            })
            .collect();
        assert_eq!(answers.iter().filter(|a| *a == "new").count(), 1, "{answers:?}");
        let waited = answers.iter().filter(|a| *a == "exists").count();
        assert!(if same_key { waited == 15 } else { true }, "{answers:?}");
        let store = check(&root.path());
        assert_eq!((store.list().unwrap().len(), store.ingests().unwrap().len()), (1, 0));
    }
}

/// A blob that has its name and no row yet is taken by others: they did not make it.
#[test]
fn a_blob_that_is_found_before_its_row_is_still_its_writers() {
    let root = Root::new();
    drop(open(&root.path()).unwrap());
    let inject = "inject=linkat:delay_exit=1s:when=1";
    let strace = ["strace", "-f", "-qqq", "-o", "/dev/null", "-e", inject];
    let mut writer = start(&strace, &root.job("ingest", "k 7,300000"));
    let digest = Digest::sha256(&content("7,300000"));
    let blob = root.path().join("content/blobs/sha256").join(digest.hex());
    while !blob.exists() {
        assert!(writer.try_wait().unwrap().is_none(), "it ended without a blob");
        std::thread::yield_now();
    }
    assert_eq!(run(&[], &root.job("ingest", "other 7,300000")), "exists");
    assert_eq!(answer(&mut writer), "new");
    writer.wait().unwrap();
    check(&root.path());
}
