//! Namespaces, leases, images, events, introspection: what they refuse and what they leave.

mod kept;

use std::collections::HashMap;

use api::events::v1::events_client::EventsClient;
use api::images::v1::images_client::ImagesClient;
use api::introspection::v1::introspection_client::IntrospectionClient;
use api::leases::v1::leases_client::LeasesClient;
use api::namespaces::v1::namespaces_client::NamespacesClient;
use api::{events::v1 as events, images::v1 as images, leases::v1 as leases};
use api::{introspection::v1 as introspection, namespaces::v1 as namespaces};
use dist_grpc::NAMESPACE_HEADER;
use dist_grpc::api::containerd::services as api;
use dist_grpc::api::containerd::types::Descriptor;
use prost_types::{Any, FieldMask};
use tonic::Request;

use super::Log;
use crate::wire::{Server, commit, request, stat};

pub(super) const NS: &str = "differential";

pub(super) const TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

pub(crate) async fn calls(server: &Server, log: &mut Log) {
    headers(server, log).await;
    implicit(server, log).await;
    namespaces(server, log).await;
    super::images::calls(server, log).await;
    kept::leases(server, log).await;
    kept::held(server, log).await;
    kept::collected(server, log).await;
    events(server, log).await;
    introspection(server, log).await;
}

pub(super) fn map(labels: &[(&str, &str)]) -> HashMap<String, String> {
    labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

pub(super) fn sorted(labels: HashMap<String, String>) -> String {
    let mut labels: Vec<String> =
        labels.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    labels.sort_unstable();
    labels.join(" ")
}

pub(super) fn mask(paths: &[&str]) -> Option<FieldMask> {
    let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
    (!paths.is_empty()).then_some(FieldMask { paths })
}

async fn headers(server: &Server, log: &mut Log) {
    let mut client = ImagesClient::new(server.channel.clone());
    let long = "a".repeat(77);
    for namespace in ["", "a", &long[1..], &long, "a..b", "a.b_c-d", "-a", "a-", "a/b", "A", "ä"] {
        let answer =
            client.list(request(namespace, "", images::ListImagesRequest::default())).await;
        log.code(&format!("namespace {namespace:?}"), answer);
    }
    for (first, second) in [("one", "two"), ("a..b", "two"), ("one", "a..b")] {
        let mut two = Request::new(images::ListImagesRequest::default());
        for value in [first, second] {
            two.metadata_mut().append(NAMESPACE_HEADER, value.parse().expect("a header's value"));
        }
        log.code(&format!("two namespaces, {first} and {second}"), client.list(two).await);
    }
    let mut writer = server.writer("", "");
    log.code("no namespace: content.Write", writer.say(stat("x")).await);
    let mut client = LeasesClient::new(server.channel.clone());
    log.code("no namespace: leases.List", client.list(leases::ListRequest::default()).await);
}

pub(super) fn image(name: &str, digest: &str, size: i64, media_type: &str) -> images::Image {
    images::Image {
        name: name.to_owned(),
        target: Some(Descriptor {
            media_type: media_type.to_owned(),
            digest: digest.to_owned(),
            size,
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub(super) fn digest() -> String {
    dist_core::Digest::sha256(b"target").to_string()
}

async fn implicit(server: &Server, log: &mut Log) {
    let before = "implicit";
    let mut writer = server.writer(&format!("{before}-stat"), "");
    let _ = writer.say(stat("x")).await;
    writer.close().await;
    let mut writer = server.writer(&format!("{before}-commit"), "");
    let labels = map(&[("containerd.io/gc.root", "x")]);
    let message = api::content::v1::WriteContentRequest { labels, ..commit("x", b"implicit") };
    let _ = writer.say(message).await;
    let image = Some(image("x", &digest(), 6, TYPE));
    let create = images::CreateImageRequest { image, ..Default::default() };
    let mut client = ImagesClient::new(server.channel.clone());
    let _ = client.create(request(&format!("{before}-image"), "", create)).await;
    let _ = client.list(request(&format!("{before}-read"), "", Default::default())).await;
    let delete = images::DeleteImageRequest { name: "x".into(), ..Default::default() };
    let _ = client.delete(request(&format!("{before}-delete"), "", delete)).await;
    let mut client = LeasesClient::new(server.channel.clone());
    let create = leases::CreateRequest { id: "kept".into(), ..Default::default() };
    let _ = client.create(request(&format!("{before}-lease"), "", create)).await;
    let mut client = NamespacesClient::new(server.channel.clone());
    let answer = client.list(namespaces::ListNamespacesRequest::default()).await;
    log.note("namespaces: made by writing", answer, |answer| {
        let all = answer.into_inner().namespaces.into_iter().map(|namespace| namespace.name);
        let mut all: Vec<String> = all.filter(|name| name.starts_with("implicit")).collect();
        all.sort_unstable();
        all.join(" ")
    });
    for name in ["commit", "image", "lease", "stat", "none"] {
        let message = namespaces::DeleteNamespaceRequest { name: format!("{before}-{name}") };
        log.code(&format!("namespaces.Delete with a {name}"), client.delete(message).await);
    }
}

async fn namespaces(server: &Server, log: &mut Log) {
    let mut client = NamespacesClient::new(server.channel.clone());
    let named = |name: &str, labels: &[(&str, &str)]| {
        Some(namespaces::Namespace { name: name.into(), labels: map(labels) })
    };
    for name in ["made", "made", "a..b", "", "/"] {
        let message = namespaces::CreateNamespaceRequest { namespace: named(name, &[("a", "b")]) };
        let call = format!("namespaces.Create {name:?}");
        log.code(&call, client.create(request(NS, "", message)).await);
    }
    let long = "v".repeat(4096);
    let message = namespaces::CreateNamespaceRequest { namespace: named("long", &[("k", &long)]) };
    log.code("namespaces.Create, long label", client.create(request(NS, "", message)).await);
    let message = namespaces::CreateNamespaceRequest { namespace: named("bare", &[]) };
    log.code("namespaces.Create without a namespace", client.create(message).await);
    let message = namespaces::UpdateNamespaceRequest {
        namespace: named("bare", &[("x", "1")]),
        update_mask: mask(&["labels.x"]),
    };
    log.code("namespaces.Update without a namespace", client.update(message).await);
    let message = namespaces::DeleteNamespaceRequest { name: "bare".into() };
    log.code("namespaces.Delete without a namespace", client.delete(message).await);
    for name in ["made", "none", "a..b", ""] {
        let answer = client.get(namespaces::GetNamespaceRequest { name: name.into() }).await;
        log.note(&format!("namespaces.Get {name:?}"), answer, |answer| {
            sorted(answer.into_inner().namespace.map(|found| found.labels).unwrap_or_default())
        });
    }
    for (name, paths, labels) in [
        ("made", &["labels.x"][..], &[("x", "1"), ("y", "2")][..]),
        ("unmade", &["labels.x"], &[("x", "1")]),
        ("made", &["labels.x"], &[("x", "")]),
        ("made", &["labels"], &[("x", "1")]),
        ("made", &["name"], &[]),
        ("made", &["labels.k"], &[("k", &long)]),
        ("made", &[], &[("z", "3")]),
        ("", &["labels.x"], &[("x", "1")]),
    ] {
        let message = namespaces::UpdateNamespaceRequest {
            namespace: named(name, labels),
            update_mask: mask(paths),
        };
        let call = format!("namespaces.Update {name:?} {paths:?} {} labels", labels.len());
        log.note(&call, client.update(request(NS, "", message)).await, |answer| {
            sorted(answer.into_inner().namespace.map(|found| found.labels).unwrap_or_default())
        });
    }
    let nothing = namespaces::CreateNamespaceRequest { namespace: None };
    log.code("absent: namespaces.Create", client.create(request(NS, "", nothing)).await);
    let nothing = namespaces::UpdateNamespaceRequest { namespace: None, update_mask: None };
    log.code("absent: namespaces.Update", client.update(request(NS, "", nothing)).await);
    for name in ["made", "made", "", "a..b"] {
        let message = namespaces::DeleteNamespaceRequest { name: name.into() };
        let call = format!("namespaces.Delete {name:?}");
        log.code(&call, client.delete(message).await);
    }
}

async fn events(server: &Server, log: &mut Log) {
    let mut client = EventsClient::new(server.channel.clone());
    for topic in ["/a", "/a/b", "/a/b/c", "", "/", "a/b", "/a b", "/a//b", "/a/"] {
        let event = Some(Any { type_url: "x".into(), value: Vec::new() });
        let message = events::PublishRequest { topic: topic.into(), event };
        log.code(
            &format!("events.Publish {topic:?}"),
            client.publish(request(NS, "", message)).await,
        );
    }
    let event = Some(Any { type_url: "x".into(), value: Vec::new() });
    let message = events::PublishRequest { topic: "/a".into(), event };
    log.code("events.Publish without a namespace", client.publish(message).await);
    if !server.fragile {
        let message = events::PublishRequest { topic: "/a".into(), event: None };
        log.code("absent: events.Publish", client.publish(request(NS, "", message)).await);
        let envelope = events::Envelope {
            namespace: NS.into(),
            topic: "/a".into(),
            timestamp: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
            event: None,
        };
        let message = events::ForwardRequest { envelope: Some(envelope) };
        log.code("absent: the event to forward", client.forward(request(NS, "", message)).await);
        let nothing = events::ForwardRequest { envelope: None };
        log.code("absent: events.Forward", client.forward(request(NS, "", nothing)).await);
    }
    for (call, envelope) in [
        ("empty", events::Envelope::default()),
        (
            "no time",
            events::Envelope { namespace: NS.into(), topic: "/a".into(), ..Default::default() },
        ),
        (
            "whole",
            events::Envelope {
                namespace: NS.into(),
                topic: "/a".into(),
                timestamp: Some(prost_types::Timestamp::default()),
                event: Some(Any { type_url: "x".into(), value: Vec::new() }),
            },
        ),
        (
            "bad namespace",
            events::Envelope {
                namespace: "a..b".into(),
                topic: "/a".into(),
                timestamp: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
                event: Some(Any { type_url: "x".into(), value: Vec::new() }),
            },
        ),
    ] {
        let message = events::ForwardRequest { envelope: Some(envelope) };
        log.code(
            &format!("events.Forward: {call}"),
            client.forward(request(NS, "", message)).await,
        );
    }
    let message = events::SubscribeRequest { filters: vec!["topic==".into()] };
    let answer = async { client.subscribe(message).await?.into_inner().message().await };
    log.code("events.Subscribe, filter that is none", answer.await);
}

async fn introspection(server: &Server, log: &mut Log) {
    let mut client = IntrospectionClient::new(server.channel.clone());
    for filters in [
        &["type==io.containerd.snapshotter.v1,id==overlayfs"][..],
        &["type==io.containerd.snapshotter.v1,id==native"],
        &["type==io.containerd.content.v1"],
        &["id==none"],
        &["type=="],
        &["id~=("],
        &["type==io.containerd.differ.v1,id==walking"],
    ] {
        let filters: Vec<String> = filters.iter().map(|filter| (*filter).to_owned()).collect();
        let call = format!("introspection.Plugins {filters:?}");
        let answer = client.plugins(introspection::PluginsRequest { filters }).await;
        log.note(&call, answer, |answer| {
            let all = answer.into_inner().plugins.into_iter();
            all.map(|plugin| format!("{} {} {}", plugin.r#type, plugin.id, plugin.platforms.len()))
                .collect::<Vec<_>>()
                .join(", ")
        });
    }
    let mut ready = tonic::client::Grpc::new(server.channel.clone());
    ready.ready().await.expect("a connection");
    let path = http::uri::PathAndQuery::from_static("/containerd.services.none.v1.None/Call");
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let answer = ready.unary(Request::new(()), path, codec).await;
    log.note(
        "a service that is none",
        answer.map_err(|status| tonic::Status::new(status.code(), "")),
        |_| String::new(),
    );
}
