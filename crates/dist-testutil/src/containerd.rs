//! Debian's containerd as a child process, with root and socket of its own.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::process::{Daemon, Scratch, require, run, scratch};

/// A running containerd.
///
/// Its state directory and its mounts are below its own directory; they end
/// with the value, and what it mounted with the mount namespace of the tests.
#[derive(Debug)]
pub struct Containerd {
    daemon: Daemon,
    socket: PathBuf,
    dir: Scratch,
}

impl Containerd {
    /// Starts one with an empty root, as Debian configures it but without CRI.
    ///
    /// # Panics
    /// When containerd is missing or does not start.
    pub fn start() -> Self {
        Self::with("")
    }

    /// Starts one whose configuration ends in `more`.
    ///
    /// # Panics
    /// When containerd is missing or does not start.
    pub fn with(more: &str) -> Self {
        Self::launch(&["io.containerd.grpc.v1.cri"], more)
    }

    /// Starts one that keeps its content, and the snapshots of the snapshotter `dist`, behind the
    /// socket `backend`.
    ///
    /// # Panics
    /// When containerd is missing or does not start.
    pub fn behind(backend: &Path) -> Self {
        let address = backend.display();
        let plugins = format!(
            "[proxy_plugins.dist]\n  type = \"snapshot\"\n  address = \"{address}\"\n\
             [proxy_plugins.dist-content]\n  type = \"content\"\n  address = \"{address}\"\n"
        );
        // It takes any one of the content stores that it has.
        Self::launch(&["io.containerd.grpc.v1.cri", "io.containerd.content.v1.content"], &plugins)
    }

    fn launch(disabled: &[&str], more: &str) -> Self {
        require(&["containerd", "ctr"]);
        let dir = scratch();
        let socket = dir.path().join("sock");
        let config = dir.path().join("config.toml");
        let at = dir.path().display();
        let settings = format!(
            "version = 2\nroot = \"{at}/root\"\nstate = \"{at}/state\"\n\
             disabled_plugins = {disabled:?}\n\
             [grpc]\n  address = \"{at}/sock\"\n[ttrpc]\n  address = \"{at}/sock.ttrpc\"\n{more}"
        );
        fs_err::write(&config, settings).expect("write the config");
        let (daemon, ()) =
            Daemon::start("containerd", &[OsStr::new("--config"), config.as_os_str()], |line| {
                line.contains("containerd successfully booted").then_some(())
            });
        Self { daemon, socket, dir }
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.daemon.id()
    }

    /// A directory for the test's own files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Runs `ctr` against it and gives what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn ctr(&self, args: &[&str]) -> String {
        let mut all = vec![OsStr::new("--address"), self.socket.as_os_str()];
        all.extend(args.iter().map(OsStr::new));
        run("ctr", &all)
    }
}
