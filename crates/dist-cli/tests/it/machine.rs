//! A store whose image is run, for all suites about containers.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::Command;

use dist_core::Digest;
use dist_testutil::{Dist, Ran, Registry, require, run};
use serde_json::{Value, json};

use crate::support::{dist, pull};

/// A store with an image, and nothing left of it afterwards.
pub(crate) struct Machine {
    pub(crate) dist: Dist,
    pub(crate) image: String,
    _registry: Registry,
}

impl Machine {
    pub(crate) fn new(image: &str) -> Self {
        require(&["containerd-shim-runc-v2", "runc"]);
        let (registry, dist) = (Registry::of_images(), dist());
        let image = format!("localhost:{}/library/{image}", registry.port());
        pull(&dist, &image);
        Self { dist, image, _registry: registry }
    }

    pub(crate) fn busybox() -> Self {
        Self::new("busybox:1")
    }

    /// `dist run FLAGS IMAGE ARGS`.
    pub(crate) fn command(&self, flags: &[&str], args: &[&str]) -> Command {
        let mut command = self.dist.command(&["run"]);
        command.args(flags).arg(&self.image).args(args);
        command
    }

    pub(crate) fn run(&self, flags: &[&str], args: &[&str]) -> Ran {
        self.dist.finish(self.command(flags, args))
    }

    /// `dist run FLAGS IMAGE sh -c SCRIPT`, busybox's tools by their names.
    pub(crate) fn shell(&self, flags: &[&str], script: &str) -> Ran {
        self.run(flags, &["sh", "-c", script])
    }

    /// A pipe that a container can write to when it is as far as a test wants it.
    pub(crate) fn signal(&self) -> PathBuf {
        let path = self.dist.dir().join("ready");
        run("mkfifo", &[path.as_os_str()]);
        path
    }

    pub(crate) fn list(&self) -> Value {
        self.dist.ok(&["containers", "ls", "--format", "json"]).json()
    }

    /// No process, mount, cgroup, socket, file or row of a container is left.
    #[track_caller]
    pub(crate) fn assert_clean(&self, ids: &[&str]) {
        let root = self.dist.root().to_str().expect("a path in UTF-8");
        assert_eq!(self.list(), json!([]));
        for entry in fs_err::read_dir("/proc").expect("list processes").flatten() {
            // What has ended meanwhile has no command line, nor has one that nobody waited for.
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            assert!(!line.contains("containerd-shim") || !line.contains(root), "{line}");
        }
        let mounts = fs_err::read_to_string("/proc/self/mountinfo").expect("read the mounts");
        assert!(!mounts.contains(root), "{mounts}");
        let uuid = fs_err::read_to_string(self.dist.root().join("uuid")).expect("read the uuid");
        let ours = format!("dist-{}", &uuid[..12]);
        assert_eq!(cgroups(|name| name.starts_with(&ours)), Vec::<PathBuf>::new());
        for id in ids {
            let socket = Digest::sha256(format!("{root}/default/{id}").as_bytes());
            let socket = PathBuf::from("/run/containerd/s").join(socket.hex());
            assert!(!socket.exists(), "{}", socket.display());
        }
        for dir in ["bundles/default", "state/default"] {
            let dir = self.dist.root().join("containers").join(dir);
            let left = fs_err::read_dir(&dir).into_iter().flatten().flatten().next();
            assert!(left.is_none(), "{left:?} is left in {}", dir.display());
        }
        let snapshots = self.dist.ok(&["snapshots", "ls", "--format", "json"]).json();
        let active =
            snapshots.as_array().expect("a list").iter().any(|row| row["kind"] != "committed");
        assert!(!active, "{snapshots}");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let ids = self.dist.run(&["containers", "ls", "-q"]).text();
        let ids: Vec<&str> = ids.lines().collect();
        if !ids.is_empty() {
            let mut rm = vec!["containers", "rm", "--force"];
            rm.extend(ids);
            self.dist.run(&rm);
        }
    }
}

/// The cgroups whose names are wanted. Those of others come and go meanwhile, which `find` takes for a
/// failure.
pub(crate) fn cgroups(is_wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let (mut dirs, mut found) = (vec![PathBuf::from("/sys/fs/cgroup")], Vec::new());
    while let Some(dir) = dirs.pop() {
        let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        let is_dir = |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
        dirs.extend(entries.filter(is_dir).map(|entry| entry.path()));
        if dir.file_name().is_some_and(|name| is_wanted(&name.to_string_lossy())) {
            found.push(dir);
        }
    }
    found
}

/// Waits until a container writes to the pipe.
pub(crate) fn wait_for(signal: PathBuf) {
    let mut text = String::new();
    fs_err::File::open(signal).expect("open the pipe").read_to_string(&mut text).expect("read it");
}
