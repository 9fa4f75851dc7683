//! Child processes that cannot outlive the test, and the tools tests need.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;

use tempfile::TempDir;

/// A server process, killed and reaped on drop.
///
/// It is also killed by the kernel when the thread that started it ends, so a
/// test that is itself killed leaves nothing running.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
}

impl Daemon {
    /// Starts `program`, and waits for the line of its output in which `ready`
    /// finds what the caller wants to know (a port, mostly).
    ///
    /// # Panics
    /// When the program is missing, or ends before such a line.
    pub fn start<T: Send + 'static>(
        program: &str,
        args: &[&OsStr],
        ready: impl Fn(&str) -> Option<T> + Send + 'static,
    ) -> (Self, T) {
        Self::start_with(program, args, Stdio::null(), ready)
    }

    /// As [`Daemon::start`], with something as its standard input: a socket that it accepts on.
    ///
    /// # Panics
    /// As [`Daemon::start`].
    pub fn start_with<T: Send + 'static>(
        program: &str,
        args: &[&OsStr],
        input: Stdio,
        ready: impl Fn(&str) -> Option<T> + Send + 'static,
    ) -> (Self, T) {
        require(&[program]);
        let (reader, writer) = std::io::pipe().expect("make a pipe");
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", program])
            .args(args)
            // The same containerd with and without pigz.
            .env("CONTAINERD_DISABLE_PIGZ", "1")
            .stdin(input)
            .stdout(writer.try_clone().expect("duplicate the pipe"))
            .stderr(writer)
            .spawn()
            .unwrap_or_else(|error| panic!("start {program}: {error}"));
        let daemon = Self { child };
        let (send, receive) = mpsc::channel();
        let name = program.to_owned();
        std::thread::spawn(move || {
            let mut said = String::new();
            let mut lines = BufReader::new(reader).lines().map_while(Result::ok);
            for line in lines.by_ref() {
                if let Some(found) = ready(&line) {
                    let _ = send.send(Ok(found));
                    break;
                }
                said.push_str(&line);
                said.push('\n');
            }
            let _ = send.send(Err(format!("{name} ended before it was ready:\n{said}")));
            lines.for_each(drop); // a full pipe would stop the server
        });
        match receive.recv().expect("hear from the reader thread") {
            Ok(found) => (daemon, found),
            Err(said) => panic!("{said}"),
        }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Fails the test when one of `tools` is not installed, and says what to do.
///
/// # Panics
/// When a tool is missing.
pub fn require(tools: &[&str]) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    for tool in tools {
        let found = tool.contains('/') && Path::new(tool).exists()
            || std::env::split_paths(&path)
                .chain(["/usr/sbin".into(), "/sbin".into()])
                .any(|dir| dir.join(tool).exists());
        assert!(found, "{tool} is not installed; run tests/setup as root");
    }
}

/// Runs a tool to its end and gives its standard output.
///
/// # Panics
/// When it cannot be run or fails.
pub fn run(program: &str, args: &[&OsStr]) -> String {
    require(&[program]);
    let Output { status, stdout, stderr } = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("run {program}: {error}"));
    let said = String::from_utf8_lossy(&stdout).into_owned();
    assert!(
        status.success(),
        "{program} {args:?}: {status}\n{said}{}",
        String::from_utf8_lossy(&stderr)
    );
    said
}

/// A directory that goes with the value, and whatever is mounted in it.
#[derive(Debug)]
pub struct Scratch(TempDir);

impl Scratch {
    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl AsRef<Path> for Scratch {
    fn as_ref(&self) -> &Path {
        self.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mounted = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let targets = mounted.lines().filter_map(|line| line.split(' ').nth(4).map(Path::new));
        // What was mounted last hides what was before.
        for target in targets.filter(|target| target.starts_with(self.path())).rev() {
            let _ = Command::new("umount").arg("-l").arg(target).status();
        }
    }
}

/// An empty directory for one test, on a real filesystem.
///
/// # Panics
/// When it cannot be made.
pub fn scratch() -> Scratch {
    let base = std::env::var_os("DIST_TEST_DIR").unwrap_or_else(|| "/var/tmp".into());
    let made = tempfile::Builder::new().prefix("dist-test-").tempdir_in(base);
    Scratch(made.expect("make a scratch dir"))
}

/// Reads everything, for threads that drain a child's output.
pub(crate) fn drain(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        let _ = from.read_to_end(&mut all);
        all
    })
}
