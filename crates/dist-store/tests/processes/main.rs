//! Several processes on one store, processes that are killed, and disks that fail.
//!
//! A test starts this program again with a job in its environment; `child` does the job and
//! answers in lines that begin with `child: `. Faults are put in by `strace`, file systems that are
//! small or read-only are mounted in a mount namespace of the child's own, so both `strace` and
//! root are needed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "a child answers on its standard output")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use dist_core::{
    Cancel, Committed, Descriptor, Digest, Error, ErrorKind, Expected, ImageName, Ingest,
    IngestKey, Ingester as _, Labels, MediaType, Namespace, Provider as _, Result, SnapshotKey,
    SnapshotKind,
};
use dist_store::{ContentStore, OpenMode, SettleMode, Store, StoreOptions};

const JOB: &str = "DIST_STORE_JOB";

// ── the child ───────────────────────────────────────────────────────────────────────────────────

#[test]
fn child() {
    let Ok(job) = std::env::var(JOB) else { return };
    let words: Vec<&str> = job.split(' ').collect();
    let root = Path::new(words[1]);
    let result = match words[0] {
        "open" => Store::open(root, StoreOptions::default()).map(|_| say("opened")),
        "ingest" => ingest(root, words[2], &content(words[3])),
        "partial" => partial(root, words[2], &content(words[3]), words[4].parse().unwrap()),
        "settle" => settle(root),
        "read" => read(root, &content(words[2])),
        "full" => fill(root),
        "starve" => starve(root),
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

fn ingest(root: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    say(write(&open(root)?, name, bytes)?);
    Ok(())
}

/// Writes the first `count` bytes and then waits to be killed.
fn partial(root: &Path, name: &str, bytes: &[u8], count: usize) -> Result<()> {
    let Ingest::Writer(mut writer) =
        open(root)?.ingest(&key(name), expect(bytes), &Cancel::default())?
    else {
        panic!("exists")
    };
    for chunk in bytes[..count].chunks(64 << 10) {
        writer.write_all(chunk).unwrap();
    }
    say("ready");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    Ok(())
}

fn settle(root: &Path) -> Result<()> {
    let settled = Store::open(root, StoreOptions::default())?.settle(SettleMode::Now)?;
    say(&format!("flipped {}", settled.flipped));
    Ok(())
}

fn read(root: &Path, bytes: &[u8]) -> Result<()> {
    let store = Store::open(root, StoreOptions::default())?;
    assert!(store.is_read_only());
    let content = store.content(Namespace::default());
    let digest = Digest::sha256(bytes);
    assert_eq!(content.list()?.len(), 1);
    assert_eq!(store.images(Namespace::default()).list()?.len(), 1);
    let mut got = Vec::new();
    content.open(&digest)?.file.read_to_end(&mut got).unwrap();
    assert_eq!(got, bytes);
    assert!(content.path(&digest)?.is_file());
    assert!(matches!(
        content.ingest(&key("k"), expect(bytes), &Cancel::default())?,
        Ingest::Exists(_)
    ));
    assert_eq!(content.ingests()?.len(), 1);
    assert_eq!(store.settle(SettleMode::Now)?.flipped, 0);
    let other = expect(b"other");
    for error in [
        content.ingest(&key("k"), other, &Cancel::default()).err().unwrap(),
        content.delete(&digest).unwrap_err(),
        content.abort(&key("left")).unwrap_err(),
        store.lock("x", &Cancel::default()).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Storage, "{error}");
        assert!(error.to_string().contains(root.to_str().unwrap()), "{error}");
    }
    say("read");
    Ok(())
}

/// Fills a file system of 6 MiB, which `root` lies on.
fn fill(root: &Path) -> Result<()> {
    let content = open(root)?;
    let bytes = self::content("9,3000000");
    let too_big = Expected { digest: None, size: Some(64 << 20) };
    let error = content.ingest(&key("big"), too_big, &Cancel::default()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Storage);
    assert!(error.to_string().contains("67108864 bytes are needed, "), "{error}");

    let ballast = root.join("trash/ballast");
    std::fs::write(&ballast, vec![1; 2 << 20]).unwrap();
    let blob = Expected { size: None, ..expect(&bytes) };
    let Ingest::Writer(mut writer) = content.ingest(&key("k"), blob, &Cancel::default())? else {
        panic!("exists")
    };
    let error = loop {
        let at = usize::try_from(writer.offset()).unwrap();
        if let Err(error) = writer.write_all(&bytes[at..(at + 4096).min(bytes.len())]) {
            break error.downcast::<Error>().unwrap();
        }
        if writer.offset() == bytes.len() as u64 {
            break Error::new(ErrorKind::Internal, "it all went in");
        }
    };
    assert_eq!(error.kind(), ErrorKind::Storage, "{error}");
    assert!(error.to_string().contains(" are free"), "{error}");
    let offset = writer.offset();
    assert!(offset > 100_000, "{offset}");
    drop(writer);
    std::fs::remove_file(ballast).unwrap();
    let Ingest::Writer(mut writer) =
        content.ingest(&key("k"), expect(&bytes), &Cancel::default())?
    else {
        panic!("exists")
    };
    assert_eq!(writer.offset(), offset);
    writer.write_all(&bytes[usize::try_from(offset).unwrap()..]).unwrap();
    writer.commit(expect(&bytes))?;
    say("filled");
    Ok(())
}

/// Fills a file system of 8 MiB to its last byte and frees it by each of the ways there are.
fn starve(root: &Path) -> Result<()> {
    let namespace = Namespace::default();
    let reserve = root.join("reserve");
    let ballast = root.join("trash/ballast");
    let no_space = |error: Error| {
        assert_eq!(error.kind(), ErrorKind::Storage, "{error:?}");
        assert!(format!("{error:?}").contains("No space left"), "{error:?}");
    };
    let is_full = || rustix::fs::statvfs(root).unwrap().f_bfree == 0;
    let snapshot: SnapshotKey = "s".parse().unwrap();
    let image: ImageName = "i".parse().unwrap();
    let bytes = self::content("1,100000");
    let target = Descriptor::new(MediaType::Manifest, Digest::sha256(&bytes), 100_000);
    for way in ["delete", "image", "snapshot", "forget", "abort", "open before"] {
        let store = Store::open(root, StoreOptions::default())?;
        assert_eq!(std::fs::metadata(&reserve).unwrap().blocks(), 4096, "{way}");
        let (content, images) = (store.content(&namespace), store.images(&namespace));
        let snapshots = store.snapshots(&namespace, "overlayfs");
        write(&content, "k", &bytes)?;
        images.put(&image, &target, &Labels::new())?;
        let id = snapshots.insert(&snapshot, None, SnapshotKind::Active, &Labels::new())?.id;
        drop(content.ingest(&key("left"), Expected::default(), &Cancel::default())?);
        // With the store closed there is no room for the files of the log, else none in the log.
        let open = (way == "open before").then(|| store.clone());
        let keeps_the_log = match open {
            Some(_) => Some(Store::open(root, StoreOptions::default())?),
            None => None,
        };
        drop((content, images, snapshots, store));
        let mut file = std::fs::File::create(&ballast).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        drop(file);
        assert!(is_full(), "{way}");

        let store = match open {
            Some(store) => {
                // The log has some room left; use it up.
                loop {
                    if let Err(error) =
                        store.images(&namespace).put(&image, &target, &Labels::new())
                    {
                        no_space(error);
                        break;
                    }
                }
                assert!(reserve.exists());
                store
            }
            None => Store::open(root, StoreOptions::default())?,
        };
        let (content, images) = (store.content(&namespace), store.images(&namespace));
        let snapshots = store.snapshots(&namespace, "overlayfs");
        match way {
            "delete" => content.delete(&target.digest)?,
            "image" => images.delete(&image, None)?,
            "forget" => snapshots.forget(id)?,
            "abort" => content.abort(&key("left"))?,
            "snapshot" => drop(snapshots.remove(&snapshot)?),
            _ => {
                snapshots.remove(&snapshot)?;
                images.delete(&image, None)?;
                content.delete(&target.digest)?;
            }
        }
        if way != "open before" {
            assert!(!reserve.exists(), "{way}");
        }
        if way != "delete" && way != "open before" {
            // What is free now is for those who free more.
            let other = Expected { digest: None, size: Some(1) };
            no_space(content.ingest(&key("new"), other, &Cancel::default()).err().unwrap());
            let new = "new".parse().unwrap();
            let refused = snapshots.insert(&new, None, SnapshotKind::Active, &Labels::new());
            no_space(refused.unwrap_err());
        }
        std::fs::remove_file(&ballast).unwrap();
        drop(content.ingest(&key("left"), Expected::default(), &Cancel::default())?);
        assert!(reserve.exists(), "{way}");
        std::fs::remove_file(&reserve).unwrap(); // made again when the store is closed
        let _ = (content.abort(&key("left")), content.delete(&target.digest), snapshots.forget(id));
        drop((content, images, snapshots, store, keeps_the_log));
        assert!(reserve.exists(), "{way}");
    }
    say("freed");
    Ok(())
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

#[test]
fn a_killed_writer_is_resumed_at_its_last_byte() {
    let root = Root::new();
    let bytes = content("3,20000000");
    let count = 17_000_123;
    let mut writer = start(&[], &root.job("partial", &format!("k 3,20000000 {count}")));
    assert_eq!(answer(&mut writer), "ready");
    let store = open(&root.path()).unwrap();
    assert!(store.ingest_status(&key("k")).unwrap().active);
    assert_eq!(store.abort(&key("k")).unwrap_err().kind(), ErrorKind::Busy);
    writer.kill().unwrap();
    writer.wait().unwrap();
    let status = store.ingest_status(&key("k")).unwrap();
    assert!(!status.active);
    assert_eq!(status.offset, count);
    let Ingest::Writer(mut writer) =
        store.ingest(&key("k"), expect(&bytes), &Cancel::default()).unwrap()
    else {
        panic!("exists")
    };
    assert_eq!(writer.offset(), count);
    writer.write_all(&bytes[usize::try_from(count).unwrap()..]).unwrap();
    writer.commit(expect(&bytes)).unwrap();
    check(&root.path());
}

/// One waits for a writer, which is killed: the one who waited goes on where it stopped.
#[test]
fn a_waiter_takes_over_from_a_killed_writer() {
    let root = Root::new();
    let mut writer = start(&[], &root.job("partial", "k 3,5000000 4000000"));
    assert_eq!(answer(&mut writer), "ready");
    let mut waiter = start(&[], &root.job("ingest", "k 3,5000000"));
    writer.kill().unwrap();
    writer.wait().unwrap();
    assert_eq!(answer(&mut waiter), "new");
    waiter.wait().unwrap();
    check(&root.path());
}

/// Killed at every system call of a write in turn: the store stays good, the same job succeeds.
#[test]
fn killed_at_any_call() {
    let root = Root::new();
    drop(open(&root.path()).unwrap());
    for call in ["fsync", "linkat", "rename", "pwrite64", "unlinkat", "rmdir", "mkdir", "flock"] {
        for when in 1..=4 {
            let inject = format!("inject={call}:signal=KILL:when={when}");
            let job = root.job("ingest", &format!("{call} {when},300000"));
            run(&["strace", "-f", "-qqq", "-o", "/dev/null", "-e", &inject], &job);
            let store = check(&root.path());
            let bytes = content(&format!("{when},300000"));
            write(&store, call, &bytes).unwrap();
            store.verify(&Digest::sha256(&bytes), &Cancel::default()).unwrap();
            store.delete(&Digest::sha256(&bytes)).unwrap();
            assert!(store.ingests().unwrap().is_empty(), "{call} {when}");
        }
    }
}

/// Several at one key, killed one after another wherever they are; in the end one goes through.
#[test]
fn killed_anywhere() {
    let root = Root::new();
    for round in 0..12 {
        let name = format!("k {round},9000000");
        let mut children: Vec<_> = (0..4).map(|_| start(&[], &root.job("ingest", &name))).collect();
        for (n, child) in children.iter_mut().enumerate() {
            // Not a wait for anything: it only spreads the kills over the job's course.
            let micros = (round * 7_919 + n as u64 * 3_571) % 23_000;
            std::thread::sleep(std::time::Duration::from_micros(micros));
            child.kill().unwrap();
        }
        for mut child in children {
            child.wait().unwrap();
        }
        let store = check(&root.path());
        let bytes = content(&format!("{round},9000000"));
        write(&store, "k", &bytes).unwrap();
        store.verify(&Digest::sha256(&bytes), &Cancel::default()).unwrap();
        assert!(store.ingests().unwrap().is_empty());
    }
    assert_eq!(open(&root.path()).unwrap().list().unwrap().len(), 12);
}

/// After a sync that failed nothing it was for is trusted; the same job then succeeds.
#[test]
fn a_failed_sync_throws_the_ingest_away() {
    let root = Root::new();
    drop(open(&root.path()).unwrap());
    let bytes = content("5,300000");
    let digest = Digest::sha256(&bytes);
    let mut failed = 0;
    for when in 1.. {
        let inject = format!("inject=fsync:error=EIO:when={when}");
        let job = root.job("ingest", "k 5,300000");
        let answer = run(&["strace", "-f", "-qqq", "-o", "/dev/null", "-e", &inject], &job);
        let store = check(&root.path());
        if answer == "new" {
            break; // fewer syncs than that, or one that nobody waits for
        }
        failed += 1;
        assert!(answer.starts_with("error Storage") && answer.contains("/root/"), "{answer}");
        assert!(answer.contains("os error 5") || answer.contains("I/O error"), "{answer}");
        assert_eq!(store.open(&digest).unwrap_err().kind(), ErrorKind::NotFound);
        if when <= 2 {
            // The data, then the directory.
            assert!(store.ingests().unwrap().is_empty(), "{when}");
        }
        assert_eq!(write(&store, "k", &bytes).unwrap(), if when <= 2 { "new" } else { "exists" });
        store.delete(&digest).unwrap();
    }
    assert!(failed >= 3, "{failed}");
}

/// Any call fails: the store stays good, and the same job succeeds without a repair.
#[test]
fn any_call_fails() {
    let root = Root::new();
    drop(open(&root.path()).unwrap());
    for call in [
        "write",
        "pwrite64",
        "pread64",
        "openat",
        "mkdir",
        "linkat",
        "rename",
        "ftruncate",
        "fchmod",
        "unlinkat",
        "rmdir",
        "unlink",
        "lseek",
        "flock",
        "statfs",
        "fcntl",
        "fadvise64",
    ] {
        for (error, when) in [("EIO", "1"), ("EIO", "2+"), ("ENOSPC", "1+"), ("EIO", "4")] {
            // Only calls on paths below the store, so that the test's own output works.
            let inject = format!("inject={call}:error={error}:when={when}");
            let trace = format!("trace={call}");
            let path = root.path();
            let mut strace = vec!["strace", "-f", "-qqq", "-o", "/dev/null", "-e", &trace];
            let names = [
                "",
                "/meta.db",
                "/meta.db-wal",
                "/meta.db-shm",
                "/meta.lock",
                "/format",
                "/content/ingest",
                "/content/blobs/sha256",
                "/trash",
            ];
            let ingest = root.ingest_path("k");
            let paths: Vec<String> = names
                .iter()
                .map(|name| format!("{}{name}", path.display()))
                .chain(
                    ["", "/ref", "/data", "/state", "/state.new", "/total", "/expected"]
                        .map(|name| format!("{}{name}", ingest.display())),
                )
                .collect();
            for path in &paths {
                strace.extend(["-P", path]);
            }
            strace.extend(["-e", &inject]);
            let answer = run(&strace, &root.job("ingest", "k 5,300000"));
            assert!(
                ["new", "exists"].contains(&&*answer)
                    || answer.starts_with("error Storage")
                    || answer.starts_with("error Busy"),
                "{call} {error} {when}: {answer}"
            );
            let store = check(&root.path());
            let bytes = content("5,300000");
            write(&store, "k", &bytes).unwrap();
            let digest = Digest::sha256(&bytes);
            store.verify(&digest, &Cancel::default()).unwrap();
            store.delete(&digest).unwrap();
            assert!(store.ingests().unwrap().is_empty(), "{call} {error} {when}");
        }
    }
}

#[test]
fn a_failed_settle_drops_the_rows() {
    let root = Root::new();
    let store = Store::open(&root.path(), StoreOptions::default()).unwrap();
    let insert = |key: &str, boot_id: Option<&str>, parent: Option<&str>| {
        let row = (key, boot_id, parent);
        store
            .db()
            .write(|t| {
                t.execute(
                    "INSERT INTO snapshots (namespace, snapshotter, key, parent_id, kind, bytes,
                         inodes, created_at, updated_at, boot_id)
                     VALUES ('n', 's', ?1, (SELECT id FROM snapshots WHERE key = ?3), 'committed',
                         0, 0, 0, 0, ?2)",
                    row,
                )
                .unwrap();
                Ok(())
            })
            .unwrap();
    };
    let count = || -> i64 {
        let sql = "SELECT count(*) FROM snapshots";
        store.db().read(|c| Ok(c.query_row(sql, [], |row| row.get(0)).unwrap())).unwrap()
    };
    insert("a", None, None);
    insert("b", Some(store.boot_id()), Some("a"));
    insert("c", None, Some("b"));
    let strace =
        ["strace", "-f", "-qqq", "-o", "/dev/null", "-e", "inject=syncfs:error=EIO:when=1"];
    let answer = run(&strace, &root.job("settle", ""));
    assert!(answer.starts_with("error Storage") && answer.contains("snapshots"), "{answer}");
    assert_eq!(count(), 1);
    insert("b", Some(store.boot_id()), Some("a"));
    assert_eq!(run(&[], &root.job("settle", "")), "flipped 1");
    assert_eq!(count(), 2);
}

/// Data, name, row: each on the disk before the next.
#[test]
fn the_order_of_a_commit() {
    let root = Root::new();
    drop(open(&root.path()).unwrap());
    let log = root.0.path().join("trace");
    let strace = ["strace", "-f", "-y", "-qqq", "-e", "trace=fsync,linkat,pwrite64", "-o"];
    let wrapper: Vec<_> = strace.iter().copied().chain([log.to_str().unwrap()]).collect();
    assert_eq!(run(&wrapper, &root.job("ingest", "k 6,100000")), "new");
    let trace = std::fs::read_to_string(log).unwrap();
    let mut at = 0;
    for (call, object) in [
        ("fsync(", "/data>"),
        ("linkat(", "/blobs/sha256/"),
        ("fsync(", "/blobs/sha256>"),
        ("pwrite64(", "/meta.db-wal>"),
        ("fsync(", "/meta.db-wal>"),
    ] {
        at += trace[at..]
            .lines()
            .scan(0, |end, line| {
                *end += line.len() + 1;
                Some((*end, line))
            })
            .find(|(_, line)| line.contains(call) && line.contains(object))
            .unwrap_or_else(|| panic!("{call} {object} is not in its place:\n{trace}"))
            .0;
    }
}

/// A store that a clean process left, and one whose last process was killed, read-only.
#[test]
fn a_read_only_store_is_read() {
    for killed in [false, true] {
        let root = Root::new();
        let bytes = content("8,1000");
        let store = open(&root.path()).unwrap();
        write(&store, "k", &bytes).unwrap();
        let target =
            Descriptor::new(MediaType::Manifest, Digest::sha256(&bytes), bytes.len() as u64);
        Store::open(&root.path(), StoreOptions::default())
            .unwrap()
            .images(Namespace::default())
            .put(&"image".parse().unwrap(), &target, &Labels::new())
            .unwrap();
        drop(store);
        let mut left = start(&[], &root.job("partial", "left 4,1000 500"));
        assert_eq!(answer(&mut left), "ready");
        if killed {
            left.kill().unwrap();
        }
        drop(left.stdin.take());
        left.wait().unwrap();
        assert_eq!(root.path().join("meta.db-wal").exists(), killed);
        let path = root.path();
        let path = path.to_str().unwrap();
        let mount =
            format!("mount --bind {path} {path} && mount -o remount,ro,bind {path} && exec \"$@\"");
        let mounted = ["unshare", "-m", "sh", "-ec", &mount, "sh"];
        assert_eq!(run(&mounted, &root.job("read", "8,1000")), "read", "killed: {killed}");

        // Another user, who may read and not write.
        let open_up = Command::new("chmod").args(["-R", "a+rX"]).arg(root.0.path()).status();
        assert!(open_up.unwrap().success());
        let me = std::env::current_exe().unwrap();
        let copy = root.0.path().join("me");
        std::fs::copy(me, &copy).unwrap();
        let user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        let mut child = Command::new(user[0])
            .args(&user[1..])
            .arg(copy)
            .args(["--exact", "child", "--nocapture"])
            .env(JOB, root.job("read", "8,1000"))
            .current_dir("/")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        assert_eq!(answer(&mut child), "read", "killed: {killed}");
        child.wait().unwrap();
    }
}

#[test]
fn read_only_without_a_store_says_so() {
    let root = Root::new();
    std::fs::create_dir(root.path()).unwrap();
    for mode in [OpenMode::Existing, OpenMode::ReadOnly] {
        let options = StoreOptions { mode, ..StoreOptions::default() };
        assert_eq!(Store::open(&root.path(), options).unwrap_err().kind(), ErrorKind::NotFound);
    }
}

/// Does a job on a file system of its own.
fn run_small(size: &str, job: &str) -> String {
    let root = Root::new();
    std::fs::create_dir(root.path()).unwrap();
    let mount =
        format!("mount -t tmpfs -o size={size} none {} && exec \"$@\"", root.path().display());
    run(&["unshare", "-m", "sh", "-ec", &mount, "sh"], &root.job(job, ""))
}

#[test]
fn a_full_disk_leaves_a_resumable_ingest() {
    assert_eq!(run_small("6m", "full"), "filled");
}

#[test]
fn a_full_disk_can_be_freed() {
    assert_eq!(run_small("8m", "starve"), "freed");
}
