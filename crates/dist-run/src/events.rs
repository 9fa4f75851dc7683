//! What shims tell: the socket in a store's root on which its daemon hears it.
//!
//! A shim calls `containerd.services.events.ttrpc.v1.Events/Forward` on the socket that it was told
//! of when it was started, and tries again a few times where nobody answers. The socket's place is the
//! store's, not the daemon's: the next daemon hears the shims of this one. It stays when a daemon ends,
//! because a shim asks again and again for one that is not there, and at once hears no from one that is.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use dist_core::{Any, Context as _, ErrorKind, Result};
use dist_store::Store;
use prost::Message as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use crate::containers::events_socket;
use crate::proto;
use crate::ttrpc::{REQUEST, RESPONSE, frame, read_frame};

const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";

const UNIMPLEMENTED: i32 = 12;

const INVALID_ARGUMENT: i32 = 3;

/// What happened, as a shim tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct ShimEvent {
    /// When.
    pub at: prost_types::Timestamp,
    /// The namespace of the container.
    pub namespace: String,
    /// What, as `/tasks/exit`.
    pub topic: String,
    /// More of it.
    pub event: Any,
}

/// The socket on which shims are heard.
#[derive(Debug)]
pub struct EventSocket(std::os::unix::net::UnixListener);

impl EventSocket {
    /// Makes the socket of a store, in place of that of a daemon that is gone. Nobody but the caller
    /// may serve the store.
    ///
    /// # Errors
    /// `InvalidArgument` for a root whose path is too long for a socket; `Storage`.
    pub fn bind(store: &Store) -> Result<Self> {
        let path = events_socket(store);
        let what = || format!("make socket {}", path.display());
        std::os::unix::net::SocketAddr::from_pathname(&path)
            .context(ErrorKind::InvalidArgument, what)?;
        let bind = || {
            if let Some(dir) = path.parent() {
                std::fs::create_dir_all(dir)?;
            }
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => (),
            }
            let listener = std::os::unix::net::UnixListener::bind(&path)?;
            // The root lets nobody in; this says it once more.
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        bind().context(ErrorKind::Storage, what).map(Self)
    }

    /// Hears shims until `stop` ends, and hands on what they tell, of each shim in its order.
    ///
    /// # Errors
    /// `Internal` where the socket can't be listened on.
    pub async fn serve(
        self,
        tell: impl Fn(ShimEvent) + Send + Sync + 'static,
        stop: impl Future<Output = ()>,
    ) -> Result<()> {
        let what = || "listen for shims".to_owned();
        let listener = UnixListener::from_std(self.0).context(ErrorKind::Internal, what)?;
        let tell = Arc::new(tell);
        let mut shims = JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => return Ok(()),
                Some(_) = shims.join_next() => (),
                accepted = listener.accept() => match accepted {
                    Ok((shim, _)) => drop(shims.spawn(hear(shim, tell.clone()))),
                    Err(error) => {
                        tracing::warn!(%error, "a shim is not heard");
                        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    }
                },
            }
        }
    }
}

/// Answers one shim until it goes.
async fn hear(shim: UnixStream, tell: Arc<impl Fn(ShimEvent)>) {
    let (mut from, mut to) = shim.into_split();
    loop {
        let (stream, request) = match read_frame::<proto::Request>(&mut from, REQUEST).await {
            Ok(read) => read,
            Err(error) => return tracing::debug!(%error, "a shim says no more"),
        };
        let status = match event(&request) {
            Ok(event) => {
                tell(event);
                None
            }
            Err((code, message)) => {
                tracing::warn!(message, service = request.service, "a shim was not understood");
                Some(proto::RpcStatus { code, message: message.to_owned() })
            }
        };
        let response = proto::Response { status, payload: Vec::new() };
        let frame = frame(stream, RESPONSE, &response.encode_to_vec());
        if let Err(error) = to.write_all(&frame).await {
            return tracing::debug!(%error, "a shim does not read");
        }
    }
}

fn event(request: &proto::Request) -> std::result::Result<ShimEvent, (i32, &'static str)> {
    if (request.service.as_str(), request.method.as_str()) != (SERVICE, "Forward") {
        return Err((UNIMPLEMENTED, "events are forwarded here, and nothing else"));
    }
    let bad = (INVALID_ARGUMENT, "that is no event");
    let forward = proto::ForwardRequest::decode(&*request.payload).map_err(|_| bad)?;
    let envelope = forward.envelope.ok_or(bad)?;
    let event = envelope.event.ok_or(bad)?;
    Ok(ShimEvent {
        at: envelope.timestamp.ok_or(bad)?,
        namespace: envelope.namespace,
        topic: envelope.topic,
        event: Any { type_url: event.type_url, value: event.value },
    })
}
