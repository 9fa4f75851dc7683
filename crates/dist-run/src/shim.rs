//! One shim: a process that runs a container for us, and outlives us (containerd, runtime v2).
//!
//! `SHIM -namespace NS -id ID -address HOME -publish-binary PROGRAM start`, in the bundle, leaves a
//! process behind and prints where it listens. Where that process is gone, `delete` with the same
//! arguments ends and forgets what it ran. What a shim has to say goes to the file `log` in the
//! bundle, what `start` has to say to `start`, which is locked as long as that runs: where we die
//! meanwhile, others know when all is there that it leaves.

mod children;
mod look;

pub use look::{Seen, SeenPid};

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio as ProcessStdio;

use dist_core::{Any, Context as _, Error, ErrorKind, Exit, Mount, Result, ResultExt as _};
use prost::Message as _;
use rustix::fs::FlockOperation;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::process::Command;

use crate::ttrpc::Connection;
use crate::{pidfd, proto};

/// The file in a bundle that has what was said when its shim was started.
const START: &str = "start";

/// What a shim is started for.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    /// The shim's program.
    pub(crate) program: PathBuf,
    pub(crate) namespace: &'a str,
    pub(crate) id: &'a str,
    /// The bundle, whose name is `id`.
    pub(crate) bundle: &'a Path,
    /// What makes the shim's socket another than that of other engines.
    pub(crate) home: &'a Path,
    /// The socket on which a daemon wants to hear of what happens.
    pub(crate) events: Option<PathBuf>,
}

/// Where a shim listens, and which version of the task service it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) address: String,
    pub(crate) version: u32,
}

impl Address {
    /// The socket's path.
    pub(crate) fn path(&self) -> &Path {
        Path::new(self.address.strip_prefix("unix://").unwrap_or(&self.address))
    }
}

impl Place<'_> {
    fn command(&self, action: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["-namespace", self.namespace, "-id", self.id, "-address"])
            .arg(self.home)
            // Those that publish by a program are of an earlier time, and nobody hears them.
            .args(["-publish-binary", "true", "-bundle"])
            .arg(self.bundle)
            .arg(action)
            .env_remove("TTRPC_ADDRESS")
            .envs(self.events.iter().map(|socket| ("TTRPC_ADDRESS", socket)))
            // For programs in Go: a thread for each core of a large machine waits for nothing.
            .env("GOMAXPROCS", "2")
            .current_dir(self.bundle)
            .stdin(ProcessStdio::piped())
            .stdout(ProcessStdio::piped());
        command
    }

    /// Starts the shim. Blocks.
    pub(crate) fn start(&self, options: Option<&Any>) -> Result<Address> {
        let what = || format!("start shim {}", self.program.display());
        std::fs::File::create(self.bundle.join("log")).context(ErrorKind::Storage, what)?;
        let path = self.bundle.join(START);
        let said = std::fs::File::create(&path).context(ErrorKind::Storage, what)?;
        rustix::fs::flock(&said, FlockOperation::LockExclusive)
            .context(ErrorKind::Storage, what)?;
        let mut command = self.command("start").into_std();
        let mut child = command.stderr(said).spawn().context(ErrorKind::Internal, what)?;
        // It has the file, and with it the lock: ours would last until the command goes.
        drop(command);
        if let Some(mut stdin) = child.stdin.take() {
            let options = options.map(any).unwrap_or_default();
            // A shim that does not read them has its own.
            drop(stdin.write_all(&options.encode_to_vec()));
        }
        let output = child.wait_with_output().context(ErrorKind::Internal, what)?;
        if !output.status.success() {
            let said = std::fs::read(&path).context(ErrorKind::Storage, what)?;
            let said = String::from_utf8_lossy(&said).trim().to_owned();
            return Err(Error::new(ErrorKind::Internal, said)).during(what);
        }
        parse_address(&String::from_utf8_lossy(&output.stdout)).during(what)
    }

    /// Ends and forgets what a shim ran that is gone. Tells how that ended, as the shim sees it.
    pub(crate) async fn delete(&self) -> Result<Ended> {
        let what = || format!("clean up after shim {}", self.program.display());
        let mut command = self.command("delete");
        command.stderr(ProcessStdio::piped());
        let mut child = command.spawn().context(ErrorKind::Internal, what)?;
        drop(child.stdin.take());
        let output = child.wait_with_output().await.context(ErrorKind::Internal, what)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Error::new(ErrorKind::Internal, said)).during(what);
        }
        let told = proto::DeleteResponse::decode(&*output.stdout).unwrap_or_default();
        Ok(ended(&told))
    }
}

/// Where the shim in a bundle listens, whose starter may have died. Waits until it is started.
/// Blocks.
pub(crate) fn find(bundle: &Path) -> Result<Option<Address>> {
    let what = || format!("look for a shim in {}", bundle.display());
    let start = match std::fs::File::open(bundle.join(START)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        start => start.context(ErrorKind::Storage, what)?,
    };
    rustix::fs::flock(&start, FlockOperation::LockExclusive).context(ErrorKind::Storage, what)?;
    recorded(bundle)
}

/// Where the shim in a bundle says that it listens.
pub(crate) fn recorded(bundle: &Path) -> Result<Option<Address>> {
    let what = || format!("look for a shim in {}", bundle.display());
    for name in ["bootstrap.json", "address"] {
        match std::fs::read_to_string(bundle.join(name)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => (),
            text => return parse_address(&text.context(ErrorKind::Storage, what)?).map(Some),
        }
    }
    Ok(None)
}

/// Reads what a shim prints: an address, or from newer ones an object with it.
fn parse_address(text: &str) -> Result<Address> {
    #[derive(serde::Deserialize)]
    struct Wire {
        version: u32,
        address: String,
        protocol: String,
    }
    let text = text.trim();
    if text.starts_with('{') {
        let wire: Wire = serde_json::from_str(text)
            .context(ErrorKind::Unsupported, || "read the shim's address".into())?;
        if wire.protocol != "ttrpc" {
            let message = format!("talk to the shim: it wants {:?}, not ttrpc", wire.protocol);
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        return Ok(Address { address: wire.address, version: wire.version });
    }
    if text.is_empty() {
        return Err(Error::new(ErrorKind::Unsupported, "read the shim's address: there is none"));
    }
    Ok(Address { address: text.to_owned(), version: 2 })
}

fn any(any: &Any) -> prost_types::Any {
    prost_types::Any { type_url: any.type_url.clone(), value: any.value.clone() }
}

/// A process of a container: the first one, or one that was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessId<'a> {
    /// The first one.
    First,
    /// One of [`TaskClient::exec`].
    Exec(&'a str),
}

impl ProcessId<'_> {
    fn exec_id(self) -> String {
        match self {
            Self::First => String::new(),
            Self::Exec(id) => id.to_owned(),
        }
    }
}

/// What a process reads and writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stdio {
    /// A pipe's path; empty for nothing.
    pub stdin: String,
    /// A pipe's path, or `file://` and a file's; empty for nothing.
    pub stdout: String,
    /// The same; with a terminal it is empty.
    pub stderr: String,
    /// Whether it has a terminal.
    pub terminal: bool,
}

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has not been started.
    Created,
    /// It runs.
    Running,
    /// It is frozen.
    Paused,
    /// It has ended.
    Stopped(Exit),
}

/// A process that has ended and was forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The id that it had in the kernel; 0 where it never ran.
    pub pid: u32,
    /// How it ended.
    pub exit: Exit,
}

/// The task of one container, through its shim.
#[derive(Debug)]
pub struct TaskClient {
    connection: Connection,
    service: String,
    id: String,
}

impl TaskClient {
    /// Connects to a shim.
    ///
    /// # Errors
    /// `NotFound` where it is gone; `Unavailable`.
    pub async fn connect(address: &str, version: u32, id: &str) -> Result<Self> {
        let path = address.strip_prefix("unix://").unwrap_or(address);
        let connection = Connection::open(Path::new(path)).await?;
        let service = format!("containerd.task.v{version}.Task");
        Ok(Self { connection, service, id: id.to_owned() })
    }

    async fn call<M: prost::Message, R: prost::Message + Default>(
        &self,
        method: &str,
        message: M,
    ) -> Result<R> {
        self.connection.call(&self.service, method, &message).await
    }

    fn process(&self, process: ProcessId<'_>) -> proto::Process {
        proto::Process { id: self.id.clone(), exec_id: process.exec_id() }
    }

    /// Makes the first process, which does not run yet.
    pub(crate) async fn create(
        &self,
        bundle: &Path,
        rootfs: &[Mount],
        stdio: &Stdio,
        options: Option<&Any>,
    ) -> Result<u32> {
        let mount = |mount: &Mount| proto::Mount {
            r#type: mount.fstype.clone(),
            source: mount.source.to_string_lossy().into_owned(),
            target: mount.target.iter().map(|path| path.to_string_lossy()).collect(),
            options: mount.options.clone(),
        };
        let Stdio { stdin, stdout, stderr, terminal } = stdio.clone();
        let request = proto::CreateTaskRequest {
            id: self.id.clone(),
            bundle: bundle.to_string_lossy().into_owned(),
            rootfs: rootfs.iter().map(mount).collect(),
            terminal,
            stdin,
            stdout,
            stderr,
            options: options.map(any),
        };
        self.call::<_, proto::Started>("Create", request).await.map(|made| made.pid)
    }

    /// Lets a process run.
    ///
    /// # Errors
    /// What the runtime says of it; `NotFound`; `Unavailable`.
    pub async fn start(&self, process: ProcessId<'_>) -> Result<u32> {
        let started: proto::Started = self.call("Start", self.process(process)).await?;
        Ok(started.pid)
    }

    /// Waits for the end of a process.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable`.
    pub async fn wait(&self, process: ProcessId<'_>) -> Result<Exit> {
        let ended: proto::WaitResponse = self.call("Wait", self.process(process)).await?;
        Ok(exit(ended.exit_status, ended.exited_at))
    }

    /// Says what a process does, and its id in the kernel.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable`.
    pub async fn state(&self, process: ProcessId<'_>) -> Result<(State, u32)> {
        self.look(process).await.map(|seen| (seen.state, seen.pid))
    }

    /// Sends a signal to a process; `all` means every process of the container.
    ///
    /// # Errors
    /// `NotFound` where it has ended; `Unavailable`.
    pub async fn kill(&self, process: ProcessId<'_>, signal: u32, all: bool) -> Result<()> {
        let (id, exec_id) = (self.id.clone(), process.exec_id());
        let request = proto::KillRequest { id, exec_id, signal, all };
        self.call::<_, proto::Empty>("Kill", request).await.map(drop)
    }

    /// Forgets a process that has ended; of the first one the root file system is unmounted.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` for one that runs; `Unavailable`.
    pub async fn delete(&self, process: ProcessId<'_>) -> Result<Ended> {
        let gone: proto::DeleteResponse = self.call("Delete", self.process(process)).await?;
        Ok(ended(&gone))
    }

    /// Adds a process to a container that runs; it does not run yet. `process` is its JSON, by the
    /// runtime spec.
    ///
    /// # Errors
    /// `AlreadyExists`; `FailedPrecondition` where the container does not run; `Unavailable`.
    pub async fn exec(&self, exec_id: &str, process: Vec<u8>, stdio: &Stdio) -> Result<()> {
        const PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
        let Stdio { stdin, stdout, stderr, terminal } = stdio.clone();
        let request = proto::ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            terminal,
            stdin,
            stdout,
            stderr,
            spec: Some(prost_types::Any { type_url: PROCESS.to_owned(), value: process }),
        };
        self.call::<_, proto::Empty>("Exec", request).await.map(drop)
    }

    /// Tells a process the size of its terminal.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable`.
    pub async fn resize(&self, process: ProcessId<'_>, width: u16, height: u16) -> Result<()> {
        let request = proto::ResizePtyRequest {
            id: self.id.clone(),
            exec_id: process.exec_id(),
            width: width.into(),
            height: height.into(),
        };
        self.call::<_, proto::Empty>("ResizePty", request).await.map(drop)
    }

    /// Ends the standard input of a process.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable`.
    pub async fn close_stdin(&self, process: ProcessId<'_>) -> Result<()> {
        let (id, exec_id) = (self.id.clone(), process.exec_id());
        let request = proto::CloseIoRequest { id, exec_id, stdin: true };
        self.call::<_, proto::Empty>("CloseIO", request).await.map(drop)
    }

    /// Freezes every process of the container.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable`.
    pub async fn pause(&self) -> Result<()> {
        self.call::<_, proto::Empty>("Pause", self.process(ProcessId::First)).await.map(drop)
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable`.
    pub async fn resume(&self) -> Result<()> {
        self.call::<_, proto::Empty>("Resume", self.process(ProcessId::First)).await.map(drop)
    }

    /// What the container uses, as the shim tells it; [`Stats::read`](crate::Stats::read) reads it.
    ///
    /// # Errors
    /// `NotFound` where it has ended; `Unavailable`.
    pub async fn stats(&self) -> Result<Any> {
        let told: proto::StatsResponse = self.call("Stats", self.process(ProcessId::First)).await?;
        let stats = told.stats.unwrap_or_default();
        Ok(Any { type_url: stats.type_url, value: stats.value })
    }

    /// Ends what a shim has that has nothing to run any more; gives those that this process may not
    /// end.
    ///
    /// # Errors
    /// `Internal`.
    pub(crate) async fn end_children(&self) -> Result<Vec<Pid>> {
        let shim: proto::ConnectResponse =
            self.call("Connect", self.process(ProcessId::First)).await.unwrap_or_default();
        let what = || format!("end what shim {} has", shim.shim_pid);
        let ended = tokio::task::spawn_blocking(move || children::end(shim.shim_pid)).await;
        ended.context(ErrorKind::Internal, what)?.context(ErrorKind::Internal, what)
    }

    /// Ends the shim, which has nothing to run any more, and waits until it is gone.
    ///
    /// # Errors
    /// `Unavailable`; `Internal` where it can't be killed either.
    pub async fn shutdown(&self) -> Result<()> {
        let shim: proto::ConnectResponse =
            self.call("Connect", self.process(ProcessId::First)).await.unwrap_or_default();
        let pid = i32::try_from(shim.shim_pid).ok().and_then(Pid::from_raw);
        let ends = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let request = proto::ShutdownRequest { id: self.id.clone(), now: false };
        // It may end before it answers.
        match self.call::<_, proto::Empty>("Shutdown", request).await {
            Err(error) if error.kind() != ErrorKind::Unavailable => return Err(error),
            _ => (),
        }
        let Some(ends) = ends else { return Ok(()) };
        let waited = tokio::task::spawn_blocking(move || wait_for_end(&ends)).await;
        let what = || format!("end shim {}", shim.shim_pid);
        waited.context(ErrorKind::Internal, what)?.context(ErrorKind::Internal, what)
    }
}

/// Waits for the end of a shim; one that does not end is killed.
fn wait_for_end(shim: &OwnedFd) -> rustix::io::Result<()> {
    if !pidfd::wait(shim)? {
        tracing::warn!("a shim does not end; it is killed");
        pidfd_send_signal(shim, Signal::KILL)?;
    }
    Ok(())
}

fn ended(told: &proto::DeleteResponse) -> Ended {
    Ended { pid: told.pid, exit: exit(told.exit_status, told.exited_at) }
}

fn exit(status: u32, at: Option<prost_types::Timestamp>) -> Exit {
    let at =
        at.map_or(0, |at| at.seconds.saturating_mul(1_000_000_000).saturating_add(at.nanos.into()));
    Exit { status, at }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_all_versions() {
        let of = |address: &str, version| Address { address: address.into(), version };
        assert_eq!(parse_address("unix:///run/s/1\n").unwrap(), of("unix:///run/s/1", 2));
        let new = r#"{"version":3,"address":"unix:///run/s/2","protocol":"ttrpc"}"#;
        assert_eq!(parse_address(new).unwrap(), of("unix:///run/s/2", 3));
        for bad in ["", " \n", "{", r#"{"version":3,"address":"x","protocol":"grpc"}"#] {
            assert_eq!(parse_address(bad).unwrap_err().kind(), ErrorKind::Unsupported, "{bad}");
        }
    }
}
