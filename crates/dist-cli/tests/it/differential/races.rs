//! What meets while something is under way: aborts of open writes, collections between two steps,
//! layers that are there for others.

use dist_grpc::api::containerd::services as api;
use dist_grpc::api::containerd::types::Descriptor;
use tonic::Status;
use tonic::transport::Channel;

use api::content::v1 as content;
use api::diff::v1::DiffRequest;
use api::diff::v1::diff_client::DiffClient;
use api::images::v1::images_client::ImagesClient;
use api::images::v1::{CreateImageRequest, Image};
use api::leases::v1::leases_client::LeasesClient;
use api::leases::v1::{CreateRequest, DeleteRequest};
use api::namespaces::v1::ListNamespacesRequest;
use api::namespaces::v1::namespaces_client::NamespacesClient;
use api::snapshots::v1 as snapshots;
use api::snapshots::v1::snapshots_client::SnapshotsClient;

use super::Log;
use super::metadata::{TYPE, map, mask};
use crate::wire::{Server, commit, request, stat, write};

const LEASE: &str = "all";

pub(crate) async fn calls(server: &Server, log: &mut Log) {
    aborts(server, log).await;
    collections(server, log).await;
    adopted(server, log).await;
    rebased(server, log).await;
    implicit(server, log).await;
    unknown_lease(server, log).await;
}

fn state(answer: content::WriteContentResponse) -> String {
    format!("offset {} digest {}", answer.offset, answer.digest)
}

/// A write is aborted while its stream is open.
async fn aborts(server: &Server, log: &mut Log) {
    let namespace = "differential-aborts";
    server.lease(namespace, LEASE, &[]).await;
    let abort = async |name: &str| {
        let message = content::AbortRequest { r#ref: name.into() };
        server.content().abort(request(namespace, "", message)).await
    };
    let status = async |name: &str| {
        let message = content::StatusRequest { r#ref: name.into() };
        server.content().status(request(namespace, "", message)).await
    };
    for (name, message) in [
        ("more bytes", write("more bytes", 5, b"67890")),
        ("a question", stat("a question")),
        ("the end", content::WriteContentRequest { offset: 5, ..commit("the end", b"") }),
    ] {
        let mut writer = server.writer(namespace, LEASE);
        writer.say(write(name, 0, b"12345")).await.expect("write five bytes");
        log.code(&format!("abort: before {name}"), abort(name).await);
        log.code(&format!("abort: status before {name}"), status(name).await);
        log.note(&format!("abort: {name}"), writer.say(message).await, state);
        writer.close().await;
        log.code(&format!("abort: again after {name}"), abort(name).await);
        let mut writer = server.writer(namespace, LEASE);
        log.note(&format!("abort: new after {name}"), writer.say(stat(name)).await, state);
        writer.close().await;
    }
    let digest = dist_core::Digest::sha256(b"12345").to_string();
    let info = content::InfoRequest { digest };
    let info = server.content().info(request(namespace, "", info)).await;
    log.code("abort: what was aborted is not there", info);
}

/// A collection, waited for.
async fn collect(server: &Server, namespace: &str) {
    let mut client = LeasesClient::new(server.channel.clone());
    server.lease(namespace, "collect", &[]).await;
    let message = DeleteRequest { id: "collect".into(), sync: true };
    client.delete(request(namespace, "", message)).await.expect("collect");
}

/// A collection runs between the commit of something and the label that would keep it.
async fn collections(server: &Server, log: &mut Log) {
    let namespace = "differential-collections";
    server.lease(namespace, LEASE, &[]).await;
    for lease in ["", LEASE] {
        let digest = server.blob(namespace, lease, format!("of {lease:?}").as_bytes()).await;
        collect(server, namespace).await;
        let message = content::UpdateRequest {
            info: Some(content::Info {
                digest: digest.clone(),
                labels: map(&[("containerd.io/gc.root", "x")]),
                ..Default::default()
            }),
            update_mask: mask(&["labels.containerd.io/gc.root"]),
        };
        let answer = server.content().update(request(namespace, lease, message)).await;
        log.code(&format!("collection before the label: blob, lease {lease:?}"), answer);
        collect(server, namespace).await;
        let info =
            server.content().info(request(namespace, "", content::InfoRequest { digest })).await;
        log.code(&format!("collection after the label: blob, lease {lease:?}"), info);
    }
    // What is written is not yet anybody's: it stays, with a lease and without.
    for (name, lease) in [("loose", ""), ("leased", LEASE)] {
        let mut writer = server.writer(namespace, lease);
        writer.say(write(name, 0, b"12345")).await.expect("write five bytes");
        collect(server, namespace).await;
        log.note(
            &format!("collection while it is written: {name}"),
            writer.say(write(name, 5, b"67890")).await,
            state,
        );
        writer.close().await;
        collect(server, namespace).await;
        let message = content::StatusRequest { r#ref: name.into() };
        let answer = server.content().status(request(namespace, "", message)).await;
        log.note(&format!("collection of an ingest: {name}"), answer, |answer| {
            answer.into_inner().status.map_or(0, |status| status.offset).to_string()
        });
    }
    // An image is named before what it names is labelled.
    let child = server.blob(namespace, LEASE, b"child").await;
    let parent = server.blob(namespace, LEASE, b"parent").await;
    let target = Descriptor {
        media_type: TYPE.into(),
        digest: parent.clone(),
        size: 6,
        ..Default::default()
    };
    let image = Image { name: "image".into(), target: Some(target), ..Default::default() };
    let message = CreateImageRequest { image: Some(image), ..Default::default() };
    let mut images = ImagesClient::new(server.channel.clone());
    images.create(request(namespace, "", message)).await.expect("create an image");
    let message = DeleteRequest { id: LEASE.into(), sync: true };
    let mut leases = LeasesClient::new(server.channel.clone());
    log.code("collection of all: the lease", leases.delete(request(namespace, "", message)).await);
    for (name, digest) in [("child", child), ("parent", parent)] {
        let info =
            server.content().info(request(namespace, "", content::InfoRequest { digest })).await;
        log.code(&format!("collection of all: {name} of an image"), info);
    }
    let mut client = SnapshotsClient::new(server.channel.clone());
    for snapshotter in ["overlayfs", "native"] {
        let layers = Layers { client: client.clone(), snapshotter, namespace };
        server.lease(namespace, snapshotter, &[]).await;
        for lease in ["", snapshotter] {
            let name = format!("of {lease:?}");
            let _ = layers.prepare(lease, "active", "", &[]).await;
            let made = layers.commit(lease, &name, "active", "").await;
            collect(server, namespace).await;
            let message = snapshots::UpdateSnapshotRequest {
                snapshotter: snapshotter.into(),
                info: Some(snapshots::Info {
                    name: name.clone(),
                    labels: map(&[("containerd.io/gc.root", "x")]),
                    ..Default::default()
                }),
                update_mask: mask(&["labels.containerd.io/gc.root"]),
            };
            // Without a lease the collection that follows changes may have come before the commit.
            if !lease.is_empty() {
                log.code(&format!("{snapshotter}: collection: commit"), made);
            }
            let answer = client.update(request(namespace, lease, message)).await;
            let call = format!("{snapshotter}: collection before the label, lease {lease:?}");
            log.code(&call, answer);
        }
    }
}

/// Calls to one snapshotter in one namespace.
struct Layers<'a> {
    client: SnapshotsClient<Channel>,
    snapshotter: &'a str,
    namespace: &'a str,
}

impl Layers<'_> {
    async fn prepare(
        &self,
        lease: &str,
        key: &str,
        parent: &str,
        labels: &[(&str, &str)],
    ) -> Result<String, Status> {
        let message = snapshots::PrepareSnapshotRequest {
            snapshotter: self.snapshotter.into(),
            key: key.into(),
            parent: parent.into(),
            labels: map(labels),
        };
        let answer = self.client.clone().prepare(request(self.namespace, lease, message)).await?;
        let all = answer.into_inner().mounts.into_iter();
        Ok(all.map(|mount| mount.r#type).collect::<Vec<_>>().join(" "))
    }

    async fn view(&self, key: &str, labels: &[(&str, &str)]) -> Result<String, Status> {
        let message = snapshots::ViewSnapshotRequest {
            snapshotter: self.snapshotter.into(),
            key: key.into(),
            labels: map(labels),
            ..Default::default()
        };
        let answer = self.client.clone().view(request(self.namespace, LEASE, message)).await?;
        let all = answer.into_inner().mounts.into_iter();
        Ok(all.map(|mount| mount.r#type).collect::<Vec<_>>().join(" "))
    }

    async fn commit(&self, lease: &str, name: &str, key: &str, parent: &str) -> Result<(), Status> {
        let message = snapshots::CommitSnapshotRequest {
            snapshotter: self.snapshotter.into(),
            name: name.into(),
            key: key.into(),
            parent: parent.into(),
            ..Default::default()
        };
        self.client.clone().commit(request(self.namespace, lease, message)).await.map(drop)
    }

    async fn stat(&self, key: &str) -> Result<String, Status> {
        let message = snapshots::StatSnapshotRequest {
            snapshotter: self.snapshotter.into(),
            key: key.into(),
        };
        let answer = self.client.clone().stat(request(self.namespace, "", message)).await?;
        let info = answer.into_inner().info.unwrap_or_default();
        Ok(format!("kind {} of {:?} with {} labels", info.kind, info.parent, info.labels.len()))
    }

    async fn layer(&self, name: &str, parent: &str) {
        let key = format!("{name} active");
        self.prepare(LEASE, &key, parent, &[]).await.expect("prepare a layer");
        self.commit(LEASE, name, &key, "").await.expect("commit a layer");
    }
}

/// Somebody prepares for a layer that another namespace has, or that is there as something else.
async fn adopted(server: &Server, log: &mut Log) {
    let (owner, other) = ("differential-owner", "differential-other");
    let same = |said: String| said;
    for namespace in [owner, other] {
        server.lease(namespace, LEASE, &[]).await;
    }
    for snapshotter in ["overlayfs", "native"] {
        let client = SnapshotsClient::new(server.channel.clone());
        let owns = Layers { client: client.clone(), snapshotter, namespace: owner };
        owns.layer("base", "").await;
        owns.layer("top", "base").await;
        owns.prepare(LEASE, "open", "", &[]).await.expect("prepare");
        let call = |what: &str| format!("{snapshotter}: adoption: {what}");
        let target = |name: &'static str| [("containerd.io/snapshot.ref", name)];
        for (what, key, parent, name) in [
            ("there", "a", "base", "top"),
            ("there, of another parent", "b", "", "top"),
            ("an active one", "c", "", "open"),
            ("not there", "d", "base", "none"),
            ("its own key", "e", "base", "e"),
            ("no name", "f", "base", ""),
            ("the key is taken", "open", "base", "top"),
        ] {
            log.note(&call(what), owns.prepare(LEASE, key, parent, &target(name)).await, same);
            log.note(&call(&format!("{what}, then")), owns.stat(key).await, same);
        }
        log.note(&call("a view"), owns.view("v", &target("top")).await, same);

        let theirs = Layers { client, snapshotter, namespace: other };
        for (what, key, name) in [("a base", "a", "base"), ("a top", "b", "top")] {
            let what = format!("{what} of another namespace");
            log.note(&call(&what), theirs.prepare(LEASE, key, "", &target(name)).await, same);
            log.note(&call(&format!("{what}, the key")), theirs.stat(key).await, same);
            log.note(&call(&format!("{what}, the target")), theirs.stat(name).await, same);
        }
        log.code(&call("committed anew"), theirs.commit(LEASE, "base", "a", "").await);
        log.note(&call("and found"), theirs.prepare(LEASE, "c", "", &target("base")).await, same);
    }
}

/// A parent that is named at the commit.
async fn rebased(server: &Server, log: &mut Log) {
    let namespace = "differential-rebased";
    server.lease(namespace, LEASE, &[]).await;
    let client = SnapshotsClient::new(server.channel.clone());
    for snapshotter in ["overlayfs", "native"] {
        let layers = Layers { client: client.clone(), snapshotter, namespace };
        layers.layer("one", "").await;
        layers.layer("two", "one").await;
        for (what, before, at_commit) in [
            ("it has one", "one", "two"),
            ("it has this", "two", "two"),
            ("it has none", "", "two"),
            ("a ghost, it has one", "one", "ghost"),
            ("a ghost", "", "ghost"),
        ] {
            let call = |more: &str| format!("{snapshotter}: parent at commit: {what}{more}");
            layers.prepare(LEASE, what, before, &[]).await.expect("prepare");
            let name = format!("{what}, done");
            log.code(&call(""), layers.commit(LEASE, &name, what, at_commit).await);
            log.note(&call(", then"), layers.stat(&name).await, |said| said);
        }
    }
}

/// Which calls make their namespace, and whether that can be deleted again.
async fn implicit(server: &Server, log: &mut Log) {
    let digest = dist_core::Digest::sha256(b"nowhere").to_string();
    let named = |call: &str| format!("made-by-{call}");
    let client = SnapshotsClient::new(server.channel.clone());
    for call in ["prepare", "view", "commit", "abort", "update", "delete", "diff", "lease-rm"] {
        let namespace = &*named(call);
        let layers = Layers { client: client.clone(), snapshotter: "native", namespace };
        match call {
            "prepare" => {
                drop(layers.prepare("", "key", "", &[("containerd.io/gc.root", "x")]).await)
            }
            "view" => drop(
                client
                    .clone()
                    .view(request(
                        namespace,
                        "",
                        snapshots::ViewSnapshotRequest {
                            snapshotter: "native".into(),
                            key: "key".into(),
                            labels: map(&[("containerd.io/gc.root", "x")]),
                            ..Default::default()
                        },
                    ))
                    .await,
            ),
            "commit" => drop(layers.commit("", "name", "key", "").await),
            "abort" => {
                let message = content::AbortRequest { r#ref: "none".into() };
                drop(server.content().abort(request(namespace, "", message)).await);
            }
            "update" => {
                let info = content::Info { digest: digest.clone(), ..Default::default() };
                let message = content::UpdateRequest { info: Some(info), update_mask: None };
                drop(server.content().update(request(namespace, "", message)).await);
            }
            "delete" => {
                let message = content::DeleteContentRequest { digest: digest.clone() };
                drop(server.content().delete(request(namespace, "", message)).await);
            }
            "diff" => {
                let labels = map(&[("containerd.io/gc.root", "x")]);
                let message = DiffRequest { labels, ..Default::default() };
                let mut client = DiffClient::new(server.channel.clone());
                drop(client.diff(request(namespace, "", message)).await);
            }
            _ => {
                let message = DeleteRequest { id: "none".into(), sync: false };
                let mut client = LeasesClient::new(server.channel.clone());
                drop(client.delete(request(namespace, "", message)).await);
            }
        }
    }
    let mut client = NamespacesClient::new(server.channel.clone());
    for filter in ["", "name==made-by-prepare", "name=="] {
        let message = ListNamespacesRequest { filter: filter.into() };
        log.note(&format!("namespaces.List {filter:?}"), client.list(message).await, |answer| {
            let all = answer.into_inner().namespaces.into_iter().map(|namespace| namespace.name);
            let mut all: Vec<String> = all.filter(|name| name.starts_with("made-by")).collect();
            all.sort_unstable();
            all.join(" ")
        });
    }
}

async fn unknown_lease(server: &Server, log: &mut Log) {
    let namespace = "differential-unknown";
    server.lease(namespace, LEASE, &[]).await;
    let digest = server.blob(namespace, LEASE, b"there").await;
    let info = content::Info { digest, labels: map(&[("a", "b")]), ..Default::default() };
    let message = content::UpdateRequest { info: Some(info), update_mask: None };
    let answer = server.content().update(request(namespace, "none", message)).await;
    log.code("unknown lease: content.Update", answer);
    let message = DiffRequest { r#ref: "diff".into(), ..Default::default() };
    let answer =
        DiffClient::new(server.channel.clone()).diff(request(namespace, "none", message)).await;
    log.code("unknown lease: diff.Diff", answer);
    let mut client = LeasesClient::new(server.channel.clone());
    let message = CreateRequest { id: "another".into(), ..Default::default() };
    log.code(
        "unknown lease: leases.Create",
        client.create(request(namespace, "none", message)).await,
    );
    let message = DeleteRequest { id: "another".into(), sync: true };
    log.code(
        "unknown lease: leases.Delete",
        client.delete(request(namespace, "none", message)).await,
    );
    let layers = Layers {
        client: SnapshotsClient::new(server.channel.clone()),
        snapshotter: "native",
        namespace,
    };
    layers.layer("there", "").await;
    let message = snapshots::UpdateSnapshotRequest {
        snapshotter: "native".into(),
        info: Some(snapshots::Info { name: "there".into(), ..Default::default() }),
        update_mask: None,
    };
    let answer = layers.client.clone().update(request(namespace, "none", message)).await;
    log.code("unknown lease: snapshots.Update", answer);
}
