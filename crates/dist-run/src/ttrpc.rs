//! ttrpc, the protocol of shims: gRPC's calls without HTTP/2.
//!
//! ```text
//! length of the payload, 4 bytes, big endian     0..=4 MiB
//! stream, 4 bytes, big endian                    odd, ascending
//! type, 1 byte                                   1 request, 2 response
//! flags, 1 byte                                  0
//! payload                                        a Request or a Response
//! ```
//!
//! Any number of calls are under way on one connection; answers come in any order.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use dist_core::{Context as _, Error, ErrorKind, Result, ResultExt as _};
use prost::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::proto;

const HEADER: usize = 10;
const MOST_BYTES: usize = 4 << 20;
pub(crate) const REQUEST: u8 = 1;
pub(crate) const RESPONSE: u8 = 2;

/// Requests that may wait until the other side reads.
const QUEUE: usize = 16;

/// A connection to a shim. Dropping it ends it; calls under way then fail.
#[derive(Debug)]
pub(crate) struct Connection {
    requests: mpsc::Sender<Vec<u8>>,
    calls: Arc<Mutex<Calls>>,
    tasks: [JoinHandle<()>; 2],
}

/// The calls that wait for an answer, by stream.
#[derive(Debug, Default)]
struct Calls {
    last: u32,
    waiting: HashMap<u32, oneshot::Sender<proto::Response>>,
    ended: bool,
}

impl Connection {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// `NotFound` where nobody listens; `Unavailable`.
    pub(crate) async fn open(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).await.map_err(|error| {
            let kind = match error.kind() {
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
                    ErrorKind::NotFound
                }
                _ => ErrorKind::Unavailable,
            };
            Error::new(kind, format!("connect to shim {}", path.display())).with_source(error)
        })?;
        let (read, write) = stream.into_split();
        let (requests, queue) = mpsc::channel(QUEUE);
        let calls = Arc::new(Mutex::new(Calls::default()));
        let reader = tokio::spawn(receive(read, calls.clone()));
        let writer = tokio::spawn(send(write, queue));
        Ok(Self { requests, calls, tasks: [reader, writer] })
    }

    /// Calls a method and waits for its answer, however long that takes.
    ///
    /// # Errors
    /// What the shim answers; `Unavailable` where it goes away.
    pub(crate) async fn call<M: Message, R: Message + Default>(
        &self,
        service: &str,
        method: &str,
        message: &M,
    ) -> Result<R> {
        let what = || format!("ask the shim for {method}");
        let gone = || Error::new(ErrorKind::Unavailable, "the shim is gone");
        let request = proto::Request {
            service: service.to_owned(),
            method: method.to_owned(),
            payload: message.encode_to_vec(),
            timeout_nano: 0,
        };
        let (answer, answered) = oneshot::channel();
        let stream = self.lock().begin(answer).ok_or_else(gone).during(what)?;
        let frame = frame(stream, REQUEST, &request.encode_to_vec());
        self.requests.send(frame).await.map_err(|_| gone()).during(what)?;
        let response = answered.await.map_err(|_| gone()).during(what)?;
        if let Some(status) = response.status.filter(|status| status.code != 0) {
            return Err(Error::new(kind(status.code), what()).with_source(ShimStatus(status)));
        }
        R::decode(&*response.payload).context(ErrorKind::Unavailable, what)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Calls {
    /// A stream for a call; `None` where no answer can come any more.
    fn begin(&mut self, answer: oneshot::Sender<proto::Response>) -> Option<u32> {
        // A caller that has gone away waits no more.
        self.waiting.retain(|_, answer| !answer.is_closed());
        if self.ended {
            return None;
        }
        self.last = if self.last == 0 { 1 } else { self.last.checked_add(2)? };
        self.waiting.insert(self.last, answer);
        Some(self.last)
    }
}

pub(crate) fn frame(stream: u32, kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER + payload.len());
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(&[kind, 0]);
    frame.extend_from_slice(payload);
    frame
}

async fn send(mut to: OwnedWriteHalf, mut queue: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = queue.recv().await {
        if let Err(error) = to.write_all(&frame).await {
            tracing::debug!(%error, "a shim does not read");
            return;
        }
    }
}

/// Hands out answers until the other side ends.
async fn receive(mut from: OwnedReadHalf, calls: Arc<Mutex<Calls>>) {
    loop {
        match read_frame::<proto::Response>(&mut from, RESPONSE).await {
            Ok((stream, response)) => {
                let mut calls = calls.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(answer) = calls.waiting.remove(&stream) {
                    // Whoever asked may have gone away.
                    drop(answer.send(response));
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a shim says no more");
                let mut calls = calls.lock().unwrap_or_else(PoisonError::into_inner);
                calls.ended = true;
                calls.waiting.clear();
                return;
            }
        }
    }
}

/// Reads the next message, which has to be of this kind, and its stream.
pub(crate) async fn read_frame<M: Message + Default>(
    from: &mut OwnedReadHalf,
    wanted: u8,
) -> std::io::Result<(u32, M)> {
    let wrong = || std::io::Error::new(std::io::ErrorKind::InvalidData, "that is no such message");
    let mut header = [0; HEADER];
    from.read_exact(&mut header).await?;
    let [a, b, c, d, e, f, g, h, kind, _flags] = header;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length > MOST_BYTES || kind != wanted {
        return Err(wrong());
    }
    let mut payload = vec![0; length];
    from.read_exact(&mut payload).await?;
    let message = M::decode(&*payload).map_err(|_| wrong())?;
    Ok((u32::from_be_bytes([e, f, g, h]), message))
}

/// What a shim answered in place of what it was asked for: the cause of the error that says so.
#[derive(Clone, Debug, PartialEq)]
pub struct ShimStatus(proto::RpcStatus);

impl ShimStatus {
    /// gRPC's code.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.0.code
    }
}

impl fmt::Display for ShimStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for ShimStatus {}

/// The kind of an error that has one of gRPC's codes.
fn kind(code: i32) -> ErrorKind {
    match code {
        1 => ErrorKind::Cancelled,
        3 => ErrorKind::InvalidArgument,
        5 => ErrorKind::NotFound,
        6 => ErrorKind::AlreadyExists,
        7 => ErrorKind::PermissionDenied,
        8 => ErrorKind::ResourceExhausted,
        9 => ErrorKind::FailedPrecondition,
        12 => ErrorKind::Unsupported,
        14 => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    async fn read_request(stream: &mut UnixStream) -> (u32, proto::Request) {
        let mut header = [0; HEADER];
        stream.read_exact(&mut header).await.unwrap();
        let number = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
        let mut payload = vec![0; number(0) as usize];
        stream.read_exact(&mut payload).await.unwrap();
        assert_eq!(header[8..], [REQUEST, 0]);
        (number(4), proto::Request::decode(&*payload).unwrap())
    }

    async fn answer(stream: &mut UnixStream, to: u32, response: &proto::Response) {
        let frame = frame(to, RESPONSE, &response.encode_to_vec());
        stream.write_all(&frame).await.unwrap();
    }

    /// What no real shim does on demand: answers out of order, and an end amid calls.
    #[tokio::test]
    async fn answers_find_their_calls_and_an_end_fails_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        assert_eq!(Connection::open(&path).await.unwrap_err().kind(), ErrorKind::NotFound);
        let listener = UnixListener::bind(&path).unwrap();
        let connection = Connection::open(&path).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let shim = async {
            let mut requests = Vec::new();
            for _ in 0..3 {
                requests.push(read_request(&mut stream).await);
            }
            let mut streams: Vec<u32> = requests.iter().map(|(stream, _)| *stream).collect();
            streams.sort_unstable();
            assert_eq!(streams, [1, 3, 5]);
            for (to, request) in requests.into_iter().rev() {
                let asked = proto::Process::decode(&*request.payload).unwrap();
                let response = match asked.id.as_str() {
                    "a" => proto::Response {
                        payload: proto::Started { pid: 7 }.encode_to_vec(),
                        ..Default::default()
                    },
                    "b" => proto::Response {
                        status: Some(proto::RpcStatus { code: 5, message: "no b".into() }),
                        ..Default::default()
                    },
                    _ => continue,
                };
                answer(&mut stream, to, &response).await;
            }
            drop(stream);
        };
        let ask = |id: &str| {
            let process = proto::Process { id: id.to_owned(), exec_id: String::new() };
            let connection = &connection;
            async move { connection.call::<_, proto::Started>("t", "Start", &process).await }
        };
        let (a, b, c, ()) = tokio::join!(ask("a"), ask("b"), ask("c"), shim);
        assert_eq!(a.unwrap().pid, 7);
        assert_eq!(b.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(c.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(ask("d").await.unwrap_err().kind(), ErrorKind::Unavailable);
    }
}
