//! The binary under test, run as a user runs it: own root, own home, nothing
//! of the caller's environment that could change its answers.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::process::{Scratch, drain, scratch};

/// The binary with a root of its own.
#[derive(Debug)]
pub struct Dist {
    binary: PathBuf,
    root: PathBuf,
    flags: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    dir: Scratch,
}

/// What a run left.
#[derive(Debug)]
pub struct Ran {
    /// The exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Everything on standard output.
    pub stdout: Vec<u8>,
    /// Everything on standard error.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Ran {
    fn new(status: ExitStatus, stdout: Vec<u8>, stderr: Vec<u8>, took: Duration) -> Self {
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        assert!(!stderr.contains("panicked at"), "the command panicked:\n{stderr}");
        Self { code: status.code(), signal: status.signal(), stdout, stderr, took }
    }

    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// When it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.text()))
    }

    /// Fails the test unless the exit code is 0.
    ///
    /// # Panics
    /// When it is another.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.exit(0)
    }

    /// Fails the test unless the exit code is `code`; an error must say something.
    ///
    /// # Panics
    /// When it is another, or an error is silent.
    #[track_caller]
    pub fn exit(self, code: i32) -> Self {
        assert!(
            self.code == Some(code),
            "exit {:?} (signal {:?}), wanted {code}\nstdout: {}\nstderr: {}",
            self.code,
            self.signal,
            self.text(),
            self.stderr
        );
        assert!(code == 0 || !self.stderr.trim().is_empty(), "exit {code} without a message");
        self
    }

    /// Fails the test unless standard error has `part` in it.
    ///
    /// # Panics
    /// When it has not.
    #[track_caller]
    pub fn says(self, part: &str) -> Self {
        assert!(self.stderr.contains(part), "no {part:?} in: {}", self.stderr);
        self
    }
}

type Reader = JoinHandle<Vec<u8>>;

/// A run that goes on; killed on drop.
#[derive(Debug)]
pub struct Running {
    child: Option<Child>,
    outputs: Option<(Reader, Reader)>,
    since: Instant,
}

impl Running {
    /// Starts a command and lets it run.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn of(command: Command) -> Self {
        start(command)
    }

    /// The process id.
    ///
    /// # Panics
    /// After the end.
    pub fn id(&self) -> u32 {
        self.child.as_ref().expect("still running").id()
    }

    /// Sends a signal by name (`INT`, `TERM`, `KILL`, `STOP`).
    ///
    /// # Panics
    /// When there is no such process.
    pub fn signal(&self, name: &str) {
        let id = self.id().to_string();
        crate::process::run("kill", &["-s", name, &id].map(OsStr::new));
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
    }

    /// Kills it at once and waits for its end.
    pub fn kill(mut self) -> Ran {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
        }
        self.finish()
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Ran {
        self.finish()
    }

    fn finish(&mut self) -> Ran {
        let status =
            self.child.take().expect("still running").wait().expect("wait for the command");
        let (stdout, stderr) = self.outputs.take().expect("outputs are read once");
        let read = |thread: Reader| thread.join().expect("read an output");
        Ran::new(status, read(stdout), read(stderr), self.since.elapsed())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Dist {
    /// `binary` with a new, empty root.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        let dir = scratch();
        let root = dir.path().join("root");
        fs_err::create_dir(dir.path().join("home")).expect("make a home");
        Self { binary: binary.into(), root, flags: Vec::new(), environment: Vec::new(), dir }
    }

    /// The same binary with its root at `root`.
    #[must_use]
    pub fn at(mut self, root: impl Into<PathBuf>) -> Self {
        self.root = root.into();
        self
    }

    /// Adds flags that stand before every command.
    #[must_use]
    pub fn with(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(OsString::from));
        self
    }

    /// Adds a variable to the environment of every command.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// The root directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The home directory of the commands.
    pub fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// A directory for the test's own files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The binary.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// `program` with the environment of the tests.
    pub fn clean(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear();
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command
            .env("HOME", self.home())
            .env("DIST_ROOT", &self.root)
            .env("DIST_CONFIG", "/dev/null") // not that of the machine
            .env("LC_ALL", "C.UTF-8")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    /// The command, not yet started.
    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = self.clean(&self.binary);
        command.args(&self.flags).args(args);
        command
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// When the binary cannot be started, or the command panics.
    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Ran {
        finish(self.command(args))
    }

    /// Runs a command that must succeed.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn ok<S: AsRef<OsStr>>(&self, args: &[S]) -> Ran {
        self.run(args).ok()
    }

    /// Runs a command with `input` on its standard input.
    ///
    /// # Panics
    /// When the binary cannot be started.
    pub fn feed<S: AsRef<OsStr>>(&self, args: &[S], input: &[u8]) -> Ran {
        let path = self.dir.path().join(format!("input-{:?}", std::thread::current().id()));
        fs_err::write(&path, input).expect("write the input");
        let mut command = self.command(args);
        command.stdin(fs_err::File::open(&path).expect("open the input").into_parts().0);
        finish(command)
    }

    /// Runs a shell script in which `dist` is the binary, under the test's environment.
    ///
    /// # Panics
    /// When the shell cannot be started.
    pub fn script(&self, text: &str) -> Ran {
        let bin = self.dir.path().join("bin");
        fs_err::create_dir_all(&bin).expect("make a bin dir");
        let link = bin.join("dist");
        if !link.exists() {
            fs_err::os::unix::fs::symlink(&self.binary, &link).expect("link the binary");
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = self.clean("bash");
        command
            .env("PATH", format!("{}:{path}", bin.display()))
            .args(["-euo", "pipefail", "-c", text]);
        finish(command)
    }

    /// Runs any command to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn finish(&self, command: Command) -> Ran {
        finish(command)
    }

    /// Starts a command and lets it run.
    ///
    /// # Panics
    /// When the binary cannot be started.
    pub fn spawn<S: AsRef<OsStr>>(&self, args: &[S]) -> Running {
        start(self.command(args))
    }
}

pub(crate) fn start(mut command: Command) -> Running {
    let since = Instant::now();
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("start {command:?}: {error}"));
    let outputs = (
        drain(child.stdout.take().expect("a piped stdout")),
        drain(child.stderr.take().expect("a piped stderr")),
    );
    Running { child: Some(child), outputs: Some(outputs), since }
}

pub(crate) fn finish(command: Command) -> Ran {
    start(command).wait()
}
