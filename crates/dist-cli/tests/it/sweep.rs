//! One system call of a small pull fails, or the process is killed at it: the
//! store is good after, and the same command then succeeds.
//!
//! `strace` counts calls in each thread; a sweep over N up to the highest count
//! reaches every call. `make torture` tries every N, `make test` a sample.

use std::collections::BTreeMap;

use dist_testutil::{Dist, Image, Ran, Registry, timed, torture};

use crate::support::{dist, verify_image, verify_store};

/// What changes the disk or reads it back.
const CALLS: [&str; 32] = [
    "openat",
    "openat2",
    "mkdirat",
    "mkdir",
    "write",
    "pwrite64",
    "writev",
    "read",
    "pread64",
    "fsync",
    "fdatasync",
    "syncfs",
    "sync_file_range",
    "linkat",
    "link",
    "renameat",
    "renameat2",
    "rename",
    "unlinkat",
    "unlink",
    "ftruncate",
    "fallocate",
    "fchmod",
    "fchmodat",
    "fchown",
    "fchownat",
    "utimensat",
    "symlinkat",
    "mknodat",
    "fsetxattr",
    "flock",
    "getdents64",
];

pub(crate) fn strace(dist: &Dist, flags: &[&str], args: &[&str]) -> Ran {
    dist_testutil::require(&["strace"]);
    let mut command = dist.clean("timeout");
    command.args(["-s", "KILL", "60", "strace", "-f", "-qq"]).args(flags).arg("--");
    command.arg(dist.binary()).args(args);
    let out = command.output().expect("run strace");
    let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(impossible(&stderr) || !stderr.contains("panicked at"), "{flags:?}: {stderr}");
    use std::os::unix::process::ExitStatusExt;
    Ran {
        code: out.status.code(),
        signal: out.status.signal(),
        stdout: out.stdout,
        stderr,
        took: std::time::Duration::ZERO,
    }
}

/// The runtime takes a write to its own eventfd for infallible, and it is: only
/// an injected error makes it fail, and ends the process.
fn impossible(stderr: &str) -> bool {
    stderr.contains("failed to wake I/O driver")
}

/// How often the busiest thread makes each call in a good pull.
fn counts(reference: &str) -> BTreeMap<&'static str, u32> {
    counts_of(&dist(), &["pull", reference])
}

/// How often the busiest thread of a command that succeeds makes each call.
pub(crate) fn counts_of(dist: &Dist, args: &[&str]) -> BTreeMap<&'static str, u32> {
    let log = dist.dir().join("strace.log");
    let trace = format!("trace={}", CALLS.join(","));
    let log_flag = log.to_str().expect("a path in UTF-8");
    let ran = strace(dist, &["-o", log_flag, "-e", &trace], args);
    ran.ok();
    let mut seen: BTreeMap<(String, &str), u32> = BTreeMap::new();
    for line in fs_err::read_to_string(&log).expect("read the trace").lines() {
        let mut words = line.split_whitespace();
        let (thread, rest) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let name = rest.split('(').next().unwrap_or("");
        if let Some(call) = CALLS.iter().find(|call| **call == name) {
            *seen.entry((thread.to_owned(), call)).or_default() += 1;
        }
    }
    let mut most = BTreeMap::new();
    for ((_, call), count) in seen {
        let entry = most.entry(call).or_insert(0);
        *entry = count.max(*entry);
    }
    most
}

pub(crate) fn points(count: u32, sample: u32) -> Vec<u32> {
    if torture() || count <= sample {
        return (1..=count).collect();
    }
    // The first calls are start-up; the rest is spread evenly.
    (0..sample).map(|at| 1 + at * (count - 1) / (sample - 1)).collect()
}

fn sweep(what: &str, sample: u32, only: impl Fn(&str) -> bool) {
    let registry = Registry::start();
    let image = Image::varied();
    image.push(&registry, "test/sweep", "1");
    let reference = registry.reference("test/sweep:1");
    // Every second pull finds a store with another image in it.
    let (other, kept) = (Image::random(7, &[3000]), registry.reference("test/sweep:other"));
    other.push(&registry, "test/sweep", "other");
    let (mut tried, mut bad) = (0, Vec::new());
    for (call, count) in counts(&reference) {
        if !only(call) {
            continue;
        }
        for at in points(count, sample) {
            let inject = format!("inject={call}:{what}:when={at}");
            let there = (tried % 2 == 1).then_some((kept.as_str(), &other));
            let attempt = || one(&inject, &reference, &image, there);
            if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(attempt)) {
                let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                bad.push(format!("{inject}: {text}"));
            }
            tried += 1;
        }
    }
    assert!(tried > 20, "only {tried} calls were tried");
    assert!(bad.is_empty(), "{} of {tried}:\n{}", bad.len(), bad.join("\n"));
}

/// One pull with one call spoilt; then the store is judged and the pull repeated.
fn one(inject: &str, reference: &str, image: &Image, there: Option<(&str, &Image)>) {
    let dist = dist();
    if let Some((name, _)) = there {
        dist.ok(&["pull", name]);
    }
    let log = dist.dir().join("strace.log");
    let log = log.to_str().expect("a path in UTF-8");
    let ran = strace(&dist, &["-o", log, "-e", inject], &["pull", reference]);
    let killed = inject.contains("KILL") || impossible(&ran.stderr);
    assert!(ran.signal.is_none() || killed, "hung or killed: {ran:?}");
    let told = ran.code == Some(0) || ran.signal.is_some() || !ran.stderr.trim().is_empty();
    assert!(told, "no message");
    let again = || {
        verify_store(&dist);
        if ran.code == Some(0) {
            verify_image(&dist, reference, image);
        }
        if let Some((name, other)) = there {
            verify_image(&dist, name, other);
        }
        dist.ok(&["pull", reference]);
        verify_image(&dist, reference, image);
    };
    if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(again)) {
        let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
        panic!("exit {:?}, {}\n  then: {text}", ran.code, ran.stderr.trim());
    }
}

/// The calls whose failure a full disk explains.
fn writes(call: &str) -> bool {
    !matches!(
        call,
        "read" | "pread64" | "flock" | "getdents64" | "fsync" | "fdatasync" | "utimensat"
    )
}

#[test]
fn eio() {
    let _timed = timed("sweep");
    sweep("error=EIO", 3, |call| call != "flock");
}

#[test]
fn enospc() {
    let _timed = timed("sweep");
    sweep("error=ENOSPC", 3, writes);
}

#[test]
fn killed() {
    let _timed = timed("sweep");
    sweep("signal=KILL", 3, |_| true);
}
