//! `containerd.services.leases.v1`.

use dist_core::{
    Context as _, Error, ErrorKind, Filter, Labels, Lease, LeaseId, Namespace, Resource, Result,
    check_labels,
};
use dist_store::LeaseStore;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::answer::{answer, reply};
use crate::api::containerd::services::leases::v1 as api;
use crate::api::containerd::services::leases::v1::leases_server::Leases;
use crate::translate::{hash_map, required, timestamp, worded};
use crate::{Daemon, context, filters};

/// The service.
pub(crate) struct Service {
    daemon: Daemon,
}

impl Service {
    pub(crate) fn new(daemon: Daemon) -> Self {
        Self { daemon }
    }

    fn space(&self, metadata: &MetadataMap) -> Result<Space> {
        let namespace = context::namespace(metadata)?;
        let daemon = self.daemon.clone();
        let leases = daemon.engine().store().leases(&namespace);
        Ok(Space { daemon, namespace, leases })
    }
}

/// The leases that a request can see.
struct Space {
    daemon: Daemon,
    namespace: Namespace,
    leases: LeaseStore,
}

impl Space {
    /// Does something to a lease with a resource that a request names.
    fn on_resource(
        &self,
        id: &str,
        resource: Option<api::Resource>,
        work: impl FnOnce(&LeaseStore, &LeaseId, &Resource) -> Result<()>,
    ) -> Result<()> {
        let resource = required(resource, "resource")?;
        let lease = known_id(id)?;
        worded(self.leases.get(&lease), ErrorKind::NotFound, || named(id))?;
        let resource = read_resource(&resource)?;
        worded(work(&self.leases, &lease, &resource), ErrorKind::NotFound, || named(id))
    }
}

#[tonic::async_trait]
impl Leases for Service {
    async fn create(
        &self,
        request: Request<api::CreateRequest>,
    ) -> Result<Response<api::CreateResponse>, Status> {
        let work = |space: &Space, request: api::CreateRequest| {
            let labels: Labels = request.labels.into_iter().collect();
            check_labels(&labels)?;
            let id = if request.id.is_empty() { None } else { Some(new_id(&request.id)?) };
            let lease = space.leases.create(id, &labels)?;
            space.daemon.mutated(0);
            Ok(api::CreateResponse { lease: Some(api_lease(&lease)) })
        };
        answer(request, |metadata, _| self.space(metadata), work).await
    }

    async fn delete(&self, request: Request<api::DeleteRequest>) -> Result<Response<()>, Status> {
        let sync = request.get_ref().sync;
        let work = |space: &Space, api::DeleteRequest { id, .. }: api::DeleteRequest| {
            let lease = known_id(&id)?;
            worded(space.leases.delete(&lease), ErrorKind::NotFound, || named(&id))?;
            space.daemon.streams().end_leased(&space.namespace, &lease);
            space.daemon.mutated(1);
            Ok(())
        };
        let deleted = answer(request, |metadata, _| self.space(metadata), work).await?;
        if sync { reply(self.daemon.collect().await) } else { Ok(deleted) }
    }

    async fn list(
        &self,
        request: Request<api::ListRequest>,
    ) -> Result<Response<api::ListResponse>, Status> {
        let work = |space: &Space, request: api::ListRequest| {
            let filter = Filter::parse(&request.filters)?;
            let mut found = space.leases.list()?;
            found.retain(|lease| filter.matches(&filters::Of(lease)));
            let leases = found.iter().map(api_lease).collect();
            Ok(api::ListResponse { leases })
        };
        answer(request, |metadata, _| self.space(metadata), work).await
    }

    async fn add_resource(
        &self,
        request: Request<api::AddResourceRequest>,
    ) -> Result<Response<()>, Status> {
        let work = |space: &Space, request: api::AddResourceRequest| {
            space.on_resource(&request.id, request.resource, LeaseStore::add)?;
            space.daemon.mutated(0);
            Ok(())
        };
        answer(request, |metadata, _| self.space(metadata), work).await
    }

    async fn delete_resource(
        &self,
        request: Request<api::DeleteResourceRequest>,
    ) -> Result<Response<()>, Status> {
        let work = |space: &Space, request: api::DeleteResourceRequest| {
            space.on_resource(&request.id, request.resource, LeaseStore::remove)?;
            space.daemon.mutated(1);
            Ok(())
        };
        answer(request, |metadata, _| self.space(metadata), work).await
    }

    async fn list_resources(
        &self,
        request: Request<api::ListResourcesRequest>,
    ) -> Result<Response<api::ListResourcesResponse>, Status> {
        let work = |space: &Space, api::ListResourcesRequest { id }: api::ListResourcesRequest| {
            let found = space.leases.resources(&known_id(&id)?);
            let resources = worded(found, ErrorKind::NotFound, || named(&id))?;
            let resources = resources.iter().map(api_resource).collect();
            Ok(api::ListResourcesResponse { resources })
        };
        answer(request, |metadata, _| self.space(metadata), work).await
    }
}

/// How a lease is called in errors.
fn named(id: &str) -> String {
    format!("lease {id:?}")
}

/// An id that should be there: what can't be one is not.
fn known_id(id: &str) -> Result<LeaseId> {
    id.parse().context(ErrorKind::NotFound, || named(id))
}

/// An id that a request gives to a new lease.
fn new_id(id: &str) -> Result<LeaseId> {
    id.parse().context(ErrorKind::InvalidArgument, || named(id))
}

/// A resource from the API: `content`, `ingests`, `images` or `snapshots/SNAPSHOTTER`.
fn read_resource(resource: &api::Resource) -> Result<Resource> {
    let api::Resource { id, r#type } = resource;
    let refuse = |kind, message: String| Err(Error::new(kind, message));
    let (kind, rest) = match r#type.split_once('/') {
        Some((kind, rest)) => (kind, Some(rest)),
        None => (r#type.as_str(), None),
    };
    let invalid = || format!("invalid {kind} resource id {id}");
    match (kind, rest) {
        ("content", None) => {
            Ok(Resource::Content(id.parse().context(ErrorKind::InvalidArgument, invalid)?))
        }
        ("ingests", None) => {
            Ok(Resource::Ingest(id.parse().context(ErrorKind::InvalidArgument, invalid)?))
        }
        ("images", None) => {
            Ok(Resource::Image(id.parse().context(ErrorKind::InvalidArgument, invalid)?))
        }
        ("snapshots", Some(snapshotter))
            if !snapshotter.is_empty() && !snapshotter.contains('/') =>
        {
            let key = id.parse().context(ErrorKind::InvalidArgument, invalid)?;
            Ok(Resource::Snapshot { snapshotter: snapshotter.into(), key })
        }
        ("snapshots", _) => {
            refuse(ErrorKind::InvalidArgument, format!("invalid snapshot resource type {type}"))
        }
        ("content" | "ingests" | "images", Some(_)) => {
            refuse(ErrorKind::InvalidArgument, format!("invalid resource type {type}"))
        }
        _ => refuse(ErrorKind::Unsupported, format!("resource type {type} not supported yet")),
    }
}

pub(crate) fn api_resource(resource: &Resource) -> api::Resource {
    let (r#type, id) = match resource {
        Resource::Content(digest) => ("content".to_owned(), digest.to_string()),
        Resource::Ingest(key) => ("ingests".to_owned(), key.to_string()),
        Resource::Image(name) => ("images".to_owned(), name.to_string()),
        Resource::Snapshot { snapshotter, key } => {
            (format!("snapshots/{snapshotter}"), key.to_string())
        }
    };
    api::Resource { id, r#type }
}

fn api_lease(lease: &Lease) -> api::Lease {
    api::Lease {
        id: lease.id.to_string(),
        created_at: Some(timestamp(lease.created_at)),
        labels: hash_map(&lease.labels),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_have_types() {
        let digest = dist_core::Digest::sha256(b"").to_string();
        for (r#type, id, expected) in [
            ("content", digest.as_str(), None),
            ("ingests", "a ref", None),
            ("images", "docker.io/library/x:1", None),
            ("snapshots/overlayfs", "a key", None),
            ("content", "sha256:12", Some(ErrorKind::InvalidArgument)),
            ("content/x", &digest, Some(ErrorKind::InvalidArgument)),
            ("snapshots", "a", Some(ErrorKind::InvalidArgument)),
            ("snapshots/", "a", Some(ErrorKind::InvalidArgument)),
            ("snapshots/a/b", "a", Some(ErrorKind::InvalidArgument)),
            ("containers", "a", Some(ErrorKind::Unsupported)),
            ("", "a", Some(ErrorKind::Unsupported)),
        ] {
            let resource = api::Resource { r#type: r#type.to_owned(), id: id.to_owned() };
            match read_resource(&resource) {
                Ok(read) => assert_eq!((api_resource(&read), None), (resource, expected)),
                Err(error) => assert_eq!(Some(error.kind()), expected, "{type}"),
            }
        }
    }
}
