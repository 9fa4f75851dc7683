//! What clients of a tasks service want to know and to change, and commands do not.

use std::collections::BTreeMap;

use dist_core::{Any, Result};

use super::{State, Stdio, any, exit};
use crate::{ProcessId, TaskClient, proto};

/// A process, as its shim sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What it does.
    pub state: State,
    /// Its id in the kernel; 0 where it has none yet.
    pub pid: u32,
    /// What it reads and writes.
    pub stdio: Stdio,
}

/// One of the processes in a container, whoever started it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenPid {
    /// Its id in the kernel.
    pub pid: u32,
    /// What the shim knows of it beyond that.
    pub info: Option<Any>,
}

impl TaskClient {
    /// Says what a process does, and how it is connected.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable`.
    pub async fn look(&self, process: ProcessId<'_>) -> Result<Seen> {
        let told: proto::StateResponse = self.call("State", self.process(process)).await?;
        let state = match told.status() {
            proto::Status::Created => State::Created,
            proto::Status::Paused | proto::Status::Pausing => State::Paused,
            proto::Status::Stopped => State::Stopped(exit(told.exit_status, told.exited_at)),
            proto::Status::Running | proto::Status::Unknown => State::Running,
        };
        let proto::StateResponse { pid, stdin, stdout, stderr, terminal, .. } = told;
        Ok(Seen { state, pid, stdio: Stdio { stdin, stdout, stderr, terminal } })
    }

    /// All processes in the container.
    ///
    /// # Errors
    /// `NotFound` where it has ended; `Unavailable`.
    pub async fn pids(&self) -> Result<Vec<SeenPid>> {
        let told: proto::PidsResponse = self.call("Pids", self.process(ProcessId::First)).await?;
        let seen = told.processes.into_iter().map(|proto::ProcessInfo { pid, info }| SeenPid {
            pid,
            info: info.map(|any| Any { type_url: any.type_url, value: any.value }),
        });
        Ok(seen.collect())
    }

    /// Changes what the container may use.
    ///
    /// # Errors
    /// What the runtime says; `NotFound` where it has ended; `Unavailable`.
    pub async fn update(
        &self,
        resources: Option<&Any>,
        annotations: BTreeMap<String, String>,
    ) -> Result<()> {
        let request = proto::UpdateTaskRequest {
            id: self.id.clone(),
            resources: resources.map(any),
            annotations: annotations.into_iter().collect(),
        };
        self.call::<_, proto::Empty>("Update", request).await.map(drop)
    }
}
