//! One file a service, and the router over all of them.

mod content;
mod diff;
mod events;
mod images;
mod introspection;
mod leases;
mod namespaces;
mod snapshots;
mod streaming;
mod transfer;
mod version;

use tonic::service::Routes;

use crate::Daemon;
use crate::api::containerd::services as api;

/// The most bytes that a message may have, in and out.
pub const MESSAGE_LIMIT: usize = 16 << 20;

/// All services of the API, each in front of `daemon`.
#[must_use]
pub fn routes(daemon: &Daemon) -> Routes {
    macro_rules! service {
        ($module:ident, $server_module:ident, $server:ident) => {
            api::$module::v1::$server_module::$server::new($module::Service::new(daemon.clone()))
                .max_decoding_message_size(MESSAGE_LIMIT)
                .max_encoding_message_size(MESSAGE_LIMIT)
        };
    }
    let mut routes = Routes::builder();
    routes
        .add_service(service!(content, content_server, ContentServer))
        .add_service(service!(diff, diff_server, DiffServer))
        .add_service(service!(events, events_server, EventsServer))
        .add_service(service!(images, images_server, ImagesServer))
        .add_service(service!(introspection, introspection_server, IntrospectionServer))
        .add_service(service!(leases, leases_server, LeasesServer))
        .add_service(service!(namespaces, namespaces_server, NamespacesServer))
        .add_service(service!(snapshots, snapshots_server, SnapshotsServer))
        .add_service(service!(streaming, streaming_server, StreamingServer))
        .add_service(service!(transfer, transfer_server, TransferServer))
        .add_service(service!(version, version_server, VersionServer));
    routes.routes()
}
