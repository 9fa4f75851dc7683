//! A connection that knows who is at its other end.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use futures_util::stream::{self, Stream};
use rustix::net::sockopt::set_socket_send_buffer_size;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::server::Connected;

use super::access::Peer;
use super::listen::Socket;

/// How long nobody is accepted after the kernel refused to, for want of descriptors mostly.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

/// How much is gathered into one write at most. HTTP/2 flushes after each frame, and Go's clients
/// take frames of 16 KiB: a write for each of them would wake the client as often.
const GATHERED: usize = 256 << 10;

/// A write that is not the last one for now, as a rule: a part of a large message.
const LARGE: usize = 8 << 10;

/// The buffer that the kernel is asked for; it gives less where its limit is lower.
const SEND_BUFFER: usize = 208 << 10;

/// A client.
pub(super) struct Connection {
    stream: UnixStream,
    peer: Peer,
    /// Bytes that wait to be sent together.
    held: BytesMut,
    /// A large write came after the last flush.
    fresh: bool,
}

impl Connection {
    /// Whether who is at the other end may be answered.
    pub(super) fn is_allowed(&self) -> bool {
        self.peer.is_allowed()
    }

    /// Sends what is held.
    fn send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.held))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.held.advance(sent),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// The clients of a socket, one after the other, without an end. The socket is closed, and removed,
/// with the stream.
pub(super) fn incoming(socket: Socket) -> io::Result<impl Stream<Item = io::Result<Connection>>> {
    let Socket { listener, access, made } = socket;
    let listener = UnixListener::from_std(listener)?;
    Ok(stream::unfold((listener, access, made), async |(listener, access, made)| {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    if let Err(error) = set_socket_send_buffer_size(&stream, SEND_BUFFER) {
                        tracing::debug!(%error, "cannot enlarge the buffer of a connection");
                    }
                    let peer = access.judge(stream.peer_cred().ok());
                    let held = BytesMut::new();
                    let connection = Connection { stream, peer, held, fresh: false };
                    return Some((Ok(connection), (listener, access, made)));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }))
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        if self.held.len() + length > GATHERED {
            ready!(self.send(cx))?;
        }
        self.fresh = length >= LARGE;
        if self.held.is_empty() {
            if !self.fresh || length > GATHERED {
                return Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
            }
            self.held.reserve(GATHERED);
        }
        for slice in slices {
            self.held.extend_from_slice(slice);
        }
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// The flush after a large write is put off until more was written or the task is polled again,
    /// which is asked for here.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.fresh) {
            cx.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        if self.held.is_empty() {
            // It has nothing to say for now, and keeps no memory for that.
            self.held = BytesMut::new();
            return Poll::Ready(Ok(()));
        }
        self.send(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.send(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
