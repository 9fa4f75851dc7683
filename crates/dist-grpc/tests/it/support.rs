//! Both sockets of a daemon on an empty store, served by the test itself.

use std::path::PathBuf;
use std::time::Duration;

use dist::{Engine, EngineConfig};
use dist_core::Namespace;
use dist_grpc::server::{self, Access, Socket, SocketOptions, Sockets};
use dist_grpc::{Daemon, DaemonOptions, GcSchedule, LEASE_HEADER, NAMESPACE_HEADER};
use dist_layer::Limits;
use dist_registry::RegistryOptions;
use dist_store::{Durability, OpenMode, Sharing};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

/// A daemon that answers as long as the test's runtime lives.
pub(crate) struct Served {
    pub(crate) engine: Engine,
    dir: dist_testutil::Scratch,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<dist_core::Result<()>>,
}

impl Served {
    /// Serves an empty store whose default snapshotter is `snapshotter`; nothing is collected before
    /// somebody asks for it.
    pub(crate) fn new(snapshotter: &str) -> Self {
        const NEVER: Duration = Duration::from_secs(1 << 30);
        let gc =
            GcSchedule { schedule_delay: NEVER, startup_delay: NEVER, ..GcSchedule::default() };
        Self::with(snapshotter, gc)
    }

    /// The same, with a daemon that collects by itself.
    pub(crate) fn collecting(snapshotter: &str) -> Self {
        Self::with(snapshotter, GcSchedule::default())
    }

    fn with(snapshotter: &str, gc: GcSchedule) -> Self {
        let dir = dist_testutil::scratch();
        let engine = Engine::open(EngineConfig {
            root: dir.path().join("root"),
            mode: OpenMode::Create,
            namespace: Namespace::default(),
            snapshotter: Some(snapshotter.to_owned()),
            durability: Durability::default(),
            discard_blobs: false,
            limits: Limits::default(),
            policy: None,
            registry: RegistryOptions::default(),
        })
        .unwrap();
        let options = DaemonOptions {
            version: "1".to_owned(),
            revision: String::new(),
            content_sharing: Sharing::default(),
            gc,
            programs: std::env::var_os("PATH"),
        };
        let daemon = Daemon::new(engine.clone(), options);
        let bind = |name: &str| {
            let path = dir.path().join(name);
            let options = SocketOptions { path, mode: 0o600, owner: None, group: None };
            Socket::bind(&options, Access::default()).unwrap()
        };
        let sockets =
            Sockets { api: bind("socket"), backend: Some(bind("backend")), metrics: None };
        let (stop, stopped) = oneshot::channel();
        let stopped = async {
            let _ = stopped.await;
        };
        let serving = tokio::spawn(server::serve(daemon, sockets, stopped));
        Self { engine, dir, stop, serving }
    }

    /// Ends in order; the store stays for as long as the directory is held.
    pub(crate) async fn stop(self) -> dist_testutil::Scratch {
        self.stop.send(()).unwrap();
        self.serving.await.unwrap().unwrap();
        self.dir
    }

    /// A path in the test's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A connection to the clients' socket.
    pub(crate) fn channel(&self) -> Channel {
        connect(self.path("socket"))
    }

    /// A connection to the backend socket.
    pub(crate) fn backend(&self) -> Channel {
        connect(self.path("backend"))
    }
}

/// A connection to the unix socket at `path`.
pub(crate) fn connect(path: PathBuf) -> Channel {
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector)
}

/// A request in the namespace `default`.
pub(crate) fn request<T>(message: T) -> Request<T> {
    request_in("default", message)
}

/// A request in a namespace.
pub(crate) fn request_in<T>(namespace: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(NAMESPACE_HEADER, namespace.parse().unwrap());
    request
}

/// A request in the namespace `default` under a lease.
pub(crate) fn leased<T>(lease: &str, message: T) -> Request<T> {
    let mut request = request(message);
    request.metadata_mut().insert(LEASE_HEADER, lease.parse().unwrap());
    request
}

/// Fails unless `result` failed with `code` and a text that ends in the code's class.
#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(
    result: Result<Response<T>, Status>,
    code: Code,
) -> String {
    let status = result.unwrap_err();
    assert_eq!(status.code(), code, "{status:?}");
    let class = match code {
        Code::NotFound => ": not found",
        Code::AlreadyExists => ": already exists",
        Code::InvalidArgument => ": invalid argument",
        Code::FailedPrecondition => ": failed precondition",
        Code::Unimplemented => ": not implemented",
        Code::Unavailable => ": unavailable",
        Code::OutOfRange => ": out of range",
        Code::Aborted => ": aborted",
        other => panic!("no class for {other}"),
    };
    assert!(status.message().ends_with(class), "{status:?}");
    status.message().to_owned()
}
