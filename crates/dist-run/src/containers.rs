//! Containers of one namespace of a store: made, run, observed and removed, by any process.
//!
//! ```text
//! ROOT/containers/bundles/<namespace>/<id>/   the bundle, the pipes, the shim's log and `output`
//! ROOT/containers/state/<namespace>/<id>/     what the runtime knows
//! ```
//!
//! A container's row comes first and goes last; between them its snapshot, its bundle and its shim
//! can be found from the row, by whatever process. Whoever changes a container's life holds the lock
//! `container NAMESPACE/ID`; who waits for its end and then removes it holds `attached NAMESPACE/ID`,
//! so that others know when that process died.

mod dispose;
mod life;
mod network;
mod tasks;

pub use life::{Observed, Starting};
pub use tasks::{NewTask, TaskNow};

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use dist::Engine;
use dist_core::{
    Any, Cancel, ChainId, Container, ContainerId, Context as _, Error, ErrorKind, Labels,
    Namespace, Result, ResultExt as _, SnapshotKey,
};
use dist_snapshot::{mount::Seen, remove_tree};
use dist_store::{ContainerStore, LockGuard, Store};

use crate::{
    Bundle, Cni, Converted, HostFacts, ImageSettings, NetworkConfig, Rootfs, Runtime, SpecOptions,
    Stdio, Streams, cgroup, convert,
};

/// The label of a container that goes when it has ended.
pub const AUTO_REMOVE: &str = "dist/auto-remove";

/// The label of a container whose process waits for it.
pub const ATTACHED: &str = "dist/attached";

/// The label that says what asks a container to stop.
pub const STOP_SIGNAL: &str = "dist/stop-signal";

/// The label that says how many seconds a container has to stop.
pub const STOP_TIMEOUT: &str = "dist/stop-timeout";

/// The pipe in a bundle from which a container reads that nobody waits for.
const STDIN: &str = "stdin";

/// The type of a runtime spec.
const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// The containers of an engine's namespace.
#[derive(Clone)]
pub struct Containers {
    engine: Engine,
    /// Where programs are looked for.
    path: Option<OsString>,
    cni: Cni,
}

/// What a container is made of.
#[derive(Debug)]
pub struct NewContainer {
    /// Its id.
    pub id: ContainerId,
    /// The name of its image.
    pub image: String,
    /// Where its files come from.
    pub tree: Tree,
    /// How the image is run.
    pub settings: ImageSettings,
    /// What runs it.
    pub runtime: Runtime,
    /// Its labels.
    pub labels: Labels,
    /// The network that it joins; then its options say so, too.
    pub network: Option<NetworkConfig>,
}

/// Where the files of a container come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tree {
    /// A snapshot that holds an image; the container has one of its own on it.
    Image(ChainId),
    /// A directory, which the container changes itself, and which stays.
    Directory(PathBuf),
}

/// A container that was made and does not run yet.
#[derive(Debug)]
pub struct Made {
    /// What is recorded of it.
    pub container: Container,
    /// What became of its image's config.
    pub converted: Converted,
    /// Its shim, for [`Containers::begin`].
    pub shim: Starting,
}

impl Containers {
    /// The containers of `engine`'s namespace; `path` is where programs are looked for.
    #[must_use]
    pub fn new(engine: Engine, path: Option<OsString>) -> Self {
        let cni = Cni::usual(path.clone());
        Self { engine, path, cni }
    }

    /// The same, with networks from elsewhere.
    #[must_use]
    pub fn with_networks(self, cni: Cni) -> Self {
        Self { cni, ..self }
    }

    /// Whose containers they are.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The rows.
    #[must_use]
    pub fn rows(&self) -> ContainerStore {
        self.engine.store().containers(self.engine.namespace())
    }

    /// Finds a runtime; see [`Runtime::find`].
    ///
    /// # Errors
    /// `NotFound`.
    pub fn runtime(&self, asked: Option<&str>) -> Result<Runtime> {
        Runtime::find(asked, &self.dir("state"), self.path.as_deref())
    }

    /// Keeps a container of [`AUTO_REMOVE`] and [`ATTACHED`] from being removed by others, for as
    /// long as this process and the guard live.
    ///
    /// # Errors
    /// `AlreadyExists` where somebody does that; `Storage`.
    pub fn attach(&self, id: &ContainerId) -> Result<LockGuard> {
        let lock = self.engine.store().try_lock(&self.lock_name("attached", id))?;
        lock.ok_or_else(|| Error::new(ErrorKind::AlreadyExists, format!("container {id}")))
    }

    /// Makes a container: its row, its snapshot and its bundle, and begins to start its shim. `wishes`
    /// looks users up in the root file system. Where it fails nothing is left. Files are made on the
    /// caller's thread.
    ///
    /// # Errors
    /// `AlreadyExists` for the id; `NotFound` for an image that is not unpacked; those of the wishes,
    /// of [`convert`] and of the snapshotter.
    pub async fn create(
        &self,
        new: NewContainer,
        wishes: impl FnOnce(&mut Rootfs) -> Result<SpecOptions>,
    ) -> Result<Made> {
        let life = self.lock_life(&new.id)?;
        let snapshot_key = match new.tree {
            Tree::Image(_) => new.id.to_string(),
            Tree::Directory(_) => String::new(),
        };
        let container = self.rows().create(&Container {
            id: new.id.clone(),
            labels: new.labels.clone(),
            image: new.image.clone(),
            runtime: new.runtime.name.clone(),
            runtime_options: new.runtime.options.clone(),
            spec: None,
            snapshotter: self.engine.snapshotter_name().to_owned(),
            snapshot_key,
            extensions: BTreeMap::new(),
            created_at: 0,
            updated_at: 0,
            task: None,
        })?;
        let mut shim = None;
        let made = self.fill(&container, &new, wishes, &mut shim);
        if made.is_err() {
            let removed = async {
                if let Some(shim) = shim.take() {
                    // Wherever it listens, the bundle says so.
                    drop(shim.address().await);
                }
                self.remove_locked(&container, life).await
            };
            if let Err(error) = removed.await {
                tracing::warn!(id = %container.id, ?error, "a failed container was not removed");
            }
        }
        let converted = made.during(|| format!("make container {}", container.id))?;
        let container = self.rows().get(&container.id)?;
        let options = container.runtime_options.as_ref();
        let shim = shim.unwrap_or_else(|| self.start_shim(&container, options));
        Ok(Made { container, converted, shim })
    }

    fn fill(
        &self,
        container: &Container,
        new: &NewContainer,
        wishes: impl FnOnce(&mut Rootfs) -> Result<SpecOptions>,
        shim: &mut Option<Starting>,
    ) -> Result<Converted> {
        let dir = self.bundle(&container.id);
        let bundle = Bundle::create(&dir)?;
        if new.runtime.starts_without_spec() {
            bundle.write_config(b"{}")?;
            *shim = Some(self.start_shim(container, container.runtime_options.as_ref()));
        }
        let (mounts, seen, mut rootfs) = match &new.tree {
            Tree::Image(chain_id) => {
                let (key, parent) = (snapshot_key(container)?, SnapshotKey::from(*chain_id));
                let snapshotter = self.engine.snapshotter()?;
                let mounts = snapshotter.prepare(&key, Some(&parent), &Labels::new())?;
                let seen = Seen::below(&mounts)?;
                let rootfs = Rootfs::open(seen.path())?;
                (mounts, Some(seen), rootfs)
            }
            Tree::Directory(dir) => (Vec::new(), None, Rootfs::open(dir)?),
        };
        let mut options = wishes(&mut rootfs)?;
        if let Tree::Directory(dir) = &new.tree {
            options.root = Some(dir.clone());
        }
        options.cgroups_path = Some(self.cgroup(&container.id)?);
        options.network_namespace =
            new.network.as_ref().map(|_| self.network_namespace(&container.id));
        let converted = convert(&new.settings, &options, &HostFacts::read())?;
        let cwd = &converted.spec.process.cwd;
        if seen.is_none() {
            rootfs.make_working_dir(cwd)?;
        } else if !rootfs.has_dir(cwd)? {
            Rootfs::open(Seen::of(&mounts)?.path())?.make_working_dir(cwd)?;
        }
        bundle.write(&converted, options.network, &mut rootfs)?;
        if let Some(network) = &new.network {
            let joined = self.join(&container.id, network)?;
            bundle
                .write_network(&joined, converted.spec.hostname.as_deref().unwrap_or_default())?;
        }
        let value = serde_json::to_vec(&converted.spec)
            .context(ErrorKind::Internal, || "write a runtime spec".into())?;
        let spec = Any { type_url: SPEC.to_owned(), value };
        self.rows().update(&container.id, |container| {
            container.spec = Some(spec);
            Ok(())
        })?;
        Ok(converted)
    }

    /// The place among the cgroups: flat, so that nothing is left above it, and not that of another
    /// store.
    fn cgroup(&self, id: &ContainerId) -> Result<String> {
        let store = self.engine.store().identity()?;
        let store: String = store.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
        Ok(format!("/dist-{store}-{}-{id}", self.engine.namespace()))
    }

    /// Where a container without somebody who waits for it writes to.
    #[must_use]
    pub fn output(&self, id: &ContainerId) -> PathBuf {
        self.bundle(id).join("output")
    }

    /// The pipe from which a container without somebody who waits for it reads, if it does.
    #[must_use]
    pub fn stdin(&self, id: &ContainerId) -> Option<PathBuf> {
        let path = self.bundle(id).join(STDIN);
        path.exists().then_some(path)
    }

    /// Streams for a container that nobody waits for: its output goes to a file, its input comes from
    /// a pipe that stays, for whoever [writes to it](Self::stdin).
    ///
    /// # Errors
    /// `Storage`.
    pub fn detached_stdio(&self, id: &ContainerId, stdin: bool, terminal: bool) -> Result<Stdio> {
        let output = self.output(id);
        // Shims make the file themselves, but for a terminal's, which they write to as to a pipe.
        std::fs::File::create(&output)
            .context(ErrorKind::Storage, || format!("make file {}", output.display()))?;
        let output = output.to_string_lossy();
        let stdin =
            if stdin { Streams::named(&self.bundle(id).join(STDIN))? } else { String::new() };
        Ok(if terminal {
            Stdio { stdin, stdout: output.into_owned(), stderr: String::new(), terminal }
        } else {
            let uri = format!("file://{output}");
            Stdio { stdin, stdout: uri.clone(), stderr: uri, terminal }
        })
    }

    /// The bundle of a container.
    #[must_use]
    pub fn bundle(&self, id: &ContainerId) -> PathBuf {
        bundles(self.engine.store().root(), self.engine.namespace()).join(id.as_str())
    }

    /// The socket on which a daemon hears from shims what happens, if there ever was a daemon.
    fn events_socket(&self) -> PathBuf {
        events_socket(self.engine.store())
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.engine.store().root().join("containers").join(name)
    }

    fn lock_name(&self, what: &str, id: &ContainerId) -> String {
        format!("{what} {}/{id}", self.engine.namespace())
    }

    fn lock_life(&self, id: &ContainerId) -> Result<LockGuard> {
        self.engine.store().lock(&self.lock_name("container", id), &Cancel::default())
    }

    fn try_lock_life(&self, id: &ContainerId) -> Result<Option<LockGuard>> {
        self.engine.store().try_lock(&self.lock_name("container", id))
    }

    /// Removes the files of containers that have no row. A row comes before the files, so whoever
    /// holds the lock and finds none may take them.
    fn remove_unowned(&self) -> Result<()> {
        let dir = self.dir("bundles").join(self.engine.namespace().as_str());
        let entries = match std::fs::read_dir(&dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            entries => entries.context(ErrorKind::Storage, || format!("list {}", dir.display()))?,
        };
        for entry in entries {
            let entry = entry.context(ErrorKind::Storage, || format!("list {}", dir.display()))?;
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.parse::<ContainerId>().ok());
            let Some(id) = id else { continue };
            let has_row = || match self.rows().get(&id) {
                Ok(_) => Ok(true),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
                Err(error) => Err(error),
            };
            if has_row()? {
                continue;
            }
            if let Some(_life) = self.try_lock_life(&id)?
                && !has_row()?
            {
                self.remove_bundle(&id)?;
            }
        }
        Ok(())
    }

    fn remove_bundle(&self, id: &ContainerId) -> Result<()> {
        let bundle = self.bundle(id);
        let rootfs = bundle.join(crate::ROOTFS);
        unmount(&rootfs)?;
        unmount(&self.network_namespace(id))?;
        // Were something still mounted on it, what is in it must not go.
        remove_dir(&rootfs)?;
        remove_tree(&bundle)?;
        let state = self.dir("state").join(self.engine.namespace().as_str());
        remove_tree(&state.join(id.as_str()))
    }

    /// Removes what a container has on the disk, and its row. Nothing runs any more.
    fn remove_files(&self, container: &Container) -> Result<()> {
        // A runtime that was killed leaves it, and perhaps what was to become the first process.
        cgroup::remove(&self.cgroup(&container.id)?)?;
        self.leave(&container.id)?;
        self.remove_bundle(&container.id)?;
        if !container.snapshot_key.is_empty() {
            let engine = self.engine.with_snapshotter(&container.snapshotter);
            match engine.snapshotter()?.remove(&snapshot_key(container)?) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => (),
            }
        }
        match self.rows().delete(&container.id) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Where the bundles of a namespace of the store at `root` are.
pub(crate) fn bundles(root: &Path, namespace: &Namespace) -> PathBuf {
    root.join("containers").join("bundles").join(namespace.as_str())
}

/// The socket on which the daemon of a store hears from shims what happens.
pub(crate) fn events_socket(store: &Store) -> PathBuf {
    store.root().join("containers").join("events.sock")
}

fn snapshot_key(container: &Container) -> Result<SnapshotKey> {
    let text = &container.snapshot_key;
    text.parse().context(ErrorKind::Storage, || format!("read snapshot key {text:?}"))
}

/// Undoes all mounts on `dir`; none is fine.
fn unmount(dir: &Path) -> Result<()> {
    loop {
        match dist_snapshot::mount::unmount(dir) {
            Ok(()) => (),
            Err(error) => {
                return match error.kind() {
                    ErrorKind::NotFound | ErrorKind::FailedPrecondition => Ok(()),
                    _ => Err(error),
                };
            }
        }
    }
}

fn remove_dir(path: &Path) -> Result<()> {
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context(ErrorKind::Storage, || format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
