//! `containerd.services.namespaces.v1`: the one service whose requests need no namespace of their
//! own.

use dist_core::{
    Context as _, Error, ErrorKind, LabelChange, Labels, Namespace, Result, ResultExt as _,
    check_labels,
};
use dist_store::NamespaceStore;
use prost::Name;
use prost_types::FieldMask;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::answer::answer;
use crate::api::containerd::events::{NamespaceCreate, NamespaceDelete, NamespaceUpdate};
use crate::api::containerd::services::namespaces::v1 as api;
use crate::api::containerd::services::namespaces::v1::namespaces_server::Namespaces;
use crate::mask::{self, MapField};
use crate::translate::{hash_map, required};
use crate::{Daemon, context};

/// The service.
pub(crate) struct Service {
    daemon: Daemon,
}

impl Service {
    pub(crate) fn new(daemon: Daemon) -> Self {
        Self { daemon }
    }

    fn space(&self, metadata: &MetadataMap) -> Result<Space> {
        let daemon = self.daemon.clone();
        let namespaces = daemon.engine().store().namespaces();
        Ok(Space { daemon, from: context::namespace(metadata).ok(), namespaces })
    }
}

/// All namespaces, and the one of a request that names any.
struct Space {
    daemon: Daemon,
    from: Option<Namespace>,
    namespaces: NamespaceStore,
}

impl Space {
    /// Says what was done, in the namespace of the request or, where that has none, in the one that
    /// changed.
    fn changed<M: Name>(&self, name: &Namespace, topic: &str, event: &M) {
        self.daemon.publish(self.from.as_ref().unwrap_or(name), topic, event);
        self.daemon.mutated(0);
    }
}

#[tonic::async_trait]
impl Namespaces for Service {
    /// A namespace that is not there answers without labels: so clients ask for its defaults.
    async fn get(
        &self,
        request: Request<api::GetNamespaceRequest>,
    ) -> Result<Response<api::GetNamespaceResponse>, Status> {
        let work = |space: &Space, api::GetNamespaceRequest { name }: api::GetNamespaceRequest| {
            let labels = match name.parse() {
                Ok(known) => space.namespaces.labels(&known)?.unwrap_or_default(),
                Err(_) => Labels::new(),
            };
            let namespace = Some(api::Namespace { name, labels: hash_map(&labels) });
            Ok(api::GetNamespaceResponse { namespace })
        };
        answer(request, |metadata, _| self.space(metadata), work).await
    }

    async fn list(
        &self,
        request: Request<api::ListNamespacesRequest>,
    ) -> Result<Response<api::ListNamespacesResponse>, Status> {
        let work = |space: &Space, _: api::ListNamespacesRequest| {
            let list = space.namespaces.list()?;
            let namespaces =
                list.iter().map(|(name, labels)| api_namespace(name, labels)).collect();
            Ok(api::ListNamespacesResponse { namespaces })
        };
        answer(request, |metadata, _| self.space(metadata), work).await
    }

    async fn create(
        &self,
        request: Request<api::CreateNamespaceRequest>,
    ) -> Result<Response<api::CreateNamespaceResponse>, Status> {
        let work = |space: &Space, request: api::CreateNamespaceRequest| {
            let namespace = required(request.namespace, "namespace")?;
            let name = new_name(&namespace.name)?;
            let labels: Labels = namespace.labels.into_iter().collect();
            check(&labels)?;
            space.namespaces.create(&name, &labels)?;
            let event = NamespaceCreate { name: name.to_string(), labels: hash_map(&labels) };
            space.changed(&name, "/namespaces/create", &event);
            let namespace = Some(api_namespace(&name, &labels));
            Ok(api::CreateNamespaceResponse { namespace })
        };
        answer(request, |metadata, _| self.space(metadata), work).await
    }

    async fn update(
        &self,
        request: Request<api::UpdateNamespaceRequest>,
    ) -> Result<Response<api::UpdateNamespaceResponse>, Status> {
        let work = |space: &Space, request: api::UpdateNamespaceRequest| {
            let namespace = required(request.namespace, "namespace")?;
            let name = new_name(&namespace.name)?;
            let change = change(namespace, request.update_mask)?;
            check(change.labels())?;
            let labels = space.namespaces.update(&name, &change)?;
            let changed = hash_map(change.labels());
            let event = NamespaceUpdate { name: name.to_string(), labels: changed };
            space.changed(&name, "/namespaces/update", &event);
            let namespace = Some(api_namespace(&name, &labels));
            Ok(api::UpdateNamespaceResponse { namespace })
        };
        answer(request, |metadata, _| self.space(metadata), work).await
    }

    async fn delete(
        &self,
        request: Request<api::DeleteNamespaceRequest>,
    ) -> Result<Response<()>, Status> {
        let work = |space: &Space, request: api::DeleteNamespaceRequest| {
            let name = request.name;
            let known: Namespace =
                name.parse().context(ErrorKind::NotFound, || format!("namespace {name:?}"))?;
            space.namespaces.delete(&known)?;
            space.daemon.publish(&known, "/namespaces/delete", &NamespaceDelete { name });
            space.daemon.mutated(1);
            Ok(())
        };
        answer(request, |metadata, _| self.space(metadata), work).await
    }
}

/// What an update changes. Its mask can only name single labels.
fn change(namespace: api::Namespace, mask: Option<FieldMask>) -> Result<LabelChange> {
    let labels: Labels = namespace.labels.into_iter().collect();
    let paths = mask::paths(mask);
    if paths.is_empty() {
        return Ok(LabelChange::Replace(labels));
    }
    let mut field = MapField::new("labels", labels);
    if let Some(path) = paths.iter().find(|path| *path == "labels" || !field.select(path)) {
        let message = format!("cannot update {path:?} field");
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    Ok(field.change().unwrap_or_else(|| LabelChange::Merge(Labels::new())))
}

fn check(labels: &Labels) -> Result<()> {
    check_labels(labels).during(|| "namespace.Labels".into())
}

/// A name that a request gives to a namespace.
fn new_name(name: &str) -> Result<Namespace> {
    name.parse().context(ErrorKind::InvalidArgument, || format!("namespace {name:?}"))
}

fn api_namespace(name: &Namespace, labels: &Labels) -> api::Namespace {
    api::Namespace { name: name.to_string(), labels: hash_map(labels) }
}
