//! Who writes to which key at this moment, in this process.
//!
//! A stream that writes holds its key until it ends. Others can't wait for that, but must not be
//! turned away by a stream whose client has closed it and whose end was only not noticed yet: they
//! ask it. The stream first looks at what its client sent, and then answers that it lives; an end
//! that it finds there ends it. Nobody needs a clock for this, because the requests of one
//! connection arrive in order.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dist_core::{IngestKey, Namespace, Result};
use tokio::sync::{mpsc, oneshot};

type Key = (Namespace, IngestKey);

/// What others ask of a stream that writes.
pub(super) enum Demand {
    /// Whether it is still at it.
    Alive(oneshot::Sender<()>),
    /// To remove its ingest and to end.
    Abort(oneshot::Sender<Result<()>>),
}

/// The streams that write, by key. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Writers(Arc<Mutex<HashMap<Key, mpsc::UnboundedSender<Demand>>>>);

/// A key that is held; dropped, it is free.
pub(super) struct Held {
    writers: Writers,
    key: Key,
    demands: mpsc::UnboundedReceiver<Demand>,
}

impl Writers {
    /// Takes a key; `None` where a stream has it and goes on having it.
    pub(super) async fn hold(&self, namespace: &Namespace, key: &IngestKey) -> Option<Held> {
        let key = (namespace.clone(), key.clone());
        loop {
            let writer = match self.lock().entry(key.clone()) {
                Entry::Occupied(writer) => writer.get().clone(),
                Entry::Vacant(place) => {
                    let (sender, demands) = mpsc::unbounded_channel();
                    place.insert(sender);
                    return Some(Held { writers: self.clone(), key, demands });
                }
            };
            if ask(&writer, Demand::Alive).await.is_some() {
                return None;
            }
            writer.closed().await;
        }
    }

    /// Has the stream that writes to a key remove its ingest; `None` where there is none.
    pub(super) async fn abort(&self, namespace: &Namespace, key: &IngestKey) -> Option<Result<()>> {
        let key = (namespace.clone(), key.clone());
        loop {
            let writer = self.lock().get(&key).cloned()?;
            if let Some(result) = ask(&writer, Demand::Abort).await {
                return Some(result);
            }
            writer.closed().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, mpsc::UnboundedSender<Demand>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks a stream; `None` where it ended before it answered.
async fn ask<T>(
    writer: &mpsc::UnboundedSender<Demand>,
    demand: impl FnOnce(oneshot::Sender<T>) -> Demand,
) -> Option<T> {
    let (sender, answer) = oneshot::channel();
    writer.send(demand(sender)).ok()?;
    // What is sent while the stream ends can stay in the channel for as long as somebody has it,
    // and this does: its end is looked for as well.
    tokio::select! {
        biased;
        answer = answer => answer.ok(),
        () = writer.closed() => None,
    }
}

impl Held {
    /// The next thing that is asked. The channel stays open as long as this lives.
    pub(super) async fn demand(&mut self) -> Demand {
        match self.demands.recv().await {
            Some(demand) => demand,
            None => std::future::pending().await,
        }
    }

    /// What is asked now.
    pub(super) fn demanded(&mut self) -> Option<Demand> {
        self.demands.try_recv().ok()
    }
}

impl Drop for Held {
    /// Frees the key before those who asked learn of it.
    fn drop(&mut self) {
        self.writers.lock().remove(&self.key);
    }
}
