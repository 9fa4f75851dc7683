//! The methods that there are, so that neither logs nor metrics grow by what clients invent.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::Status;

use crate::api;

/// What is served on every socket.
pub(super) const EVERYWHERE: [&str; 3] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// The descriptors of all that may be served, encoded.
pub(super) const DESCRIPTORS: [&[u8]; 4] = [
    api::DESCRIPTORS,
    tonic_health::pb::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
];

/// Every method of every service.
pub(super) struct Methods {
    /// By path: `/package.Service/Method`.
    by_path: HashMap<String, Arc<str>>,
    unknown: Arc<str>,
}

impl Methods {
    /// Those of the services with these names, and of the ones that are everywhere.
    pub(super) fn new(names: &[&'static str]) -> Self {
        let served: HashSet<&str> = names.iter().copied().chain(EVERYWHERE).collect();
        let mut by_path = HashMap::new();
        for set in DESCRIPTORS {
            for (service, method) in methods(set) {
                if served.contains(&*service) {
                    let name = format!("{service}/{method}");
                    by_path.insert(format!("/{name}"), name.into());
                }
            }
        }
        Self { by_path, unknown: "unknown".into() }
    }

    /// The name of the method at a path, for logs and metrics.
    pub(super) fn name(&self, path: &str) -> Arc<str> {
        self.by_path.get(path).unwrap_or(&self.unknown).clone()
    }

    /// Fails for what is not there, in the words that Go's servers have for it.
    pub(super) fn check(&self, path: &str) -> Result<(), Status> {
        if self.by_path.contains_key(path) {
            return Ok(());
        }
        let Some((service, method)) = path.trim_start_matches('/').rsplit_once('/') else {
            return Err(Status::unimplemented(format!("malformed method name: {path:?}")));
        };
        let prefix = format!("/{service}/");
        if self.by_path.keys().any(|known| known.starts_with(&prefix)) {
            let text = format!("unknown method {method} for service {service}");
            return Err(Status::unimplemented(text));
        }
        Err(Status::unimplemented(format!("unknown service {service}")))
    }
}

/// The full names of all services, each with each of its methods.
fn methods(descriptors: &[u8]) -> Vec<(String, String)> {
    // What build.rs wrote, and what other crates ship, can be read.
    let set = FileDescriptorSet::decode(descriptors).unwrap_or_default();
    let mut methods = Vec::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                let service = format!("{}.{}", file.package(), service.name());
                methods.push((service, method.name().to_owned()));
            }
        }
    }
    methods
}
