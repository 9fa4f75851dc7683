//! The bridges between the async rim and the blocking core: the only file that has both.
//!
//! A body arrives in a task and crosses to a blocking thread through a bounded channel. The end of
//! the body is a value in the channel; a channel that closes without it means that the other half
//! is gone, and nothing is committed then.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use dist_core::{
    ByteStream, Cancel, Context as _, Descriptor, Error, ErrorKind, Fetcher, Meter, Result, Stage,
    enter,
};
use futures_util::StreamExt as _;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};

use crate::servers::{Server, Servers, Stream};

/// Chunks that may wait between the network and the worker; each can be 400 KiB.
const CHUNKS: usize = 1;

/// The same for parts, each on a thread that does nothing else.
const PART_CHUNKS: usize = 2;

/// Runs `work` on a blocking thread. It starts at once, not when the future is first polled.
///
/// Dropping the future does not stop the work: raise its [`Cancel`] for that. Its time is counted
/// where the caller has none of its own, being [`Stage::Idle`].
pub(crate) fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> impl Future<Output = Result<T>> + Send {
    let meter = Meter::of_this_thread().filter(|(_, stage)| *stage == Stage::Idle);
    let task = tokio::task::spawn_blocking(move || {
        let _running = meter.map(|(meter, _)| meter.start(Stage::Other));
        work()
    });
    async { task.await.context(ErrorKind::Internal, || "run a blocking task".into())? }
}

/// Ends what was started under one [`Alive`]: bodies at once, blocking work at its next look at
/// the [`Cancel`].
#[derive(Clone)]
pub(crate) struct Stop {
    bodies: Arc<watch::Sender<()>>,
    cancel: Cancel,
}

impl Stop {
    pub(crate) fn stop(&self) {
        self.cancel.cancel();
        self.bodies.send_replace(());
    }
}

/// The life of one operation. Dropping it stops all that belongs to it.
pub(crate) struct Alive(Stop);

impl Alive {
    /// Begins an operation that a dropped future must end.
    pub(crate) fn new() -> Self {
        Self(Stop { bodies: Arc::new(watch::Sender::new(())), cancel: Cancel::default() })
    }

    /// The flag for blocking work.
    pub(crate) fn cancel(&self) -> Cancel {
        self.0.cancel.clone()
    }

    /// For whoever finds out that the operation has failed.
    pub(crate) fn stop(&self) -> Stop {
        self.0.clone()
    }

    /// Bodies from `fetcher`, which asks one of `servers` if any. Must be called on the runtime that
    /// shall drive them.
    pub(crate) fn downloads(&self, servers: &Servers, fetcher: Arc<dyn Fetcher>) -> Downloads {
        let (stop, cancel) = (self.0.bodies.subscribe(), self.cancel());
        let server = fetcher.host().map(|host| servers.find(host));
        Downloads { runtime: Handle::current(), fetcher, server, stop, cancel }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Starts bodies for blocking threads to read.
#[derive(Clone)]
pub(crate) struct Downloads {
    runtime: Handle,
    fetcher: Arc<dyn Fetcher>,
    server: Option<Arc<Server>>,
    stop: watch::Receiver<()>,
    cancel: Cancel,
}

impl Downloads {
    /// Begins the body of `desc` at `offset` and returns its blocking end.
    pub(crate) fn start(&self, desc: &Descriptor, offset: u64) -> Body {
        let (fetcher, desc) = (Arc::clone(&self.fetcher), desc.clone());
        self.open(CHUNKS, async move { fetcher.fetch(&desc, offset).await })
    }

    /// Begins a part of `desc`, which may end early.
    pub(crate) fn start_part(&self, desc: &Descriptor, range: Range<u64>) -> Body {
        let (fetcher, desc) = (Arc::clone(&self.fetcher), desc.clone());
        self.open(PART_CHUNKS, async move { fetcher.fetch_part(&desc, range).await })
    }

    /// Notes that what came for `desc` was other content; tells whether somebody else has it.
    pub(crate) fn doubt(&self, desc: &Descriptor) -> bool {
        self.fetcher.doubt(desc)
    }

    /// Who is asked, where that one gives parts.
    pub(crate) fn server(&self) -> Option<&Arc<Server>> {
        self.server.as_ref().filter(|server| server.has_parts())
    }

    /// Fails once the operation is over.
    pub(crate) fn check(&self) -> Result<()> {
        self.cancel.check()
    }

    /// Runs `work` on a blocking thread of the same runtime.
    pub(crate) fn spawn(&self, work: impl FnOnce() + Send + 'static) {
        drop(self.runtime.spawn_blocking(work));
    }

    fn open(
        &self,
        chunks: usize,
        opening: impl Future<Output = Result<ByteStream>> + Send + 'static,
    ) -> Body {
        let (send, receive) = mpsc::channel(chunks);
        let stream = self.server.as_ref().map(Server::stream);
        let mut stop = self.stop.clone();
        let task = self.runtime.spawn(async move {
            tokio::select! {
                result = forward(opening, &send, stream) => {
                    // A closed channel means that the reader is gone: nobody is left to be told.
                    let _ = send.send(result.map(|()| None)).await;
                }
                _ = stop.changed() => (),
            }
        });
        Body { receive, task, chunk: Bytes::new(), ended: false, cancel: self.cancel.clone() }
    }
}

async fn forward(
    opening: impl Future<Output = Result<ByteStream>>,
    send: &mpsc::Sender<Result<Option<Bytes>>>,
    stream: Option<Stream>,
) -> Result<()> {
    let mut body = opening.await?;
    loop {
        // Asked for once there is room for it: what waits here would be a further buffer.
        let room = send.reserve().await.map_err(|_| Error::cancelled())?;
        let Some(chunk) = body.next().await else { return Ok(()) };
        let chunk = chunk?;
        if let Some(stream) = &stream {
            stream.came(chunk.len());
        }
        room.send(Ok(Some(chunk)));
    }
}

/// The blocking end of a body. Dropping it ends the transfer.
pub(crate) struct Body {
    receive: mpsc::Receiver<Result<Option<Bytes>>>,
    task: JoinHandle<()>,
    chunk: Bytes,
    ended: bool,
    cancel: Cancel,
}

impl Body {
    /// Ends the transfer from elsewhere.
    pub(crate) fn stopper(&self) -> AbortHandle {
        self.task.abort_handle()
    }

    /// Waits for the next chunk; `None` is the end.
    pub(crate) fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        if self.ended {
            return Ok(None);
        }
        self.cancel.check()?;
        let _download = enter(Stage::Download);
        match self.receive.blocking_recv() {
            Some(Ok(Some(chunk))) => Ok(Some(chunk)),
            Some(Ok(None)) => {
                self.ended = true;
                Ok(None)
            }
            Some(Err(error)) => Err(error),
            None => Err(Error::cancelled()),
        }
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.next_chunk().map_err(Error::into_io)? {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.task.abort();
    }
}
