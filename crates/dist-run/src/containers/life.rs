//! The life of a container after it was made: its shim, its end, and what others make of it.

use std::sync::Arc;

use dist_core::{Any, Container, ContainerId, Context as _, Error, ErrorKind, Exit, Result, Task};
use dist_store::LockGuard;
use tokio::task::JoinHandle;

use super::tasks::runtime_of;
use super::{ATTACHED, AUTO_REMOVE, Containers, snapshot_key};
use crate::runtime::find_shim;
use crate::shim::{Address, Place, State};
use crate::{ProcessId, Stdio, TaskClient, UserNamespace, cgroup, rootless, shim};

/// The status of a container whose end nobody saw.
const UNSEEN: u32 = 255;

const SIGKILL: u32 = 9;

/// What is known of a container now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed {
    /// It was made and has never run, or is being made.
    Created,
    /// Its first process runs, under this id of the kernel.
    Running(u32),
    /// All its processes are frozen.
    Paused(u32),
    /// It has ended.
    Exited(Exit),
}

/// A shim that is being started.
#[derive(Debug)]
pub struct Starting {
    address: JoinHandle<Result<Address>>,
    /// What a runtime will not have to wait for; nobody waits for it.
    hasten: JoinHandle<()>,
}

impl Starting {
    /// Waits until it is started.
    pub(super) async fn address(self) -> Result<Address> {
        let started = self.address.await;
        drop(self.hasten);
        started.context(ErrorKind::Internal, || "start a shim".into())?
    }
}

impl Containers {
    /// Makes the first process of a container that was made, by its shim. [`TaskClient::start`] lets it
    /// run.
    ///
    /// # Errors
    /// What the runtime says; `NotFound` for the shim's program; `FailedPrecondition` for a container
    /// that is not whole.
    pub async fn begin(
        &self,
        container: &Container,
        shim: Starting,
        stdio: &Stdio,
    ) -> Result<TaskClient> {
        let id = container.id.clone();
        let this = self.clone();
        let _life = blocking(move || this.lock_life(&id)).await?;
        let (this, of) = (self.clone(), container.clone());
        let mounts = blocking(move || {
            if of.snapshot_key.is_empty() {
                return Ok(Vec::new());
            }
            let engine = this.engine.with_snapshotter(&of.snapshotter);
            let mut mounts = engine.snapshotter()?.mounts(&snapshot_key(&of)?)?;
            if of.labels.contains_key(AUTO_REMOVE) {
                dist_snapshot::mount::forget_at_end(&mut mounts);
            }
            Ok(mounts)
        })
        .await?;
        let options = container.runtime_options.as_ref();
        let client = self.meet(container, shim).await?;
        let bundle = self.bundle(&container.id);
        match client.create(&bundle, &mounts, stdio, options).await {
            Ok(_) => Ok(client),
            Err(error) => {
                // What the shim has mounted it takes away itself; the rest goes with the container.
                if let Err(error) = self.end_shim(container, &client).await {
                    tracing::debug!(?error, "the shim of a failed container");
                }
                Err(error)
            }
        }
    }

    /// Begins to start the shim of a container in its bundle.
    pub(super) fn start_shim(&self, container: &Container, options: Option<&Any>) -> Starting {
        let (this, container, options) = (self.clone(), container.clone(), options.cloned());
        let hasten = tokio::task::spawn_blocking(cgroup::hasten);
        let start = move || {
            let home = this.engine.store().root().to_owned();
            let bundle = this.bundle(&container.id);
            this.place(&container, &bundle, &home)?.start(options.as_ref())
        };
        Starting { address: tokio::task::spawn_blocking(start), hasten }
    }

    /// Waits until a shim is started, and records where it is.
    pub(super) async fn meet(&self, container: &Container, shim: Starting) -> Result<TaskClient> {
        let address = shim.address().await?;
        let task = Task {
            boot_id: self.engine.store().boot_id().to_owned(),
            address: address.address,
            version: address.version,
            exit: None,
        };
        let (rows, id, row) = (self.rows(), container.id.clone(), task.clone());
        blocking(move || rows.set_task(&id, &row)).await?;
        TaskClient::connect(&task.address, task.version, container.id.as_str()).await
    }

    fn place<'a>(
        &'a self,
        container: &'a Container,
        bundle: &'a std::path::Path,
        home: &'a std::path::Path,
    ) -> Result<Place<'a>> {
        Ok(Place {
            program: find_shim(&runtime_of(container, bundle), self.path.as_deref())?,
            namespace: self.namespace_name(),
            id: container.id.as_str(),
            bundle,
            home,
            events: Some(self.events_socket()).filter(|socket| socket.exists()),
        })
    }

    /// Connects to the shim of a container that runs.
    ///
    /// # Errors
    /// `FailedPrecondition` where it does not run; `NotFound` where its shim is gone.
    pub async fn connect(&self, container: &Container) -> Result<TaskClient> {
        match &container.task {
            Some(task) if task.exit.is_none() && self.is_of_this_boot(task) => {
                TaskClient::connect(&task.address, task.version, container.id.as_str()).await
            }
            _ => {
                let message = format!("container {} does not run", container.id);
                Err(Error::new(ErrorKind::FailedPrecondition, message))
            }
        }
    }

    /// Deletes the first process of a container, which has ended, and records how. The shim is left
    /// to [`TaskClient::shutdown`].
    ///
    /// # Errors
    /// `Storage`; `Unavailable`.
    pub async fn end(&self, container: &Container, client: &TaskClient, exit: Exit) -> Result<()> {
        match client.delete(ProcessId::First).await {
            // Somebody else was faster.
            Err(error) if !is_gone(&error) => return Err(error),
            _ => (),
        }
        self.record(container, exit).await
    }

    async fn record(&self, container: &Container, exit: Exit) -> Result<()> {
        let (rows, id) = (self.rows(), container.id.clone());
        blocking(move || {
            let Some(task) = rows.get(&id)?.task else { return Ok(()) };
            rows.set_task(&id, &Task { exit: Some(exit), ..task })
        })
        .await
        .or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })
    }

    /// Finds out what a container does. The end of one that nobody waited for is recorded, and its
    /// shim ended; what is being changed by somebody else is told as it is.
    ///
    /// # Errors
    /// `Storage`; `Unavailable`.
    pub async fn observe(&self, container: &Container) -> Result<Observed> {
        let Some(task) = &container.task else { return Ok(Observed::Created) };
        if let Some(exit) = task.exit {
            return Ok(Observed::Exited(exit));
        }
        let mut idle = None;
        if self.is_of_this_boot(task) {
            match TaskClient::connect(&task.address, task.version, container.id.as_str()).await {
                Ok(client) => match client.state(ProcessId::First).await {
                    Ok((State::Created, _)) => return Ok(Observed::Created),
                    Ok((State::Running, pid)) => return Ok(Observed::Running(pid)),
                    Ok((State::Paused, pid)) => return Ok(Observed::Paused(pid)),
                    Ok((State::Stopped(exit), _)) => {
                        let life = self.try_life(&container.id).await?;
                        if life.is_some() {
                            self.end(container, &client, exit).await?;
                            client.shutdown().await?;
                        }
                        return Ok(Observed::Exited(exit));
                    }
                    Err(error) if is_gone(&error) => idle = Some(client),
                    Err(error) => return Err(error),
                },
                Err(error) if is_gone(&error) => (),
                Err(error) => return Err(error),
            }
        }
        let Some(_life) = self.try_life(&container.id).await? else {
            return Ok(Observed::Created);
        };
        // Somebody may have recorded it while the lock was not ours.
        let (rows, id) = (self.rows(), container.id.clone());
        if let Some(Task { exit: Some(exit), .. }) = blocking(move || rows.get(&id)).await?.task {
            return Ok(Observed::Exited(exit));
        }
        if let Some(client) = idle {
            // Whoever asked it to make the first process died meanwhile.
            self.end_shim(container, &client).await?;
        }
        let seen = self.clean_up_after_shim(container, task).await?;
        let exit = seen.unwrap_or_else(|| Exit { status: UNSEEN, at: now() });
        self.record(container, exit).await?;
        Ok(Observed::Exited(exit))
    }

    /// Kills all processes of a container.
    ///
    /// # Errors
    /// `NotFound` where it has ended; `Unavailable`.
    pub async fn kill_all(container: &Container, client: &TaskClient) -> Result<()> {
        // A runtime finds all by their cgroup. Where there is none, they go with the first one.
        client.kill(ProcessId::First, SIGKILL, Self::has_cgroup(container)).await
    }

    /// Whether a container has a cgroup: those of ordinary users have none.
    #[must_use]
    pub fn has_cgroup(container: &Container) -> bool {
        UserNamespace::current().is_none() || cgroup_of(container).is_some()
    }

    /// Removes a container, whatever it does.
    ///
    /// # Errors
    /// `Storage`; `Unavailable`; what the runtime says.
    pub async fn remove(&self, container: &Container) -> Result<()> {
        let (this, id) = (self.clone(), container.id.clone());
        let life = blocking(move || this.lock_life(&id)).await?;
        self.remove_locked(container, life).await
    }

    pub(super) async fn remove_locked(&self, container: &Container, life: LockGuard) -> Result<()> {
        let (rows, id) = (self.rows(), container.id.clone());
        let container = match blocking(move || rows.get(&id)).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            container => Arc::new(container?),
        };
        let task = match container.task.clone() {
            None => self.unrecorded_task(&container).await?,
            task => task.filter(|task| task.exit.is_none()),
        };
        if let Some(task) = task {
            self.stop_task(&container, &task).await?;
        }
        let (this, of) = (self.clone(), container.clone());
        blocking(move || this.remove_files(&of)).await?;
        drop(life);
        Ok(())
    }

    /// The task of a container whose maker died before the shim was in its row.
    pub(super) async fn unrecorded_task(&self, container: &Container) -> Result<Option<Task>> {
        let bundle = self.bundle(&container.id);
        let found = blocking(move || shim::find(&bundle)).await?;
        let boot_id = self.engine.store().boot_id().to_owned();
        Ok(found.map(|Address { address, version }| Task { boot_id, address, version, exit: None }))
    }

    /// Ends whatever runs, and the shim.
    pub(super) async fn stop_task(&self, container: &Container, task: &Task) -> Result<()> {
        if self.is_of_this_boot(task) {
            let client = TaskClient::connect(&task.address, task.version, container.id.as_str());
            match client.await {
                Ok(client) => {
                    match kill(container, &client).await {
                        Err(error) if !is_gone(&error) => return Err(error),
                        _ => (),
                    }
                    match client.delete(ProcessId::First).await {
                        Err(error) if !is_gone(&error) => return Err(error),
                        _ => (),
                    }
                    return self.end_shim(container, &client).await;
                }
                Err(error) if is_gone(&error) => (),
                Err(error) => return Err(error),
            }
        }
        self.clean_up_after_shim(container, task).await.map(drop)
    }

    /// Ends a shim that has nothing to run any more. What a runtime that was killed left is found by its
    /// cgroup when the container goes; where there is none, the shim still has it.
    async fn end_shim(&self, container: &Container, client: &TaskClient) -> Result<()> {
        let left =
            if Self::has_cgroup(container) { Vec::new() } else { client.end_children().await? };
        client.shutdown().await?;
        let Some(pid) = left.first() else { return Ok(()) };
        rootless::leave(&self.bundle(&container.id), *pid)?;
        Err(out_of_reach(container))
    }

    /// Ends what a shim left that is gone, and tells how that ended, if there was any. What another
    /// boot left is files only.
    pub(super) async fn clean_up_after_shim(
        &self,
        container: &Container,
        task: &Task,
    ) -> Result<Option<Exit>> {
        let bundle = self.bundle(&container.id);
        if !self.is_of_this_boot(task) || !bundle.exists() {
            return Ok(None);
        }
        if rootless::is_out_of_reach(&bundle) {
            return Err(out_of_reach(container));
        }
        let home = self.engine.store().root().to_owned();
        let ended = match self.place(container, &bundle, &home)?.delete().await {
            // It notes with what runtime before it creates anything: there is nothing to clean up.
            Err(error) if !bundle.join("runtime").exists() => {
                tracing::debug!(%error, id = %container.id, "the shim had created nothing");
                None
            }
            ended => Some(ended?),
        };
        if let Some(path) = cgroup_of(container) {
            // A runtime that was killed before it knew its container leaves it.
            blocking(move || {
                cgroup::remove_empty(&path);
                Ok(())
            })
            .await?;
        }
        // A shim that was killed left its socket.
        let path = task.address.strip_prefix("unix://").unwrap_or(&task.address);
        match tokio::fs::remove_file(path).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context(ErrorKind::Storage, || format!("remove {path}"))
            }
            _ => Ok(ended.map(|ended| ended.exit).filter(|exit| exit.at > 0)),
        }
    }

    /// Removes the containers of [`AUTO_REMOVE`] that have ended, or whose process died that waited
    /// for them, and files of containers whose rows a power cut took. One that can't be removed is
    /// logged.
    ///
    /// # Errors
    /// `Storage`.
    pub async fn sweep(&self) -> Result<()> {
        let this = self.clone();
        let list = blocking(move || {
            this.remove_unowned()?;
            this.rows().list()
        });
        for container in list.await? {
            if container.labels.contains_key(AUTO_REMOVE)
                && let Err(error) = self.sweep_one(&container).await
            {
                tracing::warn!(id = %container.id, ?error, "a container was not removed");
            }
        }
        Ok(())
    }

    async fn sweep_one(&self, container: &Container) -> Result<()> {
        let is_attached = container.labels.contains_key(ATTACHED);
        let _attached = if is_attached {
            let (this, id) = (self.clone(), container.id.clone());
            let name = this.lock_name("attached", &id);
            let attached = blocking(move || this.engine.store().try_lock(&name)).await?;
            let Some(attached) = attached else { return Ok(()) };
            Some(attached)
        } else {
            match self.observe(container).await? {
                Observed::Exited(_) => None,
                // One without a task whose maker is gone will never have one.
                Observed::Created if container.task.is_none() => None,
                _ => return Ok(()),
            }
        };
        match self.try_life(&container.id).await? {
            Some(life) => self.remove_locked(container, life).await,
            None => Ok(()),
        }
    }

    pub(super) async fn try_life(&self, id: &ContainerId) -> Result<Option<LockGuard>> {
        let (this, id) = (self.clone(), id.clone());
        blocking(move || this.try_lock_life(&id)).await
    }

    pub(super) fn is_of_this_boot(&self, task: &Task) -> bool {
        task.boot_id == self.engine.store().boot_id()
    }

    pub(super) fn namespace_name(&self) -> &str {
        self.engine.namespace().as_str()
    }
}

/// The cgroup that a container's spec names, if it is a path below the root.
fn cgroup_of(container: &Container) -> Option<String> {
    let spec: serde_json::Value = serde_json::from_slice(&container.spec.as_ref()?.value).ok()?;
    let path = spec.get("linux")?.get("cgroupsPath")?.as_str()?;
    let is_below =
        path.starts_with('/') && path.len() > 1 && !path.split('/').any(|part| part == "..");
    is_below.then(|| path.to_owned())
}

/// Kills all processes of a container and waits for the end of the first one.
async fn kill(container: &Container, client: &TaskClient) -> Result<()> {
    if let (State::Paused, _) = client.state(ProcessId::First).await? {
        // What is frozen does not even die.
        client.resume().await?;
    }
    Containers::kill_all(container, client).await?;
    client.wait(ProcessId::First).await.map(drop)
}

/// What a command says of a container that has lost its shim since the command began.
fn out_of_reach(container: &Container) -> Error {
    let message =
        format!("end container {}: it has lost its shim, the next command can", container.id);
    Error::new(ErrorKind::Unavailable, message)
}

/// Whether a shim, or the process that it was asked for, is not there any more.
pub(super) fn is_gone(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unavailable)
}

pub(super) fn now() -> i64 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Runs work on the store on a thread for it.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let task = tokio::task::spawn_blocking(work);
    task.await.context(ErrorKind::Internal, || "run a blocking task".into())?
}
