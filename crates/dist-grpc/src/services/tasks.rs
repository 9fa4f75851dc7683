//! `containerd.services.tasks.v1`: processes of containers, through their shims.
//!
//! Nothing of a task is in this process: each request finds the shim by the container's row, so that
//! tasks are there whichever daemon, or `dist run`, has made them.

mod measure;

use dist_core::{Any, Container, ContainerId, Error, ErrorKind, Exit, Namespace, Result};
use dist_run::{Containers, Ended, NewTask, ProcessId, State, Stdio, TaskClient, TaskNow};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::containers::get;
use crate::answer::reply;
use crate::api::containerd::services::tasks::v1 as api;
use crate::api::containerd::services::tasks::v1::tasks_server::Tasks;
use crate::api::containerd::v1::types::{self, ProcessInfo};
use crate::daemon::{blocking, whole};
use crate::shims::end_of;
use crate::translate::{any, api_any, mount, timestamp};
use crate::{Daemon, context};

/// The service.
pub(crate) struct Service {
    daemon: Daemon,
}

/// The tasks that a request can see.
struct Space {
    daemon: Daemon,
    namespace: Namespace,
    containers: Containers,
}

impl Service {
    pub(crate) fn new(daemon: Daemon) -> Self {
        Self { daemon }
    }

    fn space(&self, metadata: &MetadataMap) -> Result<Space> {
        let namespace = context::namespace(metadata)?;
        let containers = self.daemon.containers(&namespace);
        Ok(Space { daemon: self.daemon.clone(), namespace, containers })
    }

    /// Answers a request.
    async fn answer<Q, A>(
        &self,
        request: Request<Q>,
        work: impl AsyncFnOnce(Space, Q) -> Result<A>,
    ) -> Result<Response<A>, Status> {
        let (metadata, _, message) = request.into_parts();
        reply(async { work(self.space(&metadata)?, message).await }.await)
    }
}

impl Space {
    async fn container(&self, id: &str) -> Result<Container> {
        let (rows, namespace, id) = (self.containers.rows(), self.namespace.clone(), id.to_owned());
        blocking(move || get(&rows, &namespace, &id)).await
    }

    async fn task(&self, id: &str) -> Result<(ContainerId, TaskNow)> {
        let container = self.container(id).await?;
        let task = self.containers.task(&container).await?;
        Ok((container.id, task))
    }

    /// The shim of a task that has not been recorded as ended.
    async fn shim(&self, id: &str) -> Result<TaskClient> {
        match self.task(id).await? {
            (_, TaskNow::Known(client)) => Ok(client),
            (id, TaskNow::Recorded(_)) => {
                Err(Error::new(ErrorKind::FailedPrecondition, format!("task {id} has ended")))
            }
        }
    }

    async fn create(self, request: api::CreateTaskRequest) -> Result<api::CreateTaskResponse> {
        let container = self.container(&request.container_id).await?;
        if request.checkpoint.is_some() {
            let message = "create a task from a checkpoint";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let api::CreateTaskRequest { stdin, stdout, stderr, terminal, .. } = request;
        let new = NewTask {
            rootfs: request.rootfs.into_iter().map(mount).collect(),
            stdio: Stdio { stdin, stdout, stderr, terminal },
            options: request.options.map(any),
            runtime: Some(request.runtime_path).filter(|path| !path.is_empty()),
        };
        let made = whole(async move { self.containers.make_task(&container.id, &new).await });
        let pid = made.await?;
        Ok(api::CreateTaskResponse { container_id: request.container_id, pid })
    }

    async fn delete(self, id: &str) -> Result<api::DeleteResponse> {
        let id = self.container(id).await?.id;
        let containers = self.containers;
        let ended = whole(async move { containers.delete_task(&id).await }).await?;
        Ok(deleted(String::new(), ended))
    }

    async fn get(&self, id: &str, exec_id: &str) -> Result<types::Process> {
        match (self.task(id).await?, process(exec_id)) {
            ((id, TaskNow::Known(client)), process) => seen(&id, &client, process).await,
            ((id, TaskNow::Recorded(exit)), ProcessId::First) => Ok(recorded(&id, exit)),
            ((id, TaskNow::Recorded(_)), ProcessId::Exec(exec_id)) => {
                let message = format!("process {exec_id} of task {id}");
                Err(Error::new(ErrorKind::NotFound, message))
            }
        }
    }

    async fn list(&self) -> Result<Vec<types::Process>> {
        let mut list = Vec::new();
        for container in self.all().await? {
            let process = match self.containers.task(&container).await {
                Ok(TaskNow::Known(client)) => seen(&container.id, &client, ProcessId::First).await,
                Ok(TaskNow::Recorded(exit)) => Ok(recorded(&container.id, exit)),
                Err(error) => Err(error),
            };
            match process {
                Ok(process) => list.push(process),
                // It was deleted meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => (),
                Err(error) => tracing::warn!(id = %container.id, ?error, "a task is not listed"),
            }
        }
        Ok(list)
    }

    /// The containers that may have a task.
    async fn all(&self) -> Result<Vec<Container>> {
        let rows = self.containers.rows();
        let mut list = blocking(move || rows.list()).await?;
        list.retain(|container| container.task.is_some());
        Ok(list)
    }

    async fn wait(&self, id: &str, exec_id: &str) -> Result<Exit> {
        let (id, client) = match self.task(id).await? {
            (id, TaskNow::Known(client)) => (id, client),
            (_, TaskNow::Recorded(exit)) if exec_id.is_empty() => return Ok(exit),
            (id, TaskNow::Recorded(_)) => {
                let message = format!("process {exec_id} of task {id}");
                return Err(Error::new(ErrorKind::NotFound, message));
            }
        };
        let stopping = self.daemon.stopping();
        let waited = tokio::select! {
            waited = client.wait(process(exec_id)) => waited,
            () = stopping.cancelled() => {
                return Err(Error::new(ErrorKind::Unavailable, "wait for a task: the daemon stops"));
            }
        };
        match waited {
            Err(error) if error.kind() == ErrorKind::Unavailable && exec_id.is_empty() => {
                end_of(&self.containers, &id).await.ok_or(error)
            }
            waited => waited,
        }
    }
}

fn process(exec_id: &str) -> ProcessId<'_> {
    if exec_id.is_empty() { ProcessId::First } else { ProcessId::Exec(exec_id) }
}

/// A process as its shim sees it.
async fn seen(
    container: &ContainerId,
    client: &TaskClient,
    process: ProcessId<'_>,
) -> Result<types::Process> {
    let seen = client.look(process).await?;
    let (status, exit) = match seen.state {
        State::Created => (types::Status::Created, None),
        State::Running => (types::Status::Running, None),
        State::Paused => (types::Status::Paused, None),
        State::Stopped(exit) => (types::Status::Stopped, Some(exit)),
    };
    let Stdio { stdin, stdout, stderr, terminal } = seen.stdio;
    Ok(types::Process {
        container_id: container.to_string(),
        id: match process {
            ProcessId::First => container.to_string(),
            ProcessId::Exec(id) => id.to_owned(),
        },
        pid: seen.pid,
        status: status.into(),
        stdin,
        stdout,
        stderr,
        terminal,
        exit_status: exit.map_or(0, |exit| exit.status),
        exited_at: exit.map(|exit| timestamp(exit.at)),
    })
}

/// A first process of which nothing but its end is known any more.
fn recorded(container: &ContainerId, exit: Exit) -> types::Process {
    types::Process {
        container_id: container.to_string(),
        id: container.to_string(),
        status: types::Status::Stopped.into(),
        exit_status: exit.status,
        exited_at: Some(timestamp(exit.at)),
        ..Default::default()
    }
}

fn deleted(id: String, ended: Ended) -> api::DeleteResponse {
    api::DeleteResponse {
        id,
        pid: ended.pid,
        exit_status: ended.exit.status,
        exited_at: Some(timestamp(ended.exit.at)),
    }
}

#[tonic::async_trait]
impl Tasks for Service {
    async fn create(
        &self,
        request: Request<api::CreateTaskRequest>,
    ) -> Result<Response<api::CreateTaskResponse>, Status> {
        self.answer(request, async |space, request| space.create(request).await).await
    }

    async fn start(
        &self,
        request: Request<api::StartRequest>,
    ) -> Result<Response<api::StartResponse>, Status> {
        self.answer(request, async |space, request: api::StartRequest| {
            let client = space.shim(&request.container_id).await?;
            let pid = client.start(process(&request.exec_id)).await?;
            Ok(api::StartResponse { pid })
        })
        .await
    }

    async fn delete(
        &self,
        request: Request<api::DeleteTaskRequest>,
    ) -> Result<Response<api::DeleteResponse>, Status> {
        self.answer(request, async |space, request: api::DeleteTaskRequest| {
            space.delete(&request.container_id).await
        })
        .await
    }

    async fn delete_process(
        &self,
        request: Request<api::DeleteProcessRequest>,
    ) -> Result<Response<api::DeleteResponse>, Status> {
        self.answer(request, async |space, request: api::DeleteProcessRequest| {
            let client = space.shim(&request.container_id).await?;
            let ended = client.delete(process(&request.exec_id)).await?;
            Ok(deleted(request.exec_id, ended))
        })
        .await
    }

    async fn get(
        &self,
        request: Request<api::GetRequest>,
    ) -> Result<Response<api::GetResponse>, Status> {
        self.answer(request, async |space, request: api::GetRequest| {
            let process = space.get(&request.container_id, &request.exec_id).await?;
            Ok(api::GetResponse { process: Some(process) })
        })
        .await
    }

    async fn list(
        &self,
        request: Request<api::ListTasksRequest>,
    ) -> Result<Response<api::ListTasksResponse>, Status> {
        self.answer(request, async |space, _: api::ListTasksRequest| {
            Ok(api::ListTasksResponse { tasks: space.list().await? })
        })
        .await
    }

    async fn kill(&self, request: Request<api::KillRequest>) -> Result<Response<()>, Status> {
        self.answer(request, async |space, request: api::KillRequest| {
            let api::KillRequest { container_id, exec_id, signal, all } = request;
            match space.task(&container_id).await? {
                (_, TaskNow::Known(client)) => client.kill(process(&exec_id), signal, all).await,
                (_, TaskNow::Recorded(_)) => {
                    Err(Error::new(ErrorKind::NotFound, "process already finished"))
                }
            }
        })
        .await
    }

    async fn exec(
        &self,
        request: Request<api::ExecProcessRequest>,
    ) -> Result<Response<()>, Status> {
        self.answer(request, async |space, request: api::ExecProcessRequest| {
            if request.exec_id.is_empty() {
                let message = "exec id cannot be empty";
                return Err(Error::new(ErrorKind::InvalidArgument, message));
            }
            let client = space.shim(&request.container_id).await?;
            let id = &request.exec_id;
            // It becomes a part of the shim's paths, as a container's does.
            if let Err(error) = id.parse::<ContainerId>() {
                let message = format!("invalid exec id {id}");
                let error = Error::new(ErrorKind::InvalidArgument, message).with_source(error);
                return Err(error);
            }
            let api::ExecProcessRequest { stdin, stdout, stderr, terminal, spec, .. } = request;
            let stdio = Stdio { stdin, stdout, stderr, terminal };
            client.exec(id, spec.map(any).unwrap_or_default().value, &stdio).await
        })
        .await
    }

    async fn resize_pty(
        &self,
        request: Request<api::ResizePtyRequest>,
    ) -> Result<Response<()>, Status> {
        self.answer(request, async |space, request: api::ResizePtyRequest| {
            let client = space.shim(&request.container_id).await?;
            let [width, height] = [request.width, request.height]
                .map(|length| u16::try_from(length).unwrap_or(u16::MAX));
            client.resize(process(&request.exec_id), width, height).await
        })
        .await
    }

    async fn close_io(
        &self,
        request: Request<api::CloseIoRequest>,
    ) -> Result<Response<()>, Status> {
        self.answer(request, async |space, request: api::CloseIoRequest| {
            let client = space.shim(&request.container_id).await?;
            if request.stdin {
                client.close_stdin(process(&request.exec_id)).await?;
            }
            Ok(())
        })
        .await
    }

    async fn pause(&self, request: Request<api::PauseTaskRequest>) -> Result<Response<()>, Status> {
        self.answer(request, async |space, request: api::PauseTaskRequest| {
            space.shim(&request.container_id).await?.pause().await
        })
        .await
    }

    async fn resume(
        &self,
        request: Request<api::ResumeTaskRequest>,
    ) -> Result<Response<()>, Status> {
        self.answer(request, async |space, request: api::ResumeTaskRequest| {
            space.shim(&request.container_id).await?.resume().await
        })
        .await
    }

    async fn list_pids(
        &self,
        request: Request<api::ListPidsRequest>,
    ) -> Result<Response<api::ListPidsResponse>, Status> {
        self.answer(request, async |space, request: api::ListPidsRequest| {
            let pids = space.shim(&request.container_id).await?.pids().await?;
            let processes = pids
                .into_iter()
                .map(|seen| ProcessInfo { pid: seen.pid, info: seen.info.map(api_any) });
            Ok(api::ListPidsResponse { processes: processes.collect() })
        })
        .await
    }

    async fn checkpoint(
        &self,
        request: Request<api::CheckpointTaskRequest>,
    ) -> Result<Response<api::CheckpointTaskResponse>, Status> {
        self.answer(request, async |space, request: api::CheckpointTaskRequest| {
            space.task(&request.container_id).await?;
            Err(Error::new(ErrorKind::Unsupported, "make a checkpoint of a task"))
        })
        .await
    }

    async fn update(
        &self,
        request: Request<api::UpdateTaskRequest>,
    ) -> Result<Response<()>, Status> {
        self.answer(request, async |space, request: api::UpdateTaskRequest| {
            let client = space.shim(&request.container_id).await?;
            let resources: Option<Any> = request.resources.map(any);
            client.update(resources.as_ref(), request.annotations.into_iter().collect()).await
        })
        .await
    }

    async fn metrics(
        &self,
        request: Request<api::MetricsRequest>,
    ) -> Result<Response<api::MetricsResponse>, Status> {
        self.answer(request, async |space, request: api::MetricsRequest| {
            measure::all(&space, &request.filters).await
        })
        .await
    }

    async fn wait(
        &self,
        request: Request<api::WaitRequest>,
    ) -> Result<Response<api::WaitResponse>, Status> {
        self.answer(request, async |space, request: api::WaitRequest| {
            let exit = space.wait(&request.container_id, &request.exec_id).await?;
            let exited_at = Some(timestamp(exit.at));
            Ok(api::WaitResponse { exit_status: exit.status, exited_at })
        })
        .await
    }
}
