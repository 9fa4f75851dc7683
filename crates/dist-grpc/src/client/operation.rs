//! Operations over `containerd.services.leases.v1`: what is made under a lease is kept by it.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use dist::{Contents, Host as _, Operation, Operations, Plan, Remotes};
use dist_core::{
    Context as _, Error, ErrorKind, Image, Labels, LeaseId, Progress, Resource, Result, Warning,
};
use dist_store::Registration;
use tonic::transport::Channel;

use super::contents::RemoteContents;
use super::unpack::unpack;
use super::{Client, RemotePuller};
use crate::api::containerd::services::leases::v1::leases_client::LeasesClient;
use crate::api::containerd::services::leases::v1::{
    self as api, AddResourceRequest, CreateRequest, DeleteRequest, ListResourcesRequest,
};
use crate::services::leases::api_resource;
use crate::translate;

impl Operations for RemotePuller {
    fn shared(&self) -> Arc<dyn Operations> {
        Arc::new(Self {
            client: self.client.clone(),
            remotes: Arc::clone(&self.remotes),
            snapshotter: self.snapshotter.clone(),
        })
    }

    fn remotes(&self) -> &Remotes {
        &self.remotes
    }

    fn contents(&self, labels: Labels) -> Arc<dyn Contents> {
        Arc::new(RemoteContents::new(self.client.clone(), labels))
    }

    fn snapshotter_name(&self) -> Result<String> {
        if let Some(name) = &self.snapshotter {
            return Ok(name.clone());
        }
        let first = self.client.snapshotters()?.into_iter().next();
        first.map(|snapshotter| snapshotter.name().to_owned()).ok_or_else(|| {
            Error::new(ErrorKind::FailedPrecondition, "the daemon has no snapshotter")
        })
    }

    fn begin(&self, needs: BTreeSet<Resource>) -> Result<Box<dyn Operation>> {
        let lease = self.client.create_lease(&dist::lease_labels())?;
        let client = Client { lease: Some(lease.clone()), ..self.client.clone() };
        let operation = RemoteOperation { client, lease: Some(lease) };
        operation.hold(needs)?;
        Ok(Box::new(operation))
    }

    fn settle(&self) -> Result<()> {
        Ok(())
    }
}

impl Client {
    /// Has the daemon collect everywhere what nothing keeps, and waits for it.
    ///
    /// # Errors
    /// `Storage`, `Unavailable`.
    pub fn collect(&self) -> Result<()> {
        // The end of a lease is what a client can wait for a collection with.
        let lease = self.create_lease(&dist::failed_lease_labels())?;
        self.delete_lease(&lease, Collection::Awaited)
    }

    fn create_lease(&self, labels: &Labels) -> Result<LeaseId> {
        let id = format!("dist-{}", uuid::Uuid::new_v4());
        let request = CreateRequest { id: id.clone(), labels: translate::hash_map(labels) };
        self.call(
            request,
            |channel, request| async move { service(channel).create(request).await },
        )?;
        id.parse().context(ErrorKind::Internal, || format!("make lease {id:?}"))
    }

    fn add_resource(&self, lease: &LeaseId, resource: api::Resource) -> Result<()> {
        let request = AddResourceRequest { id: lease.to_string(), resource: Some(resource) };
        self.call(request, |channel, request| async move {
            service(channel).add_resource(request).await
        })
    }

    fn delete_lease(&self, lease: &LeaseId, collection: Collection) -> Result<()> {
        let sync = collection == Collection::Awaited;
        let request = DeleteRequest { id: lease.to_string(), sync };
        self.call(request, |channel, request| async move { service(channel).delete(request).await })
    }
}

/// Whether the end of a lease collects what it kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Collection {
    /// At once, and the call waits for it.
    Awaited,
    /// Sometime.
    Later,
}

fn service(channel: Channel) -> LeasesClient<Channel> {
    LeasesClient::new(channel)
}

/// An operation under a lease of its own.
struct RemoteOperation {
    /// Works under the lease.
    client: Client,
    /// `None` once it has ended.
    lease: Option<LeaseId>,
}

#[async_trait]
impl Operation for RemoteOperation {
    fn contents(&self) -> Arc<dyn Contents> {
        Arc::new(RemoteContents::new(self.client.clone(), Labels::new()))
    }

    async fn unpack(
        &self,
        plan: &Plan,
        snapshotter: &str,
        _jobs: usize,
        progress: Arc<dyn Progress>,
    ) -> Result<Vec<Warning>> {
        unpack(&self.client, snapshotter, plan, progress).await?;
        Ok(Vec::new())
    }

    fn finish(mut self: Box<Self>, registration: Registration) -> Result<Vec<Image>> {
        let contents = RemoteContents::new(self.client.clone(), Labels::new());
        for (digest, labels) in &registration.labels {
            let known = match contents.info(digest) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                info => info?.labels,
            };
            let lacking = registration.lacking(labels, &known);
            if !lacking.is_empty() {
                contents.label(digest, lacking)?;
            }
        }
        let names = self.client.images();
        let put = |(name, target, labels): &(_, _, _)| names.put(name, target, labels);
        let images = registration.images.iter().map(put).collect::<Result<_>>()?;
        if let Some(lease) = self.lease.take() {
            self.client.delete_lease(&lease, Collection::Later)?;
        }
        Ok(images)
    }
}

impl RemoteOperation {
    fn hold(&self, needs: BTreeSet<Resource>) -> Result<()> {
        let Some(lease) = &self.lease else { return Ok(()) };
        needs.iter().try_for_each(|need| self.client.add_resource(lease, api_resource(need)))
    }

    /// Keeps what the lease keeps for as long as trying again may take, and ends it.
    fn leave(&self, lease: &LeaseId) -> Result<()> {
        let request = ListResourcesRequest { id: lease.to_string() };
        let held = self.client.call(request, |channel, request| async move {
            service(channel).list_resources(request).await
        })?;
        let shorter = self.client.create_lease(&dist::failed_lease_labels())?;
        for resource in held.resources {
            self.client.add_resource(&shorter, resource)?;
        }
        self.client.delete_lease(lease, Collection::Later)
    }
}

impl Drop for RemoteOperation {
    fn drop(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        if let Err(error) = self.leave(&lease) {
            tracing::debug!(?error, %lease, "a lease of a failed operation keeps its full time");
        }
    }
}
