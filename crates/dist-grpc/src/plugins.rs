//! What introspection lists: the parts that are really there, under the names clients look for.
//!
//! Clients that build images, as buildkitd, take the platforms that they build for from the runtime.

use std::collections::HashMap;
use std::path::Path;

use dist_core::Platform;
use tonic::Code;

use crate::api::containerd::services::introspection::v1::Plugin;
use crate::api::containerd::types;
use crate::api::google::rpc::Status;

const CONTENT: &str = "io.containerd.content.v1";
const DIFFER: &str = "io.containerd.differ.v1";
const EVENT: &str = "io.containerd.event.v1";
const GC: &str = "io.containerd.gc.v1";
const GRPC: &str = "io.containerd.grpc.v1";
const LEASE: &str = "io.containerd.lease.v1";
const METADATA: &str = "io.containerd.metadata.v1";
const RUNTIME: &str = "io.containerd.runtime.v2";
const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1";
const STREAMING: &str = "io.containerd.streaming.v1";
const TRANSFER: &str = "io.containerd.transfer.v1";

/// Everything, for a store at `root`.
pub(crate) fn all(root: &Path) -> Vec<Plugin> {
    let mut plugins = vec![
        plugin(CONTENT, "content", &[]).exporting(&root.join("content")),
        plugin(EVENT, "exchange", &[]),
        plugin(METADATA, "sqlite", &[EVENT, CONTENT, SNAPSHOTTER]).exporting(root),
        plugin(GC, "scheduler", &[METADATA]),
        plugin(LEASE, "manager", &[METADATA]),
        plugin(RUNTIME, "task", &[EVENT, METADATA]).on_this_platform(),
        plugin(DIFFER, "walking", &[METADATA]).on_this_platform(),
        plugin(STREAMING, "manager", &[METADATA]),
        plugin(TRANSFER, "local", &[LEASE, METADATA, DIFFER]),
    ];
    for (name, works) in dist_snapshot::all() {
        let dir = root.join("snapshots").join(name);
        let mut snapshotter = plugin(SNAPSHOTTER, name, &[]).exporting(&dir).on_this_platform();
        if dist_snapshot::can_rebase(name) {
            snapshotter.capabilities.push("rebase".to_owned());
        }
        if !works {
            snapshotter.init_err = Some(Status {
                code: Code::Unimplemented as i32,
                message: format!("{name} cannot be mounted by this process: skip plugin"),
                details: Vec::new(),
            });
        }
        plugins.push(snapshotter);
    }
    for (service, needs) in [
        ("containers", METADATA),
        ("content", CONTENT),
        ("diff", DIFFER),
        ("events", EVENT),
        ("healthcheck", ""),
        ("images", METADATA),
        ("introspection", ""),
        ("leases", LEASE),
        ("namespaces", METADATA),
        ("snapshots", SNAPSHOTTER),
        ("streaming", STREAMING),
        ("tasks", RUNTIME),
        ("transfer", TRANSFER),
        ("version", ""),
    ] {
        let needs = [needs];
        plugins.push(plugin(GRPC, service, if needs == [""] { &[] } else { &needs }));
    }
    plugins
}

fn plugin(kind: &str, id: &str, requires: &[&str]) -> Plugin {
    Plugin {
        r#type: kind.to_owned(),
        id: id.to_owned(),
        requires: requires.iter().map(|&name| name.to_owned()).collect(),
        platforms: Vec::new(),
        exports: HashMap::new(),
        capabilities: Vec::new(),
        init_err: None,
    }
}

impl Plugin {
    fn exporting(mut self, root: &Path) -> Self {
        self.exports.insert("root".to_owned(), root.to_string_lossy().into_owned());
        self
    }

    fn on_this_platform(mut self) -> Self {
        let host = Platform::host();
        // Clients name builds after this; what an amd64 can do beyond the first of its kind is no
        // part of a platform's name for them.
        let variant = host.variant.filter(|_| host.architecture != "amd64").unwrap_or_default();
        self.platforms.push(types::Platform {
            os: host.os,
            architecture: host.architecture,
            variant,
            ..types::Platform::default()
        });
        self
    }
}
