//! `snapshots.v1` and `diff.v1`: states, parents, labels, and what is refused.

use std::collections::HashMap;

use dist_grpc::api::containerd::services as api;
use dist_grpc::api::containerd::types::{Descriptor, Mount};
use prost_types::FieldMask;
use tonic::transport::Channel;
use tonic::{Response, Status};

use api::diff::v1 as diff;
use api::diff::v1::diff_client::DiffClient;
use api::leases::v1 as leases;
use api::leases::v1::leases_client::LeasesClient;
use api::snapshots::v1 as snapshots;
use api::snapshots::v1::snapshots_client::SnapshotsClient;

use super::Log;
use crate::wire::{Server, request};

/// Keeps what the calls make, so that no collection between two of them takes any.
const LEASE: &str = "all";
const NS: &str = "differential-snapshots";

pub(crate) async fn calls(server: &Server, log: &mut Log) {
    server.lease(NS, LEASE, &[]).await;
    for snapshotter in ["overlayfs", "native"] {
        let one = One {
            client: SnapshotsClient::new(server.channel.clone()),
            snapshotter: snapshotter.to_owned(),
        };
        one.states(log).await;
        one.labels(log).await;
        one.lists(log).await;
        one.leased(server, log).await;
    }
    for snapshotter in ["", "none", "over/layfs"] {
        let one = One {
            client: SnapshotsClient::new(server.channel.clone()),
            snapshotter: snapshotter.to_owned(),
        };
        one.unknown(log).await;
    }
    differ(server, log).await;
}

/// Calls to one snapshotter.
struct One {
    client: SnapshotsClient<Channel>,
    snapshotter: String,
}

fn map(labels: &[(&str, &str)]) -> HashMap<String, String> {
    labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn or(lease: &str) -> &str {
    if lease.is_empty() { LEASE } else { lease }
}

/// Kinds and options, without the paths in them.
fn shape(mounts: &[Mount]) -> String {
    let option = |option: &String| option.split('=').next().unwrap_or_default().to_owned();
    let one = |mount: &Mount| {
        let mut options: Vec<String> = mount.options.iter().map(option).collect();
        options.sort_unstable();
        format!("{} {}", mount.r#type, options.join(","))
    };
    mounts.iter().map(one).collect::<Vec<_>>().join("; ")
}

impl One {
    fn call(&self, what: &str) -> String {
        format!("{}: {what}", self.snapshotter)
    }

    async fn prepare(
        &self,
        lease: &str,
        key: &str,
        parent: &str,
        labels: &[(&str, &str)],
    ) -> Result<String, Status> {
        let message = snapshots::PrepareSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            key: key.into(),
            parent: parent.into(),
            labels: map(labels),
        };
        let answer = self.client.clone().prepare(request(NS, or(lease), message)).await?;
        Ok(shape(&answer.into_inner().mounts))
    }

    async fn view(&self, lease: &str, key: &str, parent: &str) -> Result<String, Status> {
        let message = snapshots::ViewSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            key: key.into(),
            parent: parent.into(),
            labels: HashMap::new(),
        };
        let answer = self.client.clone().view(request(NS, or(lease), message)).await?;
        Ok(shape(&answer.into_inner().mounts))
    }

    async fn commit(&self, lease: &str, name: &str, key: &str) -> Result<Response<()>, Status> {
        let message = snapshots::CommitSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            name: name.into(),
            key: key.into(),
            ..Default::default()
        };
        self.client.clone().commit(request(NS, or(lease), message)).await
    }

    async fn remove(&self, lease: &str, key: &str) -> Result<Response<()>, Status> {
        let message = snapshots::RemoveSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            key: key.into(),
        };
        self.client.clone().remove(request(NS, or(lease), message)).await
    }

    async fn mounts(&self, key: &str) -> Result<String, Status> {
        let message =
            snapshots::MountsRequest { snapshotter: self.snapshotter.clone(), key: key.into() };
        let answer = self.client.clone().mounts(request(NS, "", message)).await?;
        Ok(shape(&answer.into_inner().mounts))
    }

    async fn stat(&self, key: &str) -> Result<String, Status> {
        let message = snapshots::StatSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            key: key.into(),
        };
        let info = self.client.clone().stat(request(NS, "", message)).await?.into_inner().info;
        Ok(info.map_or("nothing".to_owned(), |info| {
            let mut labels: Vec<_> = info.labels.into_iter().collect();
            labels.sort_unstable();
            format!("{} of {:?}, kind {}, {labels:?}", info.name, info.parent, info.kind)
        }))
    }

    async fn usage(&self, key: &str) -> Result<Response<snapshots::UsageResponse>, Status> {
        let message =
            snapshots::UsageRequest { snapshotter: self.snapshotter.clone(), key: key.into() };
        self.client.clone().usage(request(NS, "", message)).await
    }

    async fn states(&self, log: &mut Log) {
        // Roots, so that no collection between two calls takes any.
        let root = [("containerd.io/gc.root", "x")];
        let same = |said: String| said;
        log.note(&self.call("prepare"), self.prepare("", "active", "", &root).await, same);
        log.note(&self.call("prepare again"), self.prepare("", "active", "", &root).await, same);
        log.note(&self.call("view of the same key"), self.view("", "active", "").await, same);
        log.note(&self.call("prepare, no key"), self.prepare("", "", "", &root).await, same);
        log.note(
            &self.call("prepare, ghost parent"),
            self.prepare("", "x", "ghost", &root).await,
            same,
        );
        log.note(
            &self.call("prepare, active parent"),
            self.prepare("", "x", "active", &root).await,
            same,
        );
        log.note(&self.call("view, active parent"), self.view("", "x", "active").await, same);
        log.note(
            &self.call("prepare, odd key"),
            self.prepare("", "a b/c\u{e4}", "", &root).await,
            same,
        );
        log.note(&self.call("mounts of an active"), self.mounts("active").await, same);
        log.note(&self.call("mounts, absent"), self.mounts("none").await, same);
        log.note(&self.call("stat of an active"), self.stat("active").await, same);
        log.note(&self.call("stat, absent"), self.stat("none").await, same);
        log.code(&self.call("usage of an active"), self.usage("active").await);
        log.code(&self.call("usage, absent"), self.usage("none").await);
        log.code(&self.call("commit, absent"), self.commit("", "base", "none").await);
        log.code(&self.call("commit, no name"), self.commit("", "", "active").await);
        log.code(&self.call("commit under its own key"), self.commit("", "active", "active").await);
        log.code(&self.call("commit"), self.commit("", "base", "active").await);
        log.note(
            &self.call("the key is free"),
            self.prepare("", "active", "base", &root).await,
            same,
        );
        log.code(
            &self.call("commit to a name that is there"),
            self.commit("", "base", "active").await,
        );
        log.code(&self.call("commit of a committed"), self.commit("", "x", "base").await);
        log.note(&self.call("mounts of a committed"), self.mounts("base").await, same);
        log.note(&self.call("stat of a committed"), self.stat("base").await, same);
        log.note(&self.call("view, no parent"), self.view("", "bare", "").await, same);
        log.note(&self.call("view"), self.view("", "view", "base").await, same);
        log.code(&self.call("commit of a view"), self.commit("", "x", "view").await);
        log.note(&self.call("prepare on a view"), self.prepare("", "x", "view", &root).await, same);
        log.code(&self.call("remove with children"), self.remove("", "base").await);
        log.code(&self.call("commit the child"), self.commit("", "child", "active").await);
        log.note(&self.call("view of two"), self.view("", "view-2", "child").await, same);
        log.code(&self.call("remove, absent"), self.remove("", "none").await);
        log.code(&self.call("remove, no key"), self.remove("", "").await);
        let message = snapshots::CleanupRequest { snapshotter: self.snapshotter.clone() };
        log.code(
            &self.call("cleanup"),
            self.client.clone().cleanup(request(NS, "", message)).await,
        );
        for target in
            [("containerd.io/snapshot.ref", "child"), ("containerd.io/snapshot.ref", "nowhere")]
        {
            let call = self.call(&format!("prepare for {}", target.1));
            log.note(&call, self.prepare("", target.1, "base", &[target, root[0]]).await, same);
        }
    }

    async fn labels(&self, log: &mut Log) {
        let update = async |name: &str, paths: &[&str], labels: &[(&str, &str)]| {
            let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
            let message = snapshots::UpdateSnapshotRequest {
                snapshotter: self.snapshotter.clone(),
                info: Some(snapshots::Info {
                    name: name.into(),
                    labels: map(labels),
                    parent: "none".into(),
                    ..Default::default()
                }),
                update_mask: (!paths.is_empty()).then_some(FieldMask { paths }),
            };
            let info =
                self.client.clone().update(request(NS, "", message)).await?.into_inner().info;
            let mut labels: Vec<_> =
                info.map(|info| info.labels).unwrap_or_default().into_iter().collect();
            labels.sort_unstable();
            Ok::<_, Status>(format!("{labels:?}"))
        };
        let same = |said: String| said;
        log.note(
            &self.call("update all"),
            update("child", &[], &[("a", "1"), ("b.c/d", "2")]).await,
            same,
        );
        log.note(
            &self.call("update one"),
            update("child", &["labels.b.c/d"], &[("b.c/d", "3"), ("x", "y")]).await,
            same,
        );
        log.note(&self.call("update removes"), update("child", &["labels.a"], &[]).await, same);
        log.note(
            &self.call("update, mask labels"),
            update("child", &["labels"], &[("e", "4")]).await,
            same,
        );
        log.note(&self.call("update, mask parent"), update("child", &["parent"], &[]).await, same);
        log.note(&self.call("update, mask kind"), update("child", &["kind"], &[]).await, same);
        log.note(&self.call("update, absent"), update("none", &[], &[]).await, same);
        log.note(&self.call("update, no name"), update("", &[], &[]).await, same);
        let long = "v".repeat(4096);
        log.note(
            &self.call("update, 4097"),
            update("child", &["labels.k"], &[("k", &long)]).await,
            same,
        );
        log.note(
            &self.call("prepare, 4097"),
            self.prepare("", "long", "", &[("k", &long)]).await,
            same,
        );
        let message = snapshots::UpdateSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            info: None,
            update_mask: None,
        };
        let answer = self.client.clone().update(request(NS, "", message)).await;
        log.code(&format!("absent: snapshots.Update, {}", self.snapshotter), answer);
    }

    async fn list(&self, filters: &[&str]) -> Result<String, Status> {
        let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
        let message =
            snapshots::ListSnapshotsRequest { snapshotter: self.snapshotter.clone(), filters };
        let mut stream = self.client.clone().list(request(NS, "", message)).await?.into_inner();
        let mut found = Vec::new();
        while let Some(block) = stream.message().await? {
            found.extend(block.info.into_iter().map(|info| info.name));
        }
        found.sort_unstable();
        Ok(found.join(" "))
    }

    async fn lists(&self, log: &mut Log) {
        for filters in [
            &["kind==committed"][..],
            &["kind==active"],
            &["name==base"],
            &["name~=^b"],
            &["parent==base,kind==committed"],
            &["kind==committed,labels.e==4"],
            &["labels.none!=x,kind==committed"],
            &["name=="],
            &["kind=committed"],
            &["name~=("],
            &["name==base", "name==child"],
            &["none==1"],
        ] {
            log.note(&self.call(&format!("list {filters:?}")), self.list(filters).await, |found| {
                found
            });
        }
    }

    async fn leased(&self, server: &Server, log: &mut Log) {
        let lease = format!("lease-{}", self.snapshotter);
        server.lease(NS, &lease, &[]).await;
        let same = |said: String| said;
        log.note(
            &self.call("leased: prepare"),
            self.prepare(&lease, "leased", "base", &[]).await,
            same,
        );
        log.note(&self.call("leased: view"), self.view(&lease, "leased-view", "base").await, same);
        let held = async |call: &str, log: &mut Log| {
            let message = leases::ListResourcesRequest { id: lease.clone() };
            let answer = LeasesClient::new(server.channel.clone())
                .list_resources(request(NS, "", message))
                .await;
            log.note(&self.call(call), answer, |answer| {
                let all = answer.into_inner().resources.into_iter();
                let mut all: Vec<String> =
                    all.map(|held| format!("{} {}", held.r#type, held.id)).collect();
                all.sort_unstable();
                all.join(", ")
            });
        };
        held("leased: holds", log).await;
        log.code(&self.call("leased: commit"), self.commit(&lease, "leased-done", "leased").await);
        held("leased: holds what was committed", log).await;
        log.note(
            &self.call("leased: prepare for what is there"),
            self.prepare(&lease, "x", "base", &[("containerd.io/snapshot.ref", "child")]).await,
            same,
        );
        held("leased: holds what was there", log).await;
        log.code(&self.call("leased: remove"), self.remove(&lease, "leased-view").await);
        held("leased: holds after the removal", log).await;
        log.note(
            &self.call("unknown lease: prepare"),
            self.prepare("none", "x", "base", &[]).await,
            same,
        );
        log.note(&self.call("unknown lease: view"), self.view("none", "x", "base").await, same);
        log.note(
            &self.call("kept active"),
            self.prepare("", "kept", "base", &[("containerd.io/gc.root", "x")]).await,
            same,
        );
        log.code(
            &self.call("unknown lease: commit"),
            self.commit("none", "kept-done", "kept").await,
        );
        log.code(&self.call("unknown lease: remove"), self.remove("none", "kept").await);
    }

    async fn unknown(&self, log: &mut Log) {
        let same = |said: String| said;
        log.note(&self.call("prepare"), self.prepare("", "a", "", &[]).await, same);
        log.note(&self.call("view"), self.view("", "a", "").await, same);
        log.note(&self.call("mounts"), self.mounts("a").await, same);
        log.note(&self.call("stat"), self.stat("a").await, same);
        log.code(&self.call("usage"), self.usage("a").await);
        log.code(&self.call("commit"), self.commit("", "b", "a").await);
        log.code(&self.call("remove"), self.remove("", "a").await);
        log.note(&self.call("list"), self.list(&[]).await, same);
    }
}

async fn differ(server: &Server, log: &mut Log) {
    let mut client = DiffClient::new(server.channel.clone());
    let of = |digest: String, size: i64, media_type: &str| {
        Some(Descriptor { media_type: media_type.into(), digest, size, ..Default::default() })
    };
    let tar = "application/vnd.oci.image.layer.v1.tar";
    // Without a lease the garbage collector may come before.
    let digest = server.blob(NS, LEASE, b"no layer").await;
    let absent = dist_core::Digest::sha256(b"absent").to_string();
    for (call, diff) in [
        ("an absent blob", of(absent, 6, tar)),
        ("an unknown media type", of(digest.clone(), 8, "application/none")),
        ("a bad digest", of("sha256:beef".into(), 8, tar)),
        ("what is no layer", of(digest.clone(), 8, &format!("{tar}+gzip"))),
    ] {
        let message = diff::ApplyRequest { diff, ..Default::default() };
        log.code(&format!("diff.Apply: {call}"), client.apply(request(NS, "", message)).await);
    }
    let message = diff::ApplyRequest { diff: of(digest, 8, tar), ..Default::default() };
    log.code("diff.Apply without a namespace", client.apply(message).await);
    if !server.fragile {
        let nothing = diff::ApplyRequest::default();
        log.code("absent: diff.Apply", client.apply(request(NS, "", nothing)).await);
    }
    for (call, media_type) in [
        ("gzip", format!("{tar}+gzip")),
        ("tar", tar.to_owned()),
        ("default", String::new()),
        ("an unknown type", "application/none".into()),
    ] {
        let message =
            diff::DiffRequest { media_type, r#ref: format!("diff-{call}"), ..Default::default() };
        let answer = client.diff(request(NS, LEASE, message)).await;
        log.note(&format!("diff.Diff of nothing, {call}"), answer, |answer| {
            answer.into_inner().diff.map(|diff| diff.media_type).unwrap_or_default()
        });
    }
    let broken = Mount { r#type: "none".into(), source: "/nowhere".into(), ..Default::default() };
    let message = diff::DiffRequest { left: vec![broken], ..Default::default() };
    log.note(
        "diff.Diff of a mount that is none",
        client.diff(request(NS, LEASE, message)).await.map_err(|_| Status::internal("")),
        |_| String::new(),
    );
}
