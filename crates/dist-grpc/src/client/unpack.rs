//! Layers into snapshots over `snapshots.v1` and `diff.v1`, one after the other: a snapshot is
//! prepared, the daemon applies the layer's blob to it, and it is committed under its chain ID.

use std::sync::Arc;

use dist::{Contents as _, Host as _, Layer, Plan};
use dist_core::{
    Cancel, Context as _, DiffId, ErrorKind, Event, Labels, Mount, Progress, Result,
    ResultExt as _, SnapshotKey, Snapshotter,
};

use super::Client;
use super::contents::RemoteContents;
use crate::api::containerd::services::diff::v1::ApplyRequest;
use crate::api::containerd::services::diff::v1::diff_client::DiffClient;
use crate::translate;

/// Unpacks those layers of `plan` that are not unpacked. Dropping the future stops it before the
/// next call.
pub(super) async fn unpack(
    client: &Client,
    snapshotter: &str,
    plan: &Plan,
    progress: Arc<dyn Progress>,
) -> Result<()> {
    let (client, name, plan) = (client.clone(), snapshotter.to_owned(), plan.clone());
    let (cancel, _guard) = Cancel::guarded();
    let work = move || {
        let snapshotter = client.snapshotter(&name)?;
        let unpacker = Unpacker { client, snapshotter, progress };
        plan.layers.iter().try_for_each(|layer| {
            cancel.check()?;
            unpacker.unpack(layer).during(|| format!("unpack layer {}", layer.desc.digest))
        })
    };
    let task = tokio::task::spawn_blocking(work);
    task.await.context(ErrorKind::Internal, || "run a blocking task".into())?
}

struct Unpacker {
    client: Client,
    snapshotter: Arc<dyn Snapshotter>,
    progress: Arc<dyn Progress>,
}

impl Unpacker {
    fn unpack(&self, layer: &Layer) -> Result<()> {
        let contents = RemoteContents::new(self.client.clone(), Labels::new());
        contents.info(&layer.desc.digest)?;
        self.progress.event(Event::Existed { desc: &layer.desc });
        let name = SnapshotKey::from(layer.chain_id);
        match self.snapshotter.stat(&name) {
            Err(error) if error.kind() == ErrorKind::NotFound => (),
            found => return found.map(drop),
        }
        // Another client may unpack the same layer: whoever commits first has made it.
        let key = format!("unpack-{} {}", uuid::Uuid::new_v4(), layer.chain_id);
        let key: SnapshotKey =
            key.parse().context(ErrorKind::Internal, || format!("name snapshot {key:?}"))?;
        match self.make(layer, &name, &key) {
            Ok(()) => {
                let (layer, chain_id) = (layer.desc.digest, Some(layer.chain_id));
                self.progress.event(Event::Unpacked { layer, chain_id });
                Ok(())
            }
            Err(error) => {
                self.discard(&key);
                if error.kind() == ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
            }
        }
    }

    fn make(&self, layer: &Layer, name: &SnapshotKey, key: &SnapshotKey) -> Result<()> {
        let parent = layer.parent.map(SnapshotKey::from);
        let mounts = self.snapshotter.prepare(key, parent.as_ref(), &Labels::new())?;
        layer.check_diff_id(self.apply(layer, &mounts)?)?;
        self.snapshotter.commit(name, key, None, &Labels::new(), None)
    }

    /// Has the daemon apply a layer, and gives its diff ID.
    fn apply(&self, layer: &Layer, mounts: &[Mount]) -> Result<DiffId> {
        let request = ApplyRequest {
            diff: Some(translate::api_descriptor(&layer.desc)),
            mounts: mounts.iter().map(translate::api_mount).collect(),
            ..Default::default()
        };
        let answer = self.client.call(request, |channel, request| async move {
            DiffClient::new(channel).apply(request).await
        })?;
        let applied = translate::required(answer.applied, "applied")?;
        translate::descriptor(applied).map(|applied| DiffId(applied.digest))
    }

    /// Removes what will not be committed; what stays, the lease lets go of.
    fn discard(&self, key: &SnapshotKey) {
        match self.snapshotter.remove(key) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!(%key, ?error, "a failed snapshot was not removed");
            }
            _ => (),
        }
    }
}
