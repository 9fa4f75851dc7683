//! `GET /metrics`, on a socket of its own: a unix socket or a loopback port, nothing else.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use dist_core::{Context as _, Error, ErrorKind, Result};
use futures_util::StreamExt as _;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{PAUSE, incoming};
use super::{Access, Socket, SocketOptions};
use crate::Daemon;
use crate::daemon::blocking;

/// The format: Prometheus' text format as OpenMetrics has standardised it.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// How long a client may take to ask, and for its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where metrics are served.
#[derive(Debug)]
pub enum MetricsSocket {
    /// A unix socket, for those who are answered on the others.
    Unix(Socket),
    /// A loopback port, for every user of this machine.
    Loopback(TcpListener),
}

impl MetricsSocket {
    /// Listens at `address`: an absolute path, or an address of the loopback interface and a port.
    ///
    /// Of `options` all but the path counts, and only for a unix socket.
    ///
    /// # Errors
    /// `InvalidArgument` for another address; `Busy` where somebody listens there; as
    /// [`Socket::bind`].
    pub fn bind(address: &str, options: &SocketOptions, access: Access) -> Result<Self> {
        if address.starts_with('/') {
            let options = SocketOptions { path: address.into(), ..options.clone() };
            return Socket::bind(&options, access).map(Self::Unix);
        }
        let what = || format!("serve metrics on {address:?}");
        let parsed = loopback(address)?;
        let listener = TcpListener::bind(parsed).map_err(|error| refused(parsed, error))?;
        listener.set_nonblocking(true).context(ErrorKind::Storage, what)?;
        let bound = listener.local_addr().context(ErrorKind::Storage, what)?;
        tracing::info!(address = %bound, "serving metrics");
        Ok(Self::Loopback(listener))
    }

    pub(super) fn unix(&self) -> Option<&Socket> {
        match self {
            Self::Unix(socket) => Some(socket),
            Self::Loopback(_) => None,
        }
    }

    /// Looks whether metrics may be served at `address`, without doing so.
    ///
    /// # Errors
    /// `InvalidArgument` where they may not.
    pub fn check(address: &str) -> Result<()> {
        if address.starts_with('/') { Ok(()) } else { loopback(address).map(drop) }
    }
}

/// Reads an address of the loopback interface and a port.
fn loopback(address: &str) -> Result<SocketAddr> {
    let what = || format!("serve metrics on {address:?}");
    let parsed: SocketAddr = address.parse().context(ErrorKind::InvalidArgument, what)?;
    if !parsed.ip().is_loopback() {
        let message = format!(
            "serve metrics on {address}: only a loopback address (127.0.0.1:PORT, [::1]:PORT) \
                 or the path of a unix socket will do"
        );
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    Ok(parsed)
}

/// Why nobody can listen at a loopback address.
fn refused(address: SocketAddr, error: io::Error) -> Error {
    let message = format!("serve metrics on {address}");
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            Error::new(ErrorKind::Busy, message + ": another process listens there")
        }
        // There are no such addresses here, as where IPv6 is turned off.
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported => {
            Error::new(ErrorKind::InvalidArgument, message).with_source(error)
        }
        _ => Error::new(ErrorKind::Storage, message).with_source(error),
    }
}

/// A client of either kind.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Answers until `drain` is raised.
pub(super) async fn serve(
    socket: MetricsSocket,
    daemon: Daemon,
    drain: CancellationToken,
) -> Result<()> {
    let what = || "serve metrics".to_owned();
    let tasks = TaskTracker::new();
    let start = |client: Box<dyn Stream>| {
        let (daemon, drain) = (daemon.clone(), drain.clone());
        tasks.spawn(async move { drain.run_until_cancelled(answer(client, daemon)).await });
    };
    match socket {
        MetricsSocket::Unix(socket) => {
            let clients = incoming(socket).context(ErrorKind::Internal, what)?;
            let mut clients = Box::pin(clients.filter_map(async |client| client.ok()));
            while let Some(Some(client)) = drain.run_until_cancelled(clients.next()).await {
                if client.is_allowed() {
                    start(Box::new(client));
                }
            }
        }
        MetricsSocket::Loopback(listener) => {
            let listener =
                tokio::net::TcpListener::from_std(listener).context(ErrorKind::Internal, what)?;
            while let Some(client) = drain.run_until_cancelled(listener.accept()).await {
                match client {
                    Ok((client, _)) => start(Box::new(client)),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }
    }
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// Answers one client, once.
async fn answer(client: Box<dyn Stream>, daemon: Daemon) {
    let service = service_fn(|request| respond(request, daemon.clone()));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .keep_alive(false)
        .serve_connection(TokioIo::new(client), service);
    match tokio::time::timeout(PATIENCE, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a client of the metrics failed"),
        Err(_) => tracing::debug!("a client of the metrics was too slow"),
    }
}

async fn respond(
    request: Request<Incoming>,
    daemon: Daemon,
) -> std::result::Result<Response<String>, Infallible> {
    let (status, kind, text) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => match gather(daemon).await {
            Ok(text) => (StatusCode::OK, OPEN_METRICS, text),
            Err(error) => {
                tracing::error!(?error, "cannot gather the metrics");
                (StatusCode::INTERNAL_SERVER_ERROR, PLAIN, "see the daemon's log\n".to_owned())
            }
        },
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, PLAIN, "GET it\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, PLAIN, "there is only /metrics\n".to_owned()),
    };
    let mut response = Response::new(text);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}

async fn gather(daemon: Daemon) -> Result<String> {
    blocking(move || {
        let ingests = daemon.engine().store().all_ingests()?.len();
        daemon.metrics().text(ingests, daemon.bus().subscribers())
    })
    .await
}
