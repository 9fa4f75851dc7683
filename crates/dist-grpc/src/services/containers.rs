//! `containerd.services.containers.v1`: what is to run, as clients have written it.

use std::collections::{BTreeMap, HashMap};

use dist_core::{
    Any, Container, ContainerId, Context as _, Error, ErrorKind, Filter, Labels, Namespace, Result,
    ResultExt as _, check_labels,
};
use dist_store::ContainerStore;
use futures_util::stream;
use prost_types::FieldMask;
use tonic::codegen::BoxStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::answer::{answer, reply};
use crate::api::containerd::events::container_create::Runtime as CreatedRuntime;
use crate::api::containerd::events::{ContainerCreate, ContainerDelete, ContainerUpdate};
use crate::api::containerd::services::containers::v1 as api;
use crate::api::containerd::services::containers::v1::containers_server::Containers;
use crate::daemon::whole;
use crate::mask::{self, MapField};
use crate::translate::{any, api_any, hash_map, required, timestamp, worded};
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
        let rows = daemon.engine().store().containers(&namespace);
        Ok(Space { daemon, namespace, rows })
    }
}

/// The containers that a request can see.
struct Space {
    daemon: Daemon,
    namespace: Namespace,
    rows: ContainerStore,
}

impl Space {
    fn list(&self, filters: &[String]) -> Result<Vec<api::Container>> {
        let filter = Filter::parse(filters)?;
        let mut list = self.rows.list()?;
        list.retain(|container| filter.matches(&filters::Of(container)));
        Ok(list.into_iter().map(api_container).collect())
    }
}

#[tonic::async_trait]
impl Containers for Service {
    async fn get(
        &self,
        request: Request<api::GetContainerRequest>,
    ) -> Result<Response<api::GetContainerResponse>, Status> {
        let work = |space: &Space, api::GetContainerRequest { id }: api::GetContainerRequest| {
            let container = get(&space.rows, &space.namespace, &id)?;
            Ok(api::GetContainerResponse { container: Some(api_container(container)) })
        };
        answer(request, |metadata, _| self.space(metadata), work).await
    }

    async fn list(
        &self,
        request: Request<api::ListContainersRequest>,
    ) -> Result<Response<api::ListContainersResponse>, Status> {
        let work = |space: &Space, request: api::ListContainersRequest| {
            Ok(api::ListContainersResponse { containers: space.list(&request.filters)? })
        };
        answer(request, |metadata, _| self.space(metadata), work).await
    }

    async fn list_stream(
        &self,
        request: Request<api::ListContainersRequest>,
    ) -> Result<Response<BoxStream<api::ListContainerMessage>>, Status> {
        let work =
            |space: &Space, request: api::ListContainersRequest| space.list(&request.filters);
        let list = answer(request, |metadata, _| self.space(metadata), work).await?.into_inner();
        let messages = list
            .into_iter()
            .map(|container| Ok(api::ListContainerMessage { container: Some(container) }));
        Ok(Response::new(Box::pin(stream::iter(messages))))
    }

    async fn create(
        &self,
        request: Request<api::CreateContainerRequest>,
    ) -> Result<Response<api::CreateContainerResponse>, Status> {
        let work = |space: &Space, request: api::CreateContainerRequest| {
            let container = new_container(required(request.container, "container")?)?;
            let container = space.rows.create(&container)?;
            let event = ContainerCreate {
                id: container.id.to_string(),
                image: container.image.clone(),
                runtime: Some(CreatedRuntime {
                    name: container.runtime.clone(),
                    options: container.runtime_options.clone().map(api_any),
                }),
            };
            space.daemon.publish(&space.namespace, "/containers/create", &event);
            space.daemon.mutated(0);
            Ok(api::CreateContainerResponse { container: Some(api_container(container)) })
        };
        answer(request, |metadata, _| self.space(metadata), work).await
    }

    async fn update(
        &self,
        request: Request<api::UpdateContainerRequest>,
    ) -> Result<Response<api::UpdateContainerResponse>, Status> {
        let work = |space: &Space, request: api::UpdateContainerRequest| {
            let new = required(request.container, "container")?;
            if new.id.is_empty() {
                return Err(Error::new(ErrorKind::InvalidArgument, "Container.ID required"));
            }
            let id = known_id(&new.id, &space.namespace)?;
            let container = space.rows.update(&id, |container| {
                change(container, new, request.update_mask)?;
                check(container).during(|| "update failed validation".into())
            })?;
            let event = ContainerUpdate {
                id: id.to_string(),
                image: container.image.clone(),
                labels: hash_map(&container.labels),
                snapshot_key: container.snapshot_key.clone(),
            };
            space.daemon.publish(&space.namespace, "/containers/update", &event);
            space.daemon.mutated(0);
            Ok(api::UpdateContainerResponse { container: Some(api_container(container)) })
        };
        answer(request, |metadata, _| self.space(metadata), work).await
    }

    async fn delete(
        &self,
        request: Request<api::DeleteContainerRequest>,
    ) -> Result<Response<()>, Status> {
        let (metadata, _, api::DeleteContainerRequest { id }) = request.into_parts();
        let work = async {
            let space = self.space(&metadata)?;
            let known = known_id(&id, &space.namespace)?;
            let containers = space.daemon.containers(&space.namespace);
            let forgotten = whole(async move { containers.forget(&known).await }).await;
            worded(forgotten, ErrorKind::NotFound, || named(&id, &space.namespace))?;
            let event = ContainerDelete { id };
            space.daemon.publish(&space.namespace, "/containers/delete", &event);
            space.daemon.mutated(1);
            Ok(())
        };
        reply(work.await)
    }
}

/// Reads a container, or says that it is not there in the words that clients know.
pub(crate) fn get(rows: &ContainerStore, namespace: &Namespace, id: &str) -> Result<Container> {
    let container = rows.get(&known_id(id, namespace)?);
    worded(container, ErrorKind::NotFound, || named(id, namespace))
}

/// How a container that is not there is called in errors.
fn named(id: &str, namespace: &Namespace) -> String {
    format!("container {id:?} in namespace {:?}", namespace.as_str())
}

/// An id that should be there: what can't be one is not.
fn known_id(id: &str, namespace: &Namespace) -> Result<ContainerId> {
    id.parse().context(ErrorKind::NotFound, || named(id, namespace))
}

/// What a client wants to have made.
fn new_container(new: api::Container) -> Result<Container> {
    let what = || "create container failed validation".into();
    let api::container::Runtime { name: runtime, options } = new.runtime.unwrap_or_default();
    let container = Container {
        id: new
            .id
            .parse()
            .context(ErrorKind::InvalidArgument, || "container.ID".into())
            .during(what)?,
        labels: new.labels.into_iter().collect(),
        image: new.image,
        runtime,
        runtime_options: options.map(any),
        spec: new.spec.map(any),
        snapshotter: new.snapshotter,
        snapshot_key: new.snapshot_key,
        extensions: extensions(new.extensions),
        created_at: 0,
        updated_at: 0,
        task: None,
    };
    check(&container).during(what)?;
    Ok(container)
}

/// Fails unless a container is one that can be kept.
fn check(container: &Container) -> Result<()> {
    let refuse = |why: &'static str| Err(Error::new(ErrorKind::InvalidArgument, why));
    if container.extensions.contains_key("") {
        return refuse("container.Extension keys must not be zero-length");
    }
    check_labels(&container.labels).during(|| "containers.Labels".into())?;
    if container.runtime.is_empty() {
        return refuse("container.Runtime.Name must be set");
    }
    if container.spec.is_none() {
        return refuse("container.Spec must be set");
    }
    if !container.snapshot_key.is_empty() && container.snapshotter.is_empty() {
        return refuse("container.Snapshotter must be set if container.SnapshotKey is set");
    }
    Ok(())
}

/// Changes the fields that a mask names, or all that can change. Without a mask, the others have to
/// be what they are.
fn change(container: &mut Container, new: api::Container, mask: Option<FieldMask>) -> Result<()> {
    let mut paths = mask::paths(mask);
    if paths.is_empty() {
        let immutable = |field: &str| {
            let message = format!("container.{field} field is immutable");
            Err(Error::new(ErrorKind::InvalidArgument, message))
        };
        if container.snapshotter != new.snapshotter {
            return immutable("Snapshotter");
        }
        if container.runtime != new.runtime.unwrap_or_default().name {
            return immutable("Runtime.Name");
        }
        paths = ["labels", "spec", "extensions", "image", "snapshotkey"].map(str::to_owned).into();
    }
    let mut labels = MapField::new("labels", new.labels.into_iter().collect::<Labels>());
    let mut attached = extensions(new.extensions);
    for path in paths {
        if let Some(key) = path.strip_prefix("extensions.") {
            let value = attached.get(key).cloned().unwrap_or_default();
            container.extensions.insert(key.to_owned(), value);
            continue;
        }
        match path.as_str() {
            "spec" => container.spec = new.spec.clone().map(any),
            "extensions" => container.extensions = std::mem::take(&mut attached),
            "image" => container.image.clone_from(&new.image),
            "snapshotkey" => container.snapshot_key.clone_from(&new.snapshot_key),
            _ if labels.select(&path) => (),
            _ => return Err(mask::unknown(&path, format!("{:?}", new.id))),
        }
    }
    if let Some(change) = labels.change() {
        change.apply(&mut container.labels);
    }
    Ok(())
}

fn extensions(extensions: HashMap<String, prost_types::Any>) -> BTreeMap<String, Any> {
    extensions.into_iter().map(|(name, value)| (name, any(value))).collect()
}

fn api_container(container: Container) -> api::Container {
    let extensions = container.extensions.into_iter();
    api::Container {
        id: container.id.to_string(),
        labels: hash_map(&container.labels),
        image: container.image,
        runtime: Some(api::container::Runtime {
            name: container.runtime,
            options: container.runtime_options.map(api_any),
        }),
        spec: container.spec.map(api_any),
        snapshotter: container.snapshotter,
        snapshot_key: container.snapshot_key,
        created_at: Some(timestamp(container.created_at)),
        updated_at: Some(timestamp(container.updated_at)),
        extensions: extensions.map(|(name, value)| (name, api_any(value))).collect(),
    }
}
