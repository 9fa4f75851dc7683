//! One file a service, and the router over all of them.

mod containers;
mod content;
mod diff;
mod events;
mod images;
mod introspection;
pub(crate) mod leases;
mod namespaces;
mod snapshots;
mod streaming;
mod tasks;
mod transfer;
mod version;

use tonic::service::Routes;

use crate::Daemon;
use crate::api::containerd::services as api;
use crate::backend::Realm;

/// The most bytes that a message may have, in and out.
pub(crate) const MESSAGE_LIMIT: usize = 16 << 20;

/// A service of the API in front of a daemon, with the limits that all have.
macro_rules! service {
    ($module:ident, $server_module:ident, $server:ident, $($argument:expr),+) => {
        api::$module::v1::$server_module::$server::new($module::Service::new($($argument),+))
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT)
    };
}

/// The full names of the services of the API.
pub(crate) const NAMES: [&str; 13] = [
    api::containers::v1::containers_server::SERVICE_NAME,
    api::content::v1::content_server::SERVICE_NAME,
    api::diff::v1::diff_server::SERVICE_NAME,
    api::events::v1::events_server::SERVICE_NAME,
    api::images::v1::images_server::SERVICE_NAME,
    api::introspection::v1::introspection_server::SERVICE_NAME,
    api::leases::v1::leases_server::SERVICE_NAME,
    api::namespaces::v1::namespaces_server::SERVICE_NAME,
    api::snapshots::v1::snapshots_server::SERVICE_NAME,
    api::streaming::v1::streaming_server::SERVICE_NAME,
    api::tasks::v1::tasks_server::SERVICE_NAME,
    api::transfer::v1::transfer_server::SERVICE_NAME,
    api::version::v1::version_server::SERVICE_NAME,
];

/// The full names of the services of the backend socket.
pub(crate) const BACKEND_NAMES: [&str; 2] = [
    api::content::v1::content_server::SERVICE_NAME,
    api::snapshots::v1::snapshots_server::SERVICE_NAME,
];

/// All services of the API, each in front of `daemon`.
pub(crate) fn routes(daemon: &Daemon) -> Routes {
    let daemon = || daemon.clone();
    let mut routes = Routes::builder();
    routes
        .add_service(service!(containers, containers_server, ContainersServer, daemon()))
        .add_service(service!(content, content_server, ContentServer, daemon(), Realm::Namespaced))
        .add_service(service!(diff, diff_server, DiffServer, daemon()))
        .add_service(service!(events, events_server, EventsServer, daemon()))
        .add_service(service!(images, images_server, ImagesServer, daemon()))
        .add_service(service!(introspection, introspection_server, IntrospectionServer, daemon()))
        .add_service(service!(leases, leases_server, LeasesServer, daemon()))
        .add_service(service!(namespaces, namespaces_server, NamespacesServer, daemon()))
        .add_service(service!(
            snapshots,
            snapshots_server,
            SnapshotsServer,
            daemon(),
            Realm::Namespaced
        ))
        .add_service(service!(streaming, streaming_server, StreamingServer, daemon()))
        .add_service(service!(tasks, tasks_server, TasksServer, daemon()))
        .add_service(service!(transfer, transfer_server, TransferServer, daemon()))
        .add_service(service!(version, version_server, VersionServer, daemon()));
    routes.routes()
}

/// The services of the backend socket: content and snapshots in the raw realm, see
/// [`crate::backend`].
pub(crate) fn backend_routes(daemon: &Daemon) -> Routes {
    let daemon = || daemon.clone();
    let mut routes = Routes::builder();
    routes
        .add_service(service!(content, content_server, ContentServer, daemon(), Realm::Raw))
        .add_service(service!(snapshots, snapshots_server, SnapshotsServer, daemon(), Realm::Raw));
    routes.routes()
}
