//! Tasks as containerd's tasks service has them: made of a container's spec and of what a client
//! brings, and there until a client deletes them.
//!
//! A container that a client has made has a bundle as long as it has a task. That of `dist run` has
//! files of its own beside the spec: it stays.

use std::path::Path;

use dist_core::{
    Any, Container, ContainerId, Error, ErrorKind, Exit, Mount, Result, ResultExt as _, Task,
};

use super::life::{blocking, is_gone};
use super::{Containers, Observed, unmount};
use crate::runtime::options_at;
use crate::{Bundle, Ended, ProcessId, ROOTFS, Stdio, TaskClient};

/// The file in a bundle that names the runtime, where it is not that of the container.
const RUNTIME: &str = "runtime-path";

/// What a task is made of, beside its container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewTask {
    /// What is mounted as its root file system, one mount after the other.
    pub rootfs: Vec<Mount>,
    /// What its first process reads and writes.
    pub stdio: Stdio,
    /// What the runtime is told in place of what the container says.
    pub options: Option<Any>,
    /// The shim that runs it, where that is not the one of the container's runtime.
    pub runtime: Option<String>,
}

/// Who knows of a task.
#[derive(Debug)]
pub enum TaskNow {
    /// Its shim.
    Known(TaskClient),
    /// Nobody any more: this is what was recorded of its end.
    Recorded(Exit),
}

/// The runtime that runs a container.
pub(super) fn runtime_of(container: &Container, bundle: &Path) -> String {
    std::fs::read_to_string(bundle.join(RUNTIME)).unwrap_or_else(|_| container.runtime.clone())
}

impl Containers {
    /// Makes a task: a bundle, a shim and the first process, which does not run yet. Tells its id in
    /// the kernel. Where it fails nothing is left.
    ///
    /// # Errors
    /// `NotFound` for the container and for the shim's program; `AlreadyExists` where it has a task;
    /// what the runtime says.
    pub async fn make_task(&self, id: &ContainerId, new: &NewTask) -> Result<u32> {
        let (this, of) = (self.clone(), id.clone());
        let (life, container) = blocking(move || {
            let life = this.lock_life(&of)?;
            Ok((life, this.rows().get(&of)?))
        })
        .await?;
        if self.has_task(&container).await? {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("task {id}")));
        }
        let (this, of, runtime) = (self.clone(), container.clone(), new.runtime.clone());
        blocking(move || this.lay_out(&of, runtime.as_deref())).await?;
        let made = self.launch(&container, new).await;
        if made.is_err()
            && let Err(error) = self.undo(&container).await
        {
            tracing::warn!(%id, ?error, "a failed task was not removed");
        }
        drop(life);
        made
    }

    /// Makes the bundle of a task.
    fn lay_out(&self, container: &Container, runtime: Option<&str>) -> Result<()> {
        let dir = self.bundle(&container.id);
        if !Bundle::has_files(&dir) {
            self.remove_bundle(&container.id)?;
        }
        let bundle = Bundle::create(&dir)?;
        if let Some(runtime) = runtime {
            bundle.write_file(RUNTIME, 0o600, runtime.as_bytes())?;
        }
        let none = || {
            let message = format!("container {} has no spec", container.id);
            Error::new(ErrorKind::FailedPrecondition, message)
        };
        bundle.write_config(&container.spec.as_ref().ok_or_else(none)?.value)
    }

    async fn launch(&self, container: &Container, new: &NewTask) -> Result<u32> {
        let options = new.options.as_ref().or(container.runtime_options.as_ref());
        let options = options_at(&container.runtime, options, &self.dir("state"));
        let client = self.meet(container, self.start_shim(container, options.as_ref())).await?;
        let bundle = self.bundle(&container.id);
        let made = client.create(&bundle, &new.rootfs, &new.stdio, options.as_ref()).await;
        if made.is_err()
            && let Err(error) = client.shutdown().await
        {
            tracing::debug!(?error, "the shim of a failed task");
        }
        made.during(|| "failed to create shim task".into())
    }

    /// Removes what there is of a task that was not made.
    async fn undo(&self, container: &Container) -> Result<()> {
        if let Some(task) = self.unrecorded_task(container).await? {
            self.stop_task(container, &task).await?;
        }
        self.clear(container).await
    }

    /// Removes what there is of a task whose shim has ended.
    async fn clear(&self, container: &Container) -> Result<()> {
        let (this, id) = (self.clone(), container.id.clone());
        blocking(move || {
            let bundle = this.bundle(&id);
            if Bundle::has_files(&bundle) {
                unmount(&bundle.join(ROOTFS))?;
            } else {
                this.remove_bundle(&id)?;
            }
            match this.rows().forget_task(&id) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        })
        .await
    }

    /// Finds a container's task. Where its shim is gone, what that left is ended, and its end recorded.
    ///
    /// # Errors
    /// `NotFound` for the container, and for the task; `Unavailable`.
    pub async fn task(&self, container: &Container) -> Result<TaskNow> {
        let id = &container.id;
        let missing = || Error::new(ErrorKind::NotFound, format!("task {id} not found"));
        let task = container.task.as_ref().filter(|task| self.is_of_this_boot(task));
        let Task { address, version, exit, .. } = task.ok_or_else(missing)?;
        if let Some(exit) = exit {
            return Ok(TaskNow::Recorded(*exit));
        }
        match TaskClient::connect(address, *version, id.as_str()).await {
            Ok(client) => Ok(TaskNow::Known(client)),
            Err(error) if is_gone(&error) => match self.observe(container).await? {
                Observed::Exited(exit) => Ok(TaskNow::Recorded(exit)),
                // Somebody is just deleting it.
                _ => Err(missing().with_source(error)),
            },
            Err(error) => Err(error),
        }
    }

    /// Deletes a task that has ended, or has never run, its shim and its bundle.
    ///
    /// # Errors
    /// `NotFound` for the container, and for the task; what the shim says of one that runs.
    pub async fn delete_task(&self, id: &ContainerId) -> Result<Ended> {
        let (this, of) = (self.clone(), id.clone());
        let life = blocking(move || this.lock_life(&of)).await?;
        let (rows, of) = (self.rows(), id.clone());
        let container = blocking(move || rows.get(&of)).await?;
        let missing = || Error::new(ErrorKind::NotFound, format!("task {id} not found"));
        let ended = match container.task.as_ref().filter(|task| self.is_of_this_boot(task)) {
            None => return Err(missing()),
            Some(Task { exit: Some(exit), .. }) => Ok(Ended { pid: 0, exit: *exit }),
            Some(task) if self.has_task(&container).await? => {
                let client =
                    TaskClient::connect(&task.address, task.version, container.id.as_str()).await?;
                let ended = client.delete(ProcessId::First).await?;
                client.shutdown().await?;
                Ok(ended)
            }
            Some(_) => Err(missing()),
        };
        self.clear(&container).await?;
        drop(life);
        ended
    }

    /// Whether a container has a task that a client has to delete. What is left of one that was not
    /// made, because its maker died, is ended. The caller holds the container's lock.
    async fn has_task(&self, container: &Container) -> Result<bool> {
        let Some(task) = container.task.as_ref().filter(|task| self.is_of_this_boot(task)) else {
            if let Some(task) = self.unrecorded_task(container).await? {
                self.stop_task(container, &task).await?;
            }
            return Ok(false);
        };
        if task.exit.is_some() {
            return Ok(true);
        }
        let client = TaskClient::connect(&task.address, task.version, container.id.as_str());
        match client.await {
            Ok(client) => match client.look(ProcessId::First).await {
                Ok(_) => return Ok(true),
                Err(error) if is_gone(&error) => client.shutdown().await?,
                Err(error) => return Err(error),
            },
            Err(error) if is_gone(&error) => (),
            Err(error) => return Err(error),
        }
        self.clean_up_after_shim(container, task).await?;
        Ok(false)
    }

    /// Deletes the row of a container that has no task, and what there is of it but its snapshot, which
    /// may be collected from then on.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` where it has a task; `Storage`.
    pub async fn forget(&self, id: &ContainerId) -> Result<()> {
        let (this, of) = (self.clone(), id.clone());
        let (life, container) = blocking(move || {
            let life = this.lock_life(&of)?;
            Ok((life, this.rows().get(&of)?))
        })
        .await?;
        let is_recorded = container.task.as_ref().is_some_and(|task| task.exit.is_some());
        if !is_recorded && self.has_task(&container).await? {
            let message = format!("delete container {id}: it has a task");
            return Err(Error::new(ErrorKind::FailedPrecondition, message));
        }
        let (this, of) = (self.clone(), id.clone());
        blocking(move || {
            this.leave(&of)?;
            this.remove_bundle(&of)?;
            this.rows().delete(&of)
        })
        .await?;
        drop(life);
        Ok(())
    }
}
