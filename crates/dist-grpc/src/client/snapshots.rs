//! Snapshots over `containerd.services.snapshots.v1`.

use std::collections::HashMap;
use std::ops::ControlFlow;

use dist_core::{
    Context as _, Error, ErrorKind, Labels, LayerForm, Mount, Result, SnapshotInfo, SnapshotKey,
    SnapshotKind, Snapshotter, Usage,
};
use tonic::transport::Channel;

use super::read::nanoseconds;
use super::{Client, MESSAGE_LIMIT};
use crate::api::containerd::services::introspection::v1::PluginsRequest;
use crate::api::containerd::services::introspection::v1::introspection_client::IntrospectionClient;
use crate::api::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient;
use crate::api::containerd::services::snapshots::v1::{
    self as api, CommitSnapshotRequest, ListSnapshotsRequest, MountsRequest,
    PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest, UsageRequest,
    ViewSnapshotRequest,
};
use crate::{api::containerd::types, translate};

/// The snapshotters that a daemon says it has, `overlayfs` first; of one name where one is asked
/// for.
pub(super) fn find(client: &Client, name: Option<&str>) -> Result<Vec<RemoteSnapshots>> {
    const KIND: &str = "io.containerd.snapshotter.v1";
    let request = PluginsRequest { filters: vec![format!("type=={KIND}")] };
    let answer = client.call(request, |channel, request| async move {
        IntrospectionClient::new(channel).plugins(request).await
    })?;
    let plugins = answer.plugins.into_iter();
    let mut found: Vec<_> = plugins
        .filter(|plugin| plugin.init_err.is_none())
        .filter(|plugin| name.is_none_or(|name| plugin.id == name))
        .map(|plugin| RemoteSnapshots {
            client: client.clone(),
            rebase: plugin.capabilities.iter().any(|capability| capability == "rebase"),
            name: plugin.id,
        })
        .collect();
    found.sort_by_key(|one| one.name != "overlayfs");
    Ok(found)
}

pub(super) struct RemoteSnapshots {
    client: Client,
    name: String,
    rebase: bool,
}

fn service(channel: Channel) -> SnapshotsClient<Channel> {
    SnapshotsClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT)
}

impl Snapshotter for RemoteSnapshots {
    fn name(&self) -> &str {
        &self.name
    }

    fn layer_form(&self) -> LayerForm {
        if self.rebase { LayerForm::Stacked { user_xattr: false } } else { LayerForm::Merged }
    }

    fn stat(&self, key: &SnapshotKey) -> Result<SnapshotInfo> {
        let request = StatSnapshotRequest { snapshotter: self.name.clone(), key: key.to_string() };
        let answer = self.client.call(request, |channel, request| async move {
            service(channel).stat(request).await
        })?;
        info(translate::required(answer.info, "info")?)
    }

    fn usage(&self, key: &SnapshotKey) -> Result<Usage> {
        let request = UsageRequest { snapshotter: self.name.clone(), key: key.to_string() };
        let answer = self.client.call(request, |channel, request| async move {
            service(channel).usage(request).await
        })?;
        Ok(Usage {
            bytes: u64::try_from(answer.size).unwrap_or(0),
            inodes: u64::try_from(answer.inodes).unwrap_or(0),
        })
    }

    fn mounts(&self, key: &SnapshotKey) -> Result<Vec<Mount>> {
        let request = MountsRequest { snapshotter: self.name.clone(), key: key.to_string() };
        let answer = self.client.call(request, |channel, request| async move {
            service(channel).mounts(request).await
        })?;
        Ok(mounts(answer.mounts))
    }

    fn prepare(
        &self,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
    ) -> Result<Vec<Mount>> {
        let request = PrepareSnapshotRequest {
            snapshotter: self.name.clone(),
            key: key.to_string(),
            parent: parent.map_or_else(String::new, ToString::to_string),
            labels: translate::hash_map(labels),
        };
        let answer = self.client.call(request, |channel, request| async move {
            service(channel).prepare(request).await
        })?;
        Ok(mounts(answer.mounts))
    }

    fn view(
        &self,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
    ) -> Result<Vec<Mount>> {
        let request = ViewSnapshotRequest {
            snapshotter: self.name.clone(),
            key: key.to_string(),
            parent: parent.map_or_else(String::new, ToString::to_string),
            labels: translate::hash_map(labels),
        };
        let answer = self.client.call(request, |channel, request| async move {
            service(channel).view(request).await
        })?;
        Ok(mounts(answer.mounts))
    }

    fn commit(
        &self,
        name: &SnapshotKey,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
        _usage: Option<Usage>, // the daemon measures
    ) -> Result<()> {
        let request = CommitSnapshotRequest {
            snapshotter: self.name.clone(),
            name: name.to_string(),
            key: key.to_string(),
            labels: translate::hash_map(labels),
            parent: parent.map_or_else(String::new, ToString::to_string),
        };
        self.client
            .call(request, |channel, request| async move { service(channel).commit(request).await })
    }

    fn remove(&self, key: &SnapshotKey) -> Result<()> {
        let request =
            RemoveSnapshotRequest { snapshotter: self.name.clone(), key: key.to_string() };
        self.client
            .call(request, |channel, request| async move { service(channel).remove(request).await })
    }

    fn walk(&self, visit: &mut dyn FnMut(SnapshotInfo) -> Result<ControlFlow<()>>) -> Result<()> {
        let request = ListSnapshotsRequest { snapshotter: self.name.clone(), ..Default::default() };
        let blocks = self.client.call_for_all(request, |channel, request| async move {
            service(channel).list(request).await
        })?;
        let found = blocks.into_iter().flat_map(|block| block.info);
        let found = found.map(info).collect::<Result<Vec<_>>>()?;
        for one in parents_first(found) {
            if visit(one)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// The daemon lists by key; parents come before their children here, older ones before newer ones.
fn parents_first(mut found: Vec<SnapshotInfo>) -> Vec<SnapshotInfo> {
    let parents: HashMap<_, _> =
        found.iter().map(|one| (one.key.clone(), one.parent.clone())).collect();
    let depth = |key: &SnapshotKey| {
        let above = |key: &&SnapshotKey| parents.get(*key)?.as_ref();
        // A listing that was changed meanwhile can't lead in a circle for ever.
        std::iter::successors(Some(key), above).take(parents.len()).count()
    };
    found.sort_by_cached_key(|one| (depth(&one.key), one.created_at));
    found
}

fn info(info: api::Info) -> Result<SnapshotInfo> {
    let what = || format!("read snapshot {:?}", info.name);
    let kind = match info.kind() {
        api::Kind::View => SnapshotKind::View,
        api::Kind::Active => SnapshotKind::Active,
        api::Kind::Committed => SnapshotKind::Committed,
        api::Kind::Unknown => {
            return Err(Error::new(ErrorKind::Internal, format!("{}: it has no kind", what())));
        }
    };
    let parent = match info.parent.as_str() {
        "" => None,
        parent => Some(parent.parse().context(ErrorKind::Internal, what)?),
    };
    Ok(SnapshotInfo {
        key: info.name.parse().context(ErrorKind::Internal, what)?,
        parent,
        kind,
        labels: info.labels.into_iter().collect(),
        created_at: nanoseconds(info.created_at),
        updated_at: nanoseconds(info.updated_at),
    })
}

fn mounts(mounts: Vec<types::Mount>) -> Vec<Mount> {
    mounts.into_iter().map(translate::mount).collect()
}
