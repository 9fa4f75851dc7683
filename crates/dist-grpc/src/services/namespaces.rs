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

use crate::api::containerd::events::{NamespaceCreate, NamespaceDelete, NamespaceUpdate};
use crate::api::containerd::services::namespaces::v1 as api;
use crate::api::containerd::services::namespaces::v1::namespaces_server::Namespaces;
use crate::daemon::blocking;
use crate::mask::{self, MapField};
use crate::translate::{hash_map, required, status};
use crate::{Daemon, context};

/// The service.
pub(crate) struct Service {
    daemon: Daemon,
}

impl Service {
    pub(crate) fn new(daemon: Daemon) -> Self {
        Self { daemon }
    }

    /// Does the blocking `work` of a request.
    async fn work<A: Send + 'static>(
        &self,
        work: impl FnOnce(&NamespaceStore) -> Result<A> + Send + 'static,
    ) -> Result<A, Status> {
        let namespaces = self.daemon.engine().store().namespaces();
        blocking(move || work(&namespaces)).await.map_err(|error| status(&error))
    }

    /// Says what was done, in the namespace of the request or, where that has none, in the one that
    /// changed.
    fn changed<M: Name>(&self, by: &MetadataMap, name: &Namespace, topic: &str, event: &M) {
        let namespace = context::namespace(by).unwrap_or_else(|_| name.clone());
        self.daemon.publish(&namespace, topic, event);
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
        let name = request.into_inner().name;
        let work = move |namespaces: &NamespaceStore| {
            let labels = match name.parse() {
                Ok(known) => namespaces.labels(&known)?.unwrap_or_default(),
                Err(_) => Labels::new(),
            };
            let namespace = Some(api::Namespace { name, labels: hash_map(&labels) });
            Ok(Response::new(api::GetNamespaceResponse { namespace }))
        };
        self.work(work).await
    }

    async fn list(
        &self,
        _request: Request<api::ListNamespacesRequest>,
    ) -> Result<Response<api::ListNamespacesResponse>, Status> {
        let work = |namespaces: &NamespaceStore| {
            let list = namespaces.list()?;
            let namespaces =
                list.iter().map(|(name, labels)| api_namespace(name, labels)).collect();
            Ok(Response::new(api::ListNamespacesResponse { namespaces }))
        };
        self.work(work).await
    }

    async fn create(
        &self,
        request: Request<api::CreateNamespaceRequest>,
    ) -> Result<Response<api::CreateNamespaceResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let work = move |namespaces: &NamespaceStore| {
            let namespace = required(request.namespace, "namespace")?;
            let name = new_name(&namespace.name)?;
            let labels: Labels = namespace.labels.into_iter().collect();
            check(&labels)?;
            namespaces.create(&name, &labels)?;
            Ok((name, labels))
        };
        let (name, labels) = self.work(work).await?;
        let event = NamespaceCreate { name: name.to_string(), labels: hash_map(&labels) };
        self.changed(&metadata, &name, "/namespaces/create", &event);
        let namespace = Some(api_namespace(&name, &labels));
        Ok(Response::new(api::CreateNamespaceResponse { namespace }))
    }

    async fn update(
        &self,
        request: Request<api::UpdateNamespaceRequest>,
    ) -> Result<Response<api::UpdateNamespaceResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let work = move |namespaces: &NamespaceStore| {
            let namespace = required(request.namespace, "namespace")?;
            let name = new_name(&namespace.name)?;
            let change = change(namespace, request.update_mask)?;
            check(change.labels())?;
            let labels = namespaces.update(&name, &change)?;
            Ok((name, change, labels))
        };
        let (name, change, labels) = self.work(work).await?;
        let event = NamespaceUpdate { name: name.to_string(), labels: hash_map(change.labels()) };
        self.changed(&metadata, &name, "/namespaces/update", &event);
        let namespace = Some(api_namespace(&name, &labels));
        Ok(Response::new(api::UpdateNamespaceResponse { namespace }))
    }

    async fn delete(
        &self,
        request: Request<api::DeleteNamespaceRequest>,
    ) -> Result<Response<()>, Status> {
        let name = request.into_inner().name;
        let work = move |namespaces: &NamespaceStore| {
            let known: Namespace =
                name.parse().context(ErrorKind::NotFound, || format!("namespace {name:?}"))?;
            namespaces.delete(&known)?;
            Ok(known)
        };
        let name = self.work(work).await?;
        self.daemon.publish(
            &name,
            "/namespaces/delete",
            &NamespaceDelete { name: name.to_string() },
        );
        self.daemon.mutated(1);
        Ok(Response::new(()))
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
