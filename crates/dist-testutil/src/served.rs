//! The daemon under test, started as a service manager starts it.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::cli::{Dist, Ran, Running, finish, start};
use crate::process::require;

/// How long a daemon may take to say that it is ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `dist daemon`; killed on drop, and with the thread that started it.
#[derive(Debug)]
pub struct Served<'a> {
    dist: &'a Dist,
    running: Running,
    address: PathBuf,
}

impl Dist {
    /// Starts the daemon on the root, with its sockets beside the test's own files, and waits until
    /// it says that it is ready.
    ///
    /// # Panics
    /// When it ends before that.
    #[track_caller]
    pub fn daemon(&self) -> Served<'_> {
        self.daemon_with(&[])
    }

    /// The same, with more flags behind `daemon`.
    ///
    /// # Panics
    /// When it ends before it is ready.
    #[track_caller]
    pub fn daemon_with(&self, flags: &[&str]) -> Served<'_> {
        let address = self.dir().join("run/dist.sock");
        let mut args = vec![OsStr::new("daemon"), OsStr::new("--address"), address.as_os_str()];
        args.extend(flags.iter().map(OsStr::new));
        let mut command = self.clean("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .arg(self.binary())
            .args(self.command(&args).get_args());
        Served { dist: self, running: self.start_service(command), address }
    }

    /// Starts a command that tells `NOTIFY_SOCKET` when it is ready, and waits for that.
    ///
    /// # Panics
    /// When it ends before it is ready.
    #[track_caller]
    pub fn start_service(&self, mut command: Command) -> Running {
        require(&["setpriv"]);
        let path = self.dir().join("notify.sock");
        let _ = fs_err::remove_file(&path);
        let notified = UnixDatagram::bind(&path).expect("make the notify socket");
        notified.set_read_timeout(Some(Duration::from_millis(50))).expect("set a timeout");
        command.env("NOTIFY_SOCKET", &path);
        let mut running = start(command);
        let since = Instant::now();
        let mut message = [0; 4096];
        loop {
            match notified.recv(&mut message) {
                Ok(length) => {
                    let text = String::from_utf8_lossy(&message[..length]);
                    if text.lines().any(|line| line == "READY=1") {
                        return running;
                    }
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    if running.has_ended() || since.elapsed() > PATIENCE {
                        let ran = running.kill();
                        panic!("the daemon did not get ready: {:?}\n{}", ran.code, ran.stderr);
                    }
                }
                Err(error) => panic!("hear from the daemon: {error}"),
            }
        }
    }
}

impl Served<'_> {
    /// The socket for clients.
    pub fn address(&self) -> &Path {
        &self.address
    }

    /// The socket for other daemons.
    pub fn backend(&self) -> PathBuf {
        self.address.with_file_name("backend.sock")
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.running.id()
    }

    /// Runs `ctr` against it, in the namespace `default` unless `args` say otherwise.
    ///
    /// # Panics
    /// When there is no `ctr`.
    #[track_caller]
    pub fn ctr<S: AsRef<OsStr>>(&self, args: &[S]) -> Ran {
        finish(self.ctr_command(args))
    }

    /// Starts `ctr` against it and lets it run.
    ///
    /// # Panics
    /// When there is no `ctr`.
    #[track_caller]
    pub fn spawn_ctr<S: AsRef<OsStr>>(&self, args: &[S]) -> Running {
        start(self.ctr_command(args))
    }

    /// `ctr` against it, not yet started.
    ///
    /// # Panics
    /// When there is no `ctr`.
    pub fn ctr_command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        require(&["ctr"]);
        let mut command = self.dist.clean("ctr");
        command.arg("--address").arg(&self.address).args(args);
        command
    }

    /// Sends a signal by name (`INT`, `TERM`, `HUP`).
    ///
    /// # Panics
    /// When there is no such process.
    pub fn signal(&self, name: &str) {
        self.running.signal(name);
    }

    /// Asks it to stop, and waits for its end.
    pub fn stop(self) -> Ran {
        self.running.signal("TERM");
        self.running.wait()
    }

    /// Kills it at once and waits for its end.
    pub fn kill(self) -> Ran {
        self.running.kill()
    }

    /// Waits for its end.
    pub fn wait(self) -> Ran {
        self.running.wait()
    }
}
