//! Bytes over a stream, in both directions.
//!
//! Whoever receives grants a window, 64 KiB at a time, with `WindowUpdate` messages; whoever sends
//! stays within it, in `Data` messages of at most 32 KiB. The end of the stream is the end of the
//! bytes.

use std::io::{self, Read, Write};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use dist_core::{Error, ErrorKind, Result};
use prost_types::Any;
use tokio::sync::mpsc;
use tonic::Status;

use crate::api::containerd::types::transfer::{Data, WindowUpdate};
use crate::streams::Stream;
use crate::translate::status;
use crate::typed;

/// The most bytes in one message.
const CHUNK: usize = 32 << 10;
/// How much is granted at a time.
const WINDOW: i32 = 64 << 10;
/// Chunks that wait between a stream and the thread that reads or writes them.
const WAITING: usize = 8;
/// How long a client may take to say that it has used all bytes, or to be told why there are no more.
const GRACE: Duration = Duration::from_secs(2);

/// The blocking end of bytes that a client sends.
pub(crate) struct Incoming {
    receive: mpsc::Receiver<Result<Option<Bytes>>>,
    chunk: Bytes,
    ended: bool,
}

/// Bytes that come over `stream`: the reader, and what has to run for it to be fed.
pub(crate) fn incoming(stream: Stream) -> (Incoming, impl Future<Output = ()> + Send) {
    let (send, receive) = mpsc::channel(WAITING);
    let feed = async move {
        let result = feed(stream, &send).await;
        // A reader that is gone needs no end.
        let _ = send.send(result.map(|()| None)).await;
    };
    (Incoming { receive, chunk: Bytes::new(), ended: false }, feed)
}

async fn feed(mut stream: Stream, send: &mpsc::Sender<Result<Option<Bytes>>>) -> Result<()> {
    let mut window: i64 = 0;
    loop {
        if window < i64::from(WINDOW) && stream.send(&WindowUpdate { update: WINDOW }).await.is_ok()
        {
            window += i64::from(WINDOW);
        }
        let Some(message) = stream.receive().await? else { return Ok(()) };
        if !typed::is::<Data>(&message) {
            tracing::debug!(message.type_url, "passed over in a stream of bytes");
            continue;
        }
        let Data { data } = typed::unpack(&message)?;
        window -= i64::try_from(data.len()).unwrap_or(i64::MAX);
        if window < 0 {
            let message = "receive bytes: there are more than were asked for";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        if send.send(Ok(Some(data))).await.is_err() {
            return Err(Error::cancelled());
        }
    }
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() && !self.ended {
            match self.receive.blocking_recv() {
                Some(Ok(Some(chunk))) => self.chunk = chunk,
                Some(Ok(None)) => self.ended = true,
                Some(Err(error)) => return Err(error.into_io()),
                None => return Err(Error::cancelled().into_io()),
            }
        }
        let count = buffer.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// The blocking end of bytes that go to a client.
pub(crate) struct Outgoing {
    send: mpsc::Sender<Bytes>,
    chunk: Vec<u8>,
}

/// Bytes that go over a stream: the writer, and the stream's other end.
pub(crate) fn outgoing(stream: Stream) -> (Outgoing, Drain) {
    let (send, receive) = mpsc::channel(WAITING);
    (Outgoing { send, chunk: Vec::with_capacity(CHUNK) }, Drain { stream, receive })
}

impl Outgoing {
    fn push(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK));
        self.send.blocking_send(chunk.into()).map_err(|_| Error::cancelled().into_io())
    }
}

impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..count]);
        if self.chunk.len() == CHUNK {
            self.push()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.push()
    }
}

/// Takes what a writer wrote to the client.
pub(crate) struct Drain {
    stream: Stream,
    receive: mpsc::Receiver<Bytes>,
}

impl Drain {
    /// Sends what `writing` writes, until it has ended and the client has all of it. A failure is
    /// told to the client on the stream as well where it got something: that is not whole.
    ///
    /// # Errors
    /// Those of `writing`; `Cancelled` where the client is gone.
    pub(crate) async fn run(self, writing: impl Future<Output = Result<()>>) -> Result<()> {
        let Self { stream, receive } = self;
        let (to, from) = stream.split();
        let mut window = Window { from, open: 0, sent: false };
        let sending = window.send(&to, receive);
        let (written, sent) = futures_util::future::join(writing, sending).await;
        // A writer whose client has gone only knows that nobody takes its bytes.
        let result = match (written, sent) {
            (Err(error), Ok(())) => Err(error),
            (_, Err(error)) => Err(error),
            (Ok(()), Ok(())) => Ok(()),
        };
        match &result {
            Ok(()) => {
                // Some clients end when the transfer has, whatever is still on its way to them.
                let _ = tokio::time::timeout(GRACE, window.used()).await;
            }
            Err(error) if window.sent => {
                let _ = tokio::time::timeout(GRACE, to.send(Err(status(error)))).await;
            }
            Err(_) => {}
        }
        result
    }
}

/// How much the client is ready for.
struct Window {
    from: tonic::Streaming<Any>,
    open: i64,
    /// Whether there was anything to send.
    sent: bool,
}

impl Window {
    async fn send(
        &mut self,
        to: &mpsc::Sender<Result<Any, Status>>,
        mut receive: mpsc::Receiver<Bytes>,
    ) -> Result<()> {
        while let Some(mut chunk) = receive.recv().await {
            while !chunk.is_empty() {
                if self.open == 0 {
                    self.widen().await?;
                    continue;
                }
                let most = usize::try_from(self.open).unwrap_or(usize::MAX);
                let data = chunk.split_to(chunk.len().min(most));
                self.open -= i64::try_from(data.len()).unwrap_or(0);
                let message = typed::pack(&Data { data });
                self.sent = true;
                to.send(Ok(message)).await.map_err(|_| Error::cancelled())?;
            }
        }
        Ok(())
    }

    /// Waits until the client is ready for more.
    async fn widen(&mut self) -> Result<()> {
        let message =
            self.from.message().await.map_err(|status| {
                Error::new(ErrorKind::Cancelled, "send bytes").with_source(status)
            })?;
        let Some(message) = message else {
            return Err(Error::new(ErrorKind::Cancelled, "send bytes: the client wants no more"));
        };
        if typed::is::<WindowUpdate>(&message) {
            let WindowUpdate { update } = typed::unpack(&message)?;
            if update < 0 {
                let message = "send bytes: the client takes its window back";
                return Err(Error::new(ErrorKind::InvalidArgument, message));
            }
            self.open = self.open.saturating_add(i64::from(update));
        }
        Ok(())
    }

    /// Waits until the client has made room for as much as it does when it has used everything.
    async fn used(&mut self) {
        while self.open < i64::from(WINDOW) && self.widen().await.is_ok() {}
    }
}
