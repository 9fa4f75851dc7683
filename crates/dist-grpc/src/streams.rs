//! Streams that clients have opened and named, until a transfer takes them.
//!
//! A stream lives as long as the call that opened it: when the client is gone, so is its name.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dist_core::{Error, ErrorKind, LeaseId, Namespace, Result};
use prost::Name;
use prost_types::Any;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::typed;

/// How many streams there may be in all.
const MOST: usize = 4096;

/// How long a stream's name may be.
const LONGEST_NAME: usize = 1024;

type Key = (Namespace, Box<str>);

/// Every open stream.
#[derive(Clone, Default)]
pub(crate) struct Streams(Arc<Mutex<HashMap<Key, Slot>>>);

struct Slot {
    /// What a transfer takes; the name stays until the client is gone.
    stream: Option<Stream>,
    lease: Option<LeaseId>,
}

/// Both directions of a stream. Dropping it ends the client's call.
pub(crate) struct Stream {
    to: mpsc::Sender<Result<Any, Status>>,
    from: Streaming<Any>,
}

impl Streams {
    /// Takes in the stream `id` until the returned guard is dropped.
    ///
    /// # Errors
    /// `AlreadyExists`; `InvalidArgument` for a name that is none; `ResourceExhausted` where there
    /// are too many.
    pub(crate) fn register(
        &self,
        namespace: Namespace,
        id: &str,
        lease: Option<LeaseId>,
        stream: Stream,
    ) -> Result<Registered> {
        if id.is_empty() || id.len() > LONGEST_NAME {
            let message = format!("register a stream: its id has {} bytes", id.len());
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let key: Key = (namespace, id.into());
        let mut streams = self.lock();
        if streams.contains_key(&key) {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("register stream {id:?}")));
        }
        if streams.len() >= MOST {
            let message = format!("register stream {id:?}: there are {MOST} open");
            return Err(Error::new(ErrorKind::ResourceExhausted, message));
        }
        streams.insert(key.clone(), Slot { stream: Some(stream), lease });
        Ok(Registered { streams: self.clone(), key })
    }

    /// Hands out the stream `id`, once.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` where another transfer has it.
    pub(crate) fn take(&self, namespace: &Namespace, id: &str) -> Result<Stream> {
        let mut streams = self.lock();
        match streams.get_mut(&(namespace.clone(), id.into())) {
            None => Err(Error::new(ErrorKind::NotFound, format!("find stream {id:?}"))),
            Some(slot) => slot.stream.take().ok_or_else(|| {
                let message = format!("use stream {id:?}: another transfer uses it");
                Error::new(ErrorKind::FailedPrecondition, message)
            }),
        }
    }

    /// Ends the streams in a lease that no transfer has taken.
    pub(crate) fn end_leased(&self, namespace: &Namespace, lease: &LeaseId) {
        let mut ended = Vec::new(); // not dropped under the lock
        for ((within, _), slot) in self.lock().iter_mut() {
            if within == namespace && slot.lease.as_ref() == Some(lease) {
                ended.extend(slot.stream.take());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream's name; dropping it gives the name up.
pub(crate) struct Registered {
    streams: Streams,
    key: Key,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let slot = self.streams.lock().remove(&self.key);
        drop(slot); // not under the lock
    }
}

impl Stream {
    pub(crate) fn new(to: mpsc::Sender<Result<Any, Status>>, from: Streaming<Any>) -> Self {
        Self { to, from }
    }

    /// Sends a message, when the client has room for it.
    ///
    /// # Errors
    /// `Cancelled` where the client is gone.
    pub(crate) async fn send<M: Name>(&self, message: &M) -> Result<()> {
        self.to.send(Ok(typed::pack(message))).await.map_err(|_| Error::cancelled())
    }

    /// Waits for the next message; `None` where the client has sent its last one.
    ///
    /// # Errors
    /// `Cancelled` where the client is gone.
    pub(crate) async fn receive(&mut self) -> Result<Option<Any>> {
        self.from.message().await.map_err(|status| {
            Error::new(ErrorKind::Cancelled, "receive from a stream").with_source(status)
        })
    }

    /// Both directions on their own.
    pub(crate) fn split(self) -> (mpsc::Sender<Result<Any, Status>>, Streaming<Any>) {
        (self.to, self.from)
    }

    /// Waits until all that was sent is on its way to the client.
    pub(crate) async fn drained(&self) {
        // Every place of the channel is free then; an error means that nobody is there to wait for.
        let _ = self.to.reserve_many(self.to.max_capacity()).await;
    }
}
