//! A client of a daemon: the same [`Host`] that the engine is, over the API.
//!
//! The traits block, the API does not: calls run on a runtime of the client's own and are waited
//! for by channel, so that they can be made from any thread.

mod calls;
mod contents;
mod error;
mod images;
mod operation;
mod pull;
mod read;
mod snapshots;
mod unpack;
mod write;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dist::{Contents, Host, Images};
use dist_core::{
    Context as _, Error, ErrorKind, LeaseId, Namespace, Result, ResultExt as _, Snapshotter,
};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};

use self::calls::Calls;
use self::contents::RemoteContents;
use self::error::error;
pub use self::error::{Answered, Reason};
use self::images::RemoteImages;
pub use self::pull::RemotePuller;
use self::snapshots::RemoteSnapshots;
use crate::api::containerd::services::version::v1::version_client::VersionClient;
use crate::services::MESSAGE_LIMIT;
use crate::{LEASE_HEADER, NAMESPACE_HEADER};

/// A connection to a daemon, in one namespace. Clones share it.
#[derive(Clone)]
pub struct Client {
    calls: Arc<Calls>,
    channel: Channel,
    namespace: Namespace,
    /// Where what is made is kept.
    lease: Option<LeaseId>,
}

impl Client {
    /// Connects to the unix socket at `address`, a path with or without `unix://` before it.
    ///
    /// # Errors
    /// `InvalidArgument` for an address that is no path; `Unavailable` where nobody
    /// listens there, or answers, within `timeout`; `PermissionDenied`.
    pub fn connect(address: &str, timeout: Duration, namespace: Namespace) -> Result<Self> {
        let path = socket_path(address)?;
        let shown = path.display().to_string();
        let what = || format!("connect to {shown}");
        let calls = Calls::start()?;
        let to = path.clone();
        let connecting = async move {
            // Asked first and alone: its error says more than the transport's.
            tokio::time::timeout(timeout, reach(&to)).await.map_err(|_| unanswered(timeout))?
        };
        calls.wait(connecting).during(what)?;
        // The runtime has to be entered: the channel keeps a task on it.
        let _entered = calls.handle().enter();
        let channel = Endpoint::from_static("http://localhost")
            .initial_stream_window_size(8 << 20)
            .initial_connection_window_size(16 << 20)
            .connect_with_connector_lazy(tower::service_fn(move |_| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            }));
        drop(_entered);
        // A process that was stopped still has its connections accepted: whether it answers is
        // known by an answer, whatever that says.
        let mut version = VersionClient::new(channel.clone());
        let asking = async move {
            let answer = tokio::time::timeout(timeout, version.version(())).await;
            answer.map_err(|_| unanswered(timeout))
        };
        let answer = calls.wait(asking).during(what)?;
        if let Err(status) = answer
            && status.code() == Code::PermissionDenied
        {
            return Err(error(status)).during(what);
        }
        Ok(Self { calls: Arc::new(calls), channel, namespace, lease: None })
    }

    /// Waits for a call, from whatever thread.
    fn wait<T, F>(&self, call: F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        self.calls.wait(call)
    }

    /// Makes one call and waits for its answer.
    fn call<T, A, F>(&self, message: T, call: impl FnOnce(Channel, Request<T>) -> F) -> Result<A>
    where
        A: Send + 'static,
        F: Future<Output = Result<Response<A>, Status>> + Send + 'static,
    {
        let calling = call(self.channel.clone(), self.request(message));
        self.wait(async move { calling.await.map_err(error) }).map(Response::into_inner)
    }

    /// Makes one call that is answered in parts, and waits for all of them.
    fn call_for_all<T, A, F>(
        &self,
        message: T,
        call: impl FnOnce(Channel, Request<T>) -> F,
    ) -> Result<Vec<A>>
    where
        A: Send + 'static,
        F: Future<Output = Result<Response<Streaming<A>>, Status>> + Send + 'static,
    {
        let calling = call(self.channel.clone(), self.request(message));
        self.wait(async move {
            let mut answers = calling.await.map_err(error)?.into_inner();
            let mut found = Vec::new();
            while let Some(answer) = answers.message().await.map_err(error)? {
                found.push(answer);
            }
            Ok(found)
        })
    }

    /// A request in this client's namespace.
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        // A namespace is letters, digits and signs: always a header's value.
        if let Ok(name) = self.namespace.as_str().parse() {
            request.metadata_mut().insert(NAMESPACE_HEADER, name);
        }
        // A lease that is no header's value was not made by this side.
        if let Some(Ok(lease)) = self.lease.as_ref().map(|lease| lease.as_str().parse()) {
            request.metadata_mut().insert(LEASE_HEADER, lease);
        }
        request
    }
}

impl Host for Client {
    fn contents(&self) -> Arc<dyn Contents> {
        Arc::new(RemoteContents::new(self.clone(), dist::root_label()))
    }

    fn images(&self) -> Arc<dyn Images> {
        Arc::new(RemoteImages::new(self.clone()))
    }

    fn snapshotters(&self) -> Result<Vec<Arc<dyn Snapshotter>>> {
        let found = snapshots::find(self, None)?;
        Ok(found.into_iter().map(|one| Arc::new(one) as Arc<dyn Snapshotter>).collect())
    }

    fn snapshotter(&self, name: &str) -> Result<Arc<dyn Snapshotter>> {
        let found: Option<RemoteSnapshots> = snapshots::find(self, Some(name))?.pop();
        let found = found.ok_or_else(|| {
            let message = format!("open snapshotter {name:?}: the daemon has none of that name");
            Error::new(ErrorKind::InvalidArgument, message)
        })?;
        Ok(Arc::new(found))
    }
}

fn unanswered(timeout: Duration) -> Error {
    Error::new(ErrorKind::Unavailable, format!("nobody answers within {timeout:?}"))
}

/// Fails as connecting does, and keeps no connection.
async fn reach(path: &Path) -> Result<()> {
    match UnixStream::connect(path).await {
        Ok(_) => Ok(()),
        Err(error) => {
            let kind = match error.kind() {
                std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
                _ => ErrorKind::Unavailable,
            };
            Err(error).context(kind, || "reach the daemon".into())
        }
    }
}

/// The path of the unix socket that an address means: a path, with or without `unix://` before it.
///
/// # Errors
/// `InvalidArgument` for an address of another kind.
pub fn socket_path(address: &str) -> Result<PathBuf> {
    let what = || format!("read address {address:?}");
    let path = ["unix://", "unix:"].iter().find_map(|scheme| address.strip_prefix(scheme));
    let path = path.unwrap_or(address);
    let is_port = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let over_tcp =
        !path.contains('/') && path.rsplit_once(':').is_some_and(|(_, port)| is_port(port));
    if path.is_empty() || path.contains("://") || over_tcp {
        let message = format!("{}: it is no path of a unix socket", what());
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    std::path::absolute(path).context(ErrorKind::InvalidArgument, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_paths() {
        for good in ["/run/x.sock", "unix:///run/x.sock", "unix:/run/x.sock"] {
            assert_eq!(socket_path(good).unwrap(), Path::new("/run/x.sock"), "{good}");
        }
        assert!(socket_path("x.sock").unwrap().is_absolute());
        for bad in ["", "unix://", "tcp://127.0.0.1:1", "http://x/", "127.0.0.1:1", "[::1]:1"] {
            assert_eq!(socket_path(bad).unwrap_err().kind(), ErrorKind::InvalidArgument, "{bad}");
        }
    }
}
