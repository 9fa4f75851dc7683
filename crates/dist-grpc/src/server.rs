//! Serving the API on unix sockets, from the first connection to an orderly end.

mod access;
mod connection;
mod health;
mod listen;
mod methods;
mod observe;
mod reflection;
mod scrape;

use std::time::Duration;

use dist_core::{Context as _, Error, ErrorKind, Result};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;

pub use access::Access;
pub use listen::{Socket, SocketOptions};
pub use scrape::MetricsSocket;

use crate::services;
use crate::{Daemon, gc, settle, shims, trash};
use connection::incoming;
use methods::Methods;
use observe::Observe;

/// What a stream may have under way: enough that a writer need not wait for each of its chunks.
const STREAM_WINDOW: u32 = 2 << 20;

/// What a connection may have under way.
const CONNECTION_WINDOW: u32 = 8 << 20;

/// Streams of one connection at once. Go's clients share one connection for all they do.
const STREAMS: u32 = 1000;

/// How long requests may go on after a stop.
const GRACE: Duration = Duration::from_secs(5);

/// How long clients may take to hear that it is over.
const FAREWELL: Duration = Duration::from_secs(2);

/// The sockets that a daemon listens on.
#[derive(Debug)]
pub struct Sockets {
    /// For clients.
    pub api: Socket,
    /// For another daemon that keeps its content and snapshots here.
    pub backend: Option<Socket>,
    /// For those who watch over it.
    pub metrics: Option<MetricsSocket>,
}

/// Serves the API until `stop` ends, and then ends in order.
///
/// Nobody is accepted any more, event streams and watches of its health end, and requests may go on for five seconds. What
/// is still open then is told `Unavailable`; what was written into an ingest stays. Snapshots that
/// were committed are on the disk when it returns, as far as the store's durability asks for it.
///
/// # Errors
/// `Internal` where the server fails.
pub async fn serve(daemon: Daemon, sockets: Sockets, stop: impl Future<Output = ()>) -> Result<()> {
    let others = [sockets.backend.as_ref(), sockets.metrics.as_ref().and_then(MetricsSocket::unix)];
    [Some(&sockets.api)].into_iter().chain(others).flatten().for_each(Socket::announce);
    let ended = CancellationToken::new();
    let settling = settle::run(&daemon, ended.clone());
    let emptying = trash::run(&daemon, ended.clone());
    let hearing = shims::hear(&daemon, ended.clone());
    let serving = async {
        let _ended = ended.drop_guard();
        tokio::select! {
            result = serve_sockets(&daemon, sockets, stop) => result,
            never = gc::run(&daemon) => match never {},
        }
    };
    tokio::join!(serving, settling, emptying, hearing).0
}

async fn serve_sockets(
    daemon: &Daemon,
    sockets: Sockets,
    stop: impl Future<Output = ()>,
) -> Result<()> {
    let stages = Stages { drain: daemon.stopping().clone(), cut: CancellationToken::new() };
    let mut servers = JoinSet::new();
    let routes = services::routes(daemon);
    let metrics = || daemon.metrics().clone();
    let observe =
        |names: &[&'static str]| Observe::new(Methods::new(names), metrics(), stages.cut.clone());
    let drain = || stages.drain.clone();
    let names = &services::NAMES;
    servers.spawn(serve_socket(sockets.api, routes, (names, observe(names)), drain()));
    if let Some(socket) = sockets.backend {
        let routes = services::backend_routes(daemon);
        let names = &services::BACKEND_NAMES;
        servers.spawn(serve_socket(socket, routes, (names, observe(names)), drain()));
    }
    if let Some(socket) = sockets.metrics {
        servers.spawn(scrape::serve(socket, daemon.clone(), drain()));
    }
    tokio::select! {
        () = stop => {}
        ended = servers.join_next() => {
            let error = Error::new(ErrorKind::Internal, "a server ended by itself");
            return match ended {
                Some(Ok(Err(error))) => Err(error),
                Some(Err(cause)) => Err(error.with_source(cause)),
                Some(Ok(Ok(()))) | None => Err(error),
            };
        }
    }
    tracing::info!("stopping");
    daemon.bus().close();
    stages.drain.cancel();
    if tokio::time::timeout(GRACE, all(&mut servers)).await.is_err() {
        stages.cut.cancel();
        if tokio::time::timeout(FAREWELL, all(&mut servers)).await.is_err() {
            tracing::warn!("clients that do not answer were cut off");
        }
    }
    Ok(())
}

/// How a server ends.
struct Stages {
    /// Nobody is accepted any more.
    drain: CancellationToken,
    /// What still runs has to end.
    cut: CancellationToken,
}

async fn all(servers: &mut JoinSet<Result<()>>) {
    while servers.join_next().await.is_some() {}
}

async fn serve_socket(
    socket: Socket,
    routes: Routes,
    (names, observe): (&'static [&'static str], Observe),
    drain: CancellationToken,
) -> Result<()> {
    let what = || "serve a socket".to_owned();
    let routes = with_operation(routes, names, drain.clone())?;
    let incoming = incoming(socket).context(ErrorKind::Internal, what)?;
    tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS)
        .layer(observe)
        .serve_with_incoming_shutdown(routes, incoming, drain.cancelled())
        .await
        .context(ErrorKind::Internal, what)
}

/// Adds health and reflection.
fn with_operation(
    routes: Routes,
    names: &'static [&'static str],
    drain: CancellationToken,
) -> Result<Routes> {
    let (v1, v1alpha) = reflection::services(names)?;
    let health = HealthServer::new(health::Service::new(names, drain));
    Ok(routes.add_service(health).add_service(v1).add_service(v1alpha))
}
