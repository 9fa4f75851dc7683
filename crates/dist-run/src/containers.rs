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

mod life;

pub use life::Observed;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use dist::Engine;
use dist_core::{
    Any, Cancel, ChainId, Container, ContainerId, Context as _, Error, ErrorKind, Labels, Result,
    ResultExt as _, SnapshotKey,
};
use dist_snapshot::{mount::Seen, remove_tree};
use dist_store::{ContainerStore, LockGuard};

use crate::{
    Bundle, Converted, HostFacts, ImageSettings, Rootfs, Runtime, SpecOptions, cgroup, convert,
};

/// The label of a container that goes when it has ended.
pub const AUTO_REMOVE: &str = "dist/auto-remove";

/// The label of a container whose process waits for it.
pub const ATTACHED: &str = "dist/attached";

/// The label that says what asks a container to stop.
pub const STOP_SIGNAL: &str = "dist/stop-signal";

/// The label that says how many seconds a container has to stop.
pub const STOP_TIMEOUT: &str = "dist/stop-timeout";

/// The type of a runtime spec.
const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// The containers of an engine's namespace.
#[derive(Clone)]
pub struct Containers {
    engine: Engine,
    /// Where programs are looked for.
    path: Option<OsString>,
}

/// What a container is made of.
#[derive(Debug)]
pub struct NewContainer {
    /// Its id.
    pub id: ContainerId,
    /// The name of its image.
    pub image: String,
    /// The snapshot that holds the image.
    pub chain_id: ChainId,
    /// How the image is run.
    pub settings: ImageSettings,
    /// What runs it.
    pub runtime: Runtime,
    /// Its labels.
    pub labels: Labels,
}

impl Containers {
    /// The containers of `engine`'s namespace; `path` is where programs are looked for.
    #[must_use]
    pub fn new(engine: Engine, path: Option<OsString>) -> Self {
        Self { engine, path }
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

    /// Makes a container: its row, its snapshot and its bundle. `wishes` looks users up in the root
    /// file system. Where it fails nothing is left.
    ///
    /// # Errors
    /// `AlreadyExists` for the id; `NotFound` for an image that is not unpacked; those of the wishes,
    /// of [`convert`] and of the snapshotter.
    pub fn create(
        &self,
        new: NewContainer,
        wishes: impl FnOnce(&mut Rootfs) -> Result<SpecOptions>,
    ) -> Result<(Container, Converted)> {
        let _life = self.lock_life(&new.id)?;
        let container = self.rows().create(&Container {
            id: new.id.clone(),
            labels: new.labels.clone(),
            image: new.image.clone(),
            runtime: new.runtime.name.clone(),
            runtime_options: new.runtime.options.clone(),
            spec: None,
            snapshotter: self.engine.snapshotter_name().to_owned(),
            snapshot_key: new.id.to_string(),
            extensions: BTreeMap::new(),
            created_at: 0,
            updated_at: 0,
            task: None,
        })?;
        let made = self.fill(&container, &new, wishes);
        if made.is_err()
            && let Err(error) = self.remove_files(&container)
        {
            tracing::warn!(id = %container.id, ?error, "a failed container was not removed");
        }
        let converted = made.during(|| format!("make container {}", container.id))?;
        Ok((self.rows().get(&container.id)?, converted))
    }

    fn fill(
        &self,
        container: &Container,
        new: &NewContainer,
        wishes: impl FnOnce(&mut Rootfs) -> Result<SpecOptions>,
    ) -> Result<Converted> {
        let snapshotter = self.engine.snapshotter()?;
        let (key, parent) = (snapshot_key(container)?, SnapshotKey::from(new.chain_id));
        let mounts = snapshotter.prepare(&key, Some(&parent), &Labels::new())?;
        let seen = Seen::below(&mounts)?;
        let mut rootfs = Rootfs::open(seen.path())?;
        let mut options = wishes(&mut rootfs)?;
        options.cgroups_path = Some(self.cgroup(&container.id)?);
        let converted = convert(&new.settings, &options, &HostFacts::read())?;
        let cwd = &converted.spec.process.cwd;
        if !rootfs.has_dir(cwd)? {
            Rootfs::open(Seen::of(&mounts)?.path())?.make_working_dir(cwd)?;
        }
        let dir = self.bundle(&container.id);
        Bundle::create(&dir)?.write(&converted, options.network, &mut rootfs)?;
        let value = serde_json::to_vec(&converted.spec)
            .context(ErrorKind::Internal, || "write a runtime spec".into())?;
        let spec = Any { type_url: SPEC.to_owned(), value };
        self.rows().set_spec(&container.id, &spec)?;
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

    /// The bundle of a container.
    #[must_use]
    pub fn bundle(&self, id: &ContainerId) -> PathBuf {
        self.dir("bundles").join(self.engine.namespace().as_str()).join(id.as_str())
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
