//! What shims tell, for whoever has subscribed to events, and what they can tell no more: that they
//! were killed.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dist_core::{ContainerId, Error, ErrorKind, Exit, Namespace, Result};
use dist_run::{Containers, EventSocket, Observed, ProcessId};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Daemon;
use crate::api::containerd::events::{TaskCreate, TaskExit};
use crate::api::containerd::services::events::v1::Envelope;
use crate::daemon::blocking;
use crate::translate::{api_any, timestamp};

/// The task of a container, by its namespace.
type Key = (Namespace, ContainerId);

/// Hears shims until `stop` ends, and notices their deaths. Where that is not possible, tasks go on
/// without being told of.
pub(crate) async fn hear(daemon: &Daemon, stop: CancellationToken) {
    let (found, finds) = mpsc::unbounded_channel();
    tokio::join!(listen(daemon, &found, &stop), watch_all(daemon, finds, &stop));
}

async fn listen(daemon: &Daemon, found: &mpsc::UnboundedSender<Key>, stop: &CancellationToken) {
    let store = daemon.engine().store().clone();
    let heard = async {
        let socket = blocking(move || EventSocket::bind(&store)).await?;
        // After the socket is there: what is made from now on is told.
        for key in tasks(daemon).await? {
            drop(found.send(key));
        }
        let (daemon, found) = (daemon.clone(), found.clone());
        let tell = move |event: dist_run::ShimEvent| {
            if let Some(key) = created(&event) {
                drop(found.send(key));
            }
            daemon.bus().forward(Envelope {
                timestamp: Some(event.at),
                namespace: event.namespace,
                topic: event.topic,
                event: Some(api_any(event.event)),
            });
        };
        socket.serve(tell, stop.cancelled()).await
    };
    if let Err(error) = heard.await {
        tracing::warn!(?error, "there will be no events of tasks");
    }
}

/// The tasks that somebody has made and that have not ended, as far as anybody has seen.
async fn tasks(daemon: &Daemon) -> Result<Vec<Key>> {
    let store = daemon.engine().store().clone();
    blocking(move || {
        let mut tasks = Vec::new();
        for (namespace, _) in store.namespaces().list()? {
            for container in store.containers(&namespace).list()? {
                if container.task.is_some_and(|task| task.exit.is_none()) {
                    tasks.push((namespace.clone(), container.id));
                }
            }
        }
        Ok(tasks)
    })
    .await
}

/// The task that a shim says to have made.
fn created(event: &dist_run::ShimEvent) -> Option<Key> {
    if event.topic != "/tasks/create" {
        return None;
    }
    let told = TaskCreate::decode(&*event.event.value).ok()?;
    Some((event.namespace.parse().ok()?, told.container_id.parse().ok()?))
}

/// Watches the tasks that are found, each once.
async fn watch_all(
    daemon: &Daemon,
    mut finds: mpsc::UnboundedReceiver<Key>,
    stop: &CancellationToken,
) {
    let known = Mutex::new(HashSet::new());
    let lock = || known.lock().unwrap_or_else(PoisonError::into_inner);
    let mut watches = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(key) = finds.recv() => {
                if lock().insert(key.clone()) {
                    let daemon = daemon.clone();
                    watches.spawn(async move {
                        watch(&daemon, &key).await;
                        key
                    });
                }
            }
            Some(ended) = watches.join_next() => match ended {
                Ok(key) => drop(lock().remove(&key)),
                Err(error) => tracing::warn!(%error, "the watch of a task ended"),
            },
        }
    }
}

/// Waits for the end of a task, and tells it where the shim can't.
async fn watch(daemon: &Daemon, (namespace, id): &Key) {
    let containers = daemon.containers(namespace);
    let mut pid = 0;
    let waited = async {
        let (rows, of) = (containers.rows(), id.clone());
        let container = blocking(move || rows.get(&of)).await?;
        let client = containers.connect(&container).await?;
        pid = client.state(ProcessId::First).await?.1;
        client.wait(ProcessId::First).await
    };
    match waited.await {
        Ok(_) => return,
        Err(error) if is_gone(&error) => (),
        Err(error) => {
            return tracing::debug!(%namespace, %id, ?error, "a task is not watched any more");
        }
    }
    // Nobody is told of one that was deleted, and its shim with it.
    let Some(exit) = end_of(&containers, id).await else { return };
    tracing::warn!(%namespace, %id, "a shim is gone; what it ran was ended");
    let event = TaskExit {
        container_id: id.to_string(),
        id: id.to_string(),
        pid,
        exit_status: exit.status,
        exited_at: Some(timestamp(exit.at)),
    };
    daemon.publish(namespace, "/tasks/exit", &event);
}

fn is_gone(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unavailable)
}

/// How a task ended whose shim went away; nothing where there is no such task any more. Somebody else
/// may be just finding that out.
pub(crate) async fn end_of(containers: &Containers, id: &ContainerId) -> Option<Exit> {
    const PATIENCE: Duration = Duration::from_secs(10);
    const PAUSE: Duration = Duration::from_millis(20);
    let told = async {
        loop {
            let (rows, of) = (containers.rows(), id.clone());
            let container = blocking(move || rows.get(&of)).await.ok()?;
            container.task.as_ref()?;
            if let Observed::Exited(exit) = containers.observe(&container).await.ok()? {
                return Some(exit);
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.ok().flatten()
}
