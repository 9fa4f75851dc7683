//! Leases: what they take, what they hold, and what is collected without them.

use api::content::v1::InfoRequest;
use api::images::v1::images_client::ImagesClient;
use api::leases::v1::leases_client::LeasesClient;
use api::{images::v1 as images, leases::v1 as leases};
use dist_grpc::api::containerd::services as api;

use super::super::Log;
use super::{NS, TYPE, digest, image, map};
use crate::wire::{Server, commit, request, stat};

pub(super) async fn leases(server: &Server, log: &mut Log) {
    let mut client = LeasesClient::new(server.channel.clone());
    for (id, labels) in [
        ("one", &[("a", "1")][..]),
        ("one", &[]),
        ("two", &[]),
        ("a b", &[]),
        ("a/b", &[]),
        ("expire", &[("containerd.io/gc.expire", "tomorrow")]),
        ("empty-expire", &[("containerd.io/gc.expire", "")]),
        ("date", &[("containerd.io/gc.expire", "2999-01-01T00:00:00Z")]),
    ] {
        let message = leases::CreateRequest { id: id.into(), labels: map(labels) };
        let call = format!("leases.Create {id:?}");
        log.code(&call, client.create(request(NS, "", message)).await);
    }
    let long =
        leases::CreateRequest { id: "long".into(), labels: map(&[("k", &"v".repeat(4096))]) };
    log.code("leases.Create, long label", client.create(request(NS, "", long)).await);
    let message = leases::DeleteRequest { id: "long".into(), sync: false };
    log.code("leases.Delete, long label", client.delete(request(NS, "", message)).await);
    for (id, kind) in [
        (&*digest(), "content"),
        ("sha256:beef", "content"),
        ("an ingest", "ingests"),
        ("an image", "images"),
        ("", "images"),
        ("a snapshot", "snapshots/overlayfs"),
        ("a snapshot", "snapshots/none"),
        ("a snapshot", "snapshots"),
        ("a snapshot", "snapshots/"),
        ("a", "none"),
        ("a", ""),
        ("a", "content/x"),
        ("a", "leases"),
    ] {
        let resource = Some(leases::Resource { id: id.into(), r#type: kind.into() });
        let add = leases::AddResourceRequest { id: "one".into(), resource: resource.clone() };
        log.code(
            &format!("leases.AddResource {kind:?} {id:?}"),
            client.add_resource(request(NS, "", add)).await,
        );
        let again = leases::DeleteResourceRequest { id: "two".into(), resource };
        log.code(
            &format!("leases.DeleteResource, not held, {kind:?} {id:?}"),
            client.delete_resource(request(NS, "", again)).await,
        );
    }
    let resource = Some(leases::Resource { id: digest(), r#type: "content".into() });
    let unknown = leases::AddResourceRequest { id: "none".into(), resource: resource.clone() };
    log.code(
        "leases.AddResource, unknown lease",
        client.add_resource(request(NS, "", unknown)).await,
    );
    let unknown = leases::DeleteResourceRequest { id: "none".into(), resource };
    log.code(
        "leases.DeleteResource, unknown lease",
        client.delete_resource(request(NS, "", unknown)).await,
    );
    let nothing = leases::AddResourceRequest { id: "one".into(), resource: None };
    log.code("absent: leases.AddResource", client.add_resource(request(NS, "", nothing)).await);
    let nothing = leases::DeleteResourceRequest { id: "one".into(), resource: None };
    log.code(
        "absent: leases.DeleteResource",
        client.delete_resource(request(NS, "", nothing)).await,
    );
    for id in ["one", "two", "none", ""] {
        log.note(&format!("leases.ListResources {id:?}"), resources(server, NS, id).await, |all| {
            all
        });
    }
    for filters in [
        &[][..],
        &[""],
        &["id==one"],
        &["labels.a==1"],
        &["labels.none!=1"],
        &["id=="],
        &["id~=["],
        &["id!=one"],
    ] {
        let filters: Vec<String> = filters.iter().map(|filter| (*filter).to_owned()).collect();
        let call = format!("leases.List {filters:?}");
        let answer = client.list(request(NS, "", leases::ListRequest { filters })).await;
        log.note(&call, answer, |answer| {
            let mut all: Vec<String> =
                answer.into_inner().leases.into_iter().map(|lease| lease.id).collect();
            all.sort_unstable();
            all.join(" ")
        });
    }
    for (id, sync) in [("two", false), ("none", false), ("none", true), ("", false)] {
        let message = leases::DeleteRequest { id: id.into(), sync };
        log.code(
            &format!("leases.Delete {id:?}, {sync}"),
            client.delete(request(NS, "", message)).await,
        );
    }
}

async fn resources(server: &Server, namespace: &str, lease: &str) -> Result<String, tonic::Status> {
    let message = leases::ListResourcesRequest { id: lease.into() };
    let answer = LeasesClient::new(server.channel.clone())
        .list_resources(request(namespace, "", message))
        .await?;
    let all = answer.into_inner().resources.into_iter();
    let mut all: Vec<String> = all.map(|held| format!("{} {}", held.r#type, held.id)).collect();
    all.sort_unstable();
    Ok(all.join(", "))
}

/// What comes into a lease by a write, and what an unknown lease does to each.
pub(super) async fn held(server: &Server, log: &mut Log) {
    let namespace = "differential-held";
    for id in ["a", "b"] {
        server.lease(namespace, id, &[]).await;
    }
    let digest = server.blob(namespace, "a", b"held").await;
    log.note("lease: a blob", resources(server, namespace, "a").await, |all| all);
    let mut writer = server.writer(namespace, "b");
    log.code("lease: a blob that is there", writer.say(commit("again", b"held")).await);
    log.note("lease: holds it too", resources(server, namespace, "b").await, |all| all);
    let mut writer = server.writer(namespace, "b");
    log.code("lease: an ingest", writer.say(stat("open")).await);
    writer.close().await;
    log.note("lease: holds the ingest", resources(server, namespace, "b").await, |all| all);
    let mut images = ImagesClient::new(server.channel.clone());
    for (name, labels) in
        [("plain", &[][..]), ("expires", &[("containerd.io/gc.expire", "2999-01-01T00:00:00Z")])]
    {
        let image = images::Image { labels: map(labels), ..image(name, &digest, 4, TYPE) };
        let message = images::CreateImageRequest { image: Some(image), ..Default::default() };
        log.code(
            &format!("lease: an image, {name}"),
            images.create(request(namespace, "b", message)).await,
        );
    }
    log.note("lease: holds the images", resources(server, namespace, "b").await, |all| all);

    let mut writer = server.writer(namespace, "none");
    log.code("unknown lease: write", writer.say(stat("x")).await);
    writer.close().await;
    let mut writer = server.writer(namespace, "none");
    log.code(
        "unknown lease: write what is there",
        writer
            .say(api::content::v1::WriteContentRequest { expected: digest.clone(), ..stat("y") })
            .await,
    );
    for (name, labels) in [
        ("unknown", &[][..]),
        ("unknown-expires", &[("containerd.io/gc.expire", "2999-01-01T00:00:00Z")]),
    ] {
        let image = images::Image { labels: map(labels), ..image(name, &digest, 4, TYPE) };
        let message = images::CreateImageRequest { image: Some(image), ..Default::default() };
        log.code(
            &format!("unknown lease: image, {name}"),
            images.create(request(namespace, "none", message)).await,
        );
    }
    let image = images::UpdateImageRequest {
        image: Some(image("plain", &digest, 4, TYPE)),
        ..Default::default()
    };
    log.code(
        "unknown lease: images.Update",
        images.update(request(namespace, "none", image)).await,
    );
    let delete = images::DeleteImageRequest { name: "plain".into(), ..Default::default() };
    log.code(
        "unknown lease: images.Delete",
        images.delete(request(namespace, "none", delete)).await,
    );
    let mut content = server.content();
    let abort = api::content::v1::AbortRequest { r#ref: "open".into() };
    log.code(
        "unknown lease: content.Abort",
        content.abort(request(namespace, "none", abort)).await,
    );
    let info = InfoRequest { digest: digest.clone() };
    log.code("unknown lease: content.Info", content.info(request(namespace, "none", info)).await);
    let delete = api::content::v1::DeleteContentRequest { digest };
    log.code(
        "unknown lease: content.Delete",
        content.delete(request(namespace, "none", delete)).await,
    );
}

/// What a collection leaves.
pub(super) async fn collected(server: &Server, log: &mut Log) {
    let namespace = "differential-gc";
    let mut client = LeasesClient::new(server.channel.clone());
    for (id, labels) in [
        ("held", &[][..]),
        ("flat", &[("containerd.io/gc.flat", "yes")]),
        ("expired", &[("containerd.io/gc.expire", "2001-01-01T00:00:00Z")]),
        ("sync", &[]),
    ] {
        server.lease(namespace, id, labels).await;
    }
    // All is under a lease that only the last call deletes: no collection between can take any.
    let mut blobs = Vec::new();
    for (name, lease, labels) in [
        ("bare", "", &[][..]),
        ("root", "", &[("containerd.io/gc.root", "x")]),
        ("child of held", "", &[]),
        ("child of flat", "", &[]),
        ("leased", "held", &[]),
        ("expired", "expired", &[]),
    ] {
        let message = api::content::v1::WriteContentRequest {
            labels: map(labels),
            ..commit(name, name.as_bytes())
        };
        server.writer(namespace, "sync").say(message).await.expect("write a blob");
        if !lease.is_empty() {
            server
                .writer(namespace, lease)
                .say(commit(name, name.as_bytes()))
                .await
                .expect_err("it is there");
        }
        blobs.push((name, dist_core::Digest::sha256(name.as_bytes()).to_string()));
    }
    for (name, lease) in [("parent of held", "held"), ("parent of flat", "flat")] {
        let child =
            dist_core::Digest::sha256(name.replace("parent", "child").as_bytes()).to_string();
        let labels = map(&[("containerd.io/gc.ref.content.child", &child)]);
        let message =
            api::content::v1::WriteContentRequest { labels, ..commit(name, name.as_bytes()) };
        server.writer(namespace, lease).say(message).await.expect("write a blob");
        blobs.push((name, dist_core::Digest::sha256(name.as_bytes()).to_string()));
    }
    let message = leases::DeleteRequest { id: "sync".into(), sync: true };
    log.code("collection: by leases.Delete", client.delete(request(namespace, "", message)).await);
    for (name, digest) in blobs {
        let info = server.content().info(request(namespace, "", InfoRequest { digest })).await;
        log.code(&format!("collection: {name}"), info);
    }
    let answer = client.list(request(namespace, "", leases::ListRequest::default())).await;
    log.note("collection: leases", answer, |answer| {
        let mut all: Vec<String> =
            answer.into_inner().leases.into_iter().map(|lease| lease.id).collect();
        all.sort_unstable();
        all.join(" ")
    });
}
