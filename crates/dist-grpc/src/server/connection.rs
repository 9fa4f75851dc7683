//! A connection that knows who is at its other end.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{self, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::server::Connected;

use super::access::Peer;
use super::listen::Socket;

/// How long nobody is accepted after the kernel refused to, for want of descriptors mostly.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

/// A client.
pub(super) struct Connection {
    stream: UnixStream,
    peer: Peer,
}

impl Connection {
    /// Whether who is at the other end may be answered.
    pub(super) fn is_allowed(&self) -> bool {
        self.peer.is_allowed()
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
                    let peer = access.judge(stream.peer_cred().ok());
                    return Some((Ok(Connection { stream, peer }), (listener, access, made)));
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
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
