//! `containerd.services.snapshots.v1`.

use std::ops::ControlFlow;
use std::sync::Arc;

use dist_core::{
    Context as _, Error, ErrorKind, Filter, Result, SnapshotInfo, SnapshotKey, SnapshotKind,
    Snapshotter, check_labels,
};
use dist_store::{Scope, SnapshotStore};
use prost::Name;
use tonic::codegen::BoxStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::answer::answer;
use crate::api::containerd::events::{SnapshotCommit, SnapshotPrepare, SnapshotRemove};
use crate::api::containerd::services::snapshots::v1::snapshots_server::Snapshots;
use crate::api::containerd::services::snapshots::v1::{
    CleanupRequest, CommitSnapshotRequest, Info, Kind, ListSnapshotsRequest, ListSnapshotsResponse,
    MountsRequest, MountsResponse, PrepareSnapshotRequest, PrepareSnapshotResponse,
    RemoveSnapshotRequest, StatSnapshotRequest, StatSnapshotResponse, UpdateSnapshotRequest,
    UpdateSnapshotResponse, UsageRequest, UsageResponse, ViewSnapshotRequest, ViewSnapshotResponse,
};
use crate::backend::Realm;
use crate::mask::label_change;
use crate::translate::{api_mount, hash_map, required, timestamp};
use crate::{Daemon, filters};

/// How many snapshots one message of a listing describes.
const BLOCK: usize = 100;

/// The service.
pub(crate) struct Service {
    daemon: Daemon,
    realm: Realm,
}

impl Service {
    pub(crate) fn new(daemon: Daemon, realm: Realm) -> Self {
        Self { daemon, realm }
    }

    /// The snapshots of the snapshotter of this name that a request can see.
    fn space(&self, metadata: &MetadataMap, name: &str) -> Result<Space> {
        if name.is_empty() {
            return Err(Error::new(ErrorKind::InvalidArgument, "snapshotter is required"));
        }
        let engine = self.daemon.engine();
        let driver = match self.realm {
            Realm::Namespaced => dist_snapshot::known(name)?,
            Realm::Raw => engine.snapshotter_name(),
        };
        let scope = self.realm.snapshots(metadata, name)?;
        let snapshotter = dist_snapshot::open(engine.store(), &scope, driver)?;
        let (daemon, driver) = (self.daemon.clone(), driver.to_owned());
        Ok(Space { daemon, realm: self.realm, scope, driver, snapshotter })
    }
}

/// The snapshots that a request can see.
struct Space {
    daemon: Daemon,
    realm: Realm,
    scope: Scope,
    /// Whose files they are.
    driver: String,
    snapshotter: Arc<dyn Snapshotter>,
}

impl Space {
    fn records(&self) -> SnapshotStore {
        self.daemon.engine().store().snapshots(&self.scope, &self.driver)
    }

    /// Says what was done; the raw realm's daemon has events of its own.
    fn tell<M: Name>(&self, topic: &str, event: &M) {
        if self.realm == Realm::Namespaced {
            self.daemon.publish(&self.scope.namespace, topic, event);
        }
    }

    /// Says that so much was deleted by what was done; the raw realm is never collected.
    fn mutated(&self, deletions: u64) {
        if self.realm == Realm::Namespaced {
            self.daemon.mutated(deletions);
        }
    }

    fn list(&self, filters: &[String]) -> Result<Vec<SnapshotInfo>> {
        let filter = Filter::parse(filters)?;
        let mut found = Vec::new();
        self.snapshotter.walk(&mut |info| {
            if filter.matches(&filters::Of(&info)) {
                found.push(info);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }
}

#[tonic::async_trait]
impl Snapshots for Service {
    async fn prepare(
        &self,
        request: Request<PrepareSnapshotRequest>,
    ) -> Result<Response<PrepareSnapshotResponse>, Status> {
        let work = |space: &Space, request: PrepareSnapshotRequest| {
            let (key, parent) = (new_key(&request.key)?, known_parent(&request.parent)?);
            let labels = request.labels.into_iter().collect();
            check_labels(&labels)?;
            let mounts = space.snapshotter.prepare(&key, parent.as_ref(), &labels)?;
            space.tell(
                "/snapshot/prepare",
                &SnapshotPrepare {
                    key: request.key,
                    parent: request.parent,
                    snapshotter: request.snapshotter,
                },
            );
            space.mutated(0);
            Ok(PrepareSnapshotResponse { mounts: mounts.iter().map(api_mount).collect() })
        };
        answer(request, |metadata, request| self.space(metadata, &request.snapshotter), work).await
    }

    async fn view(
        &self,
        request: Request<ViewSnapshotRequest>,
    ) -> Result<Response<ViewSnapshotResponse>, Status> {
        let work = |space: &Space, request: ViewSnapshotRequest| {
            let (key, parent) = (new_key(&request.key)?, known_parent(&request.parent)?);
            let labels = request.labels.into_iter().collect();
            check_labels(&labels)?;
            let mounts = space.snapshotter.view(&key, parent.as_ref(), &labels)?;
            space.mutated(0);
            Ok(ViewSnapshotResponse { mounts: mounts.iter().map(api_mount).collect() })
        };
        answer(request, |metadata, request| self.space(metadata, &request.snapshotter), work).await
    }

    async fn mounts(
        &self,
        request: Request<MountsRequest>,
    ) -> Result<Response<MountsResponse>, Status> {
        let work = |space: &Space, request: MountsRequest| {
            let mounts = space.snapshotter.mounts(&known_key(&request.key)?)?;
            Ok(MountsResponse { mounts: mounts.iter().map(api_mount).collect() })
        };
        answer(request, |metadata, request| self.space(metadata, &request.snapshotter), work).await
    }

    async fn commit(
        &self,
        request: Request<CommitSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let work = |space: &Space, request: CommitSnapshotRequest| {
            let (name, key) = (new_key(&request.name)?, known_key(&request.key)?);
            let labels = request.labels.into_iter().collect();
            check_labels(&labels)?;
            let mut parent = known_parent(&request.parent)?;
            if parent.is_some() && space.snapshotter.stat(&key)?.parent.is_some() {
                // A parent given here is for a snapshot that has none yet.
                parent = None;
            }
            space.snapshotter.commit(&name, &key, parent.as_ref(), &labels, None)?;
            space.daemon.settler().committed();
            space.tell(
                "/snapshot/commit",
                &SnapshotCommit {
                    key: request.key,
                    name: request.name,
                    snapshotter: request.snapshotter,
                },
            );
            space.mutated(0);
            Ok(())
        };
        answer(request, |metadata, request| self.space(metadata, &request.snapshotter), work).await
    }

    async fn remove(
        &self,
        request: Request<RemoveSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let work = |space: &Space, request: RemoveSnapshotRequest| {
            space.snapshotter.remove(&known_key(&request.key)?)?;
            space.tell(
                "/snapshot/remove",
                &SnapshotRemove { key: request.key, snapshotter: request.snapshotter },
            );
            space.mutated(1);
            Ok(())
        };
        let space = |headers: &MetadataMap, request: &RemoveSnapshotRequest| {
            self.space(headers, &request.snapshotter)
        };
        let removed = answer(request, space, work).await?;
        self.daemon.emptier().make_way(&self.daemon).await;
        Ok(removed)
    }

    async fn stat(
        &self,
        request: Request<StatSnapshotRequest>,
    ) -> Result<Response<StatSnapshotResponse>, Status> {
        let work = |space: &Space, request: StatSnapshotRequest| {
            let info = space.snapshotter.stat(&known_key(&request.key)?)?;
            Ok(StatSnapshotResponse { info: Some(api_info(&info)) })
        };
        answer(request, |metadata, request| self.space(metadata, &request.snapshotter), work).await
    }

    async fn update(
        &self,
        request: Request<UpdateSnapshotRequest>,
    ) -> Result<Response<UpdateSnapshotResponse>, Status> {
        let work = |space: &Space, request: UpdateSnapshotRequest| {
            let info = required(request.info, "info")?;
            let key = new_key(&info.name)?;
            let labels = info.labels.into_iter().collect();
            let change =
                label_change(labels, request.update_mask, || format!("snapshot {:?}", info.name))?;
            check_labels(change.labels())?;
            let mut info = space.records().update_labels(&key, &change)?;
            info.labels.retain(|_, value| !value.is_empty());
            space.mutated(0);
            Ok(UpdateSnapshotResponse { info: Some(api_info(&info)) })
        };
        answer(request, |metadata, request| self.space(metadata, &request.snapshotter), work).await
    }

    async fn list(
        &self,
        request: Request<ListSnapshotsRequest>,
    ) -> Result<Response<BoxStream<ListSnapshotsResponse>>, Status> {
        let work = |space: &Space, request: ListSnapshotsRequest| space.list(&request.filters);
        let found =
            answer(request, |metadata, request| self.space(metadata, &request.snapshotter), work)
                .await?
                .into_inner();
        let blocks: Vec<_> = found
            .chunks(BLOCK)
            .map(|block| Ok(ListSnapshotsResponse { info: block.iter().map(api_info).collect() }))
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(blocks))))
    }

    async fn usage(
        &self,
        request: Request<UsageRequest>,
    ) -> Result<Response<UsageResponse>, Status> {
        let work = |space: &Space, request: UsageRequest| {
            let usage = space.snapshotter.usage(&known_key(&request.key)?)?;
            let stored = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
            Ok(UsageResponse { size: stored(usage.bytes), inodes: stored(usage.inodes) })
        };
        answer(request, |metadata, request| self.space(metadata, &request.snapshotter), work).await
    }

    async fn cleanup(&self, request: Request<CleanupRequest>) -> Result<Response<()>, Status> {
        let work = |space: &Space, _: CleanupRequest| {
            if space.realm == Realm::Namespaced {
                let message = "clean up a snapshotter: collections do";
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
            dist_snapshot::purge(space.daemon.engine().store()).map(drop)
        };
        answer(request, |metadata, request| self.space(metadata, &request.snapshotter), work).await
    }
}

/// A key that a request makes.
fn new_key(text: &str) -> Result<SnapshotKey> {
    text.parse().context(ErrorKind::InvalidArgument, || format!("read snapshot key {text:?}"))
}

/// A key that should be there: what can't be one is not.
fn known_key(text: &str) -> Result<SnapshotKey> {
    text.parse().context(ErrorKind::NotFound, || format!("find snapshot {text:?}"))
}

/// A parent; an empty one is none.
fn known_parent(text: &str) -> Result<Option<SnapshotKey>> {
    if text.is_empty() { Ok(None) } else { known_key(text).map(Some) }
}

fn api_info(info: &SnapshotInfo) -> Info {
    let kind = match info.kind {
        SnapshotKind::View => Kind::View,
        SnapshotKind::Active => Kind::Active,
        SnapshotKind::Committed => Kind::Committed,
    };
    Info {
        name: info.key.to_string(),
        parent: info.parent.as_ref().map_or_else(String::new, SnapshotKey::to_string),
        kind: kind.into(),
        created_at: Some(timestamp(info.created_at)),
        updated_at: Some(timestamp(info.updated_at)),
        labels: hash_map(&info.labels),
    }
}
