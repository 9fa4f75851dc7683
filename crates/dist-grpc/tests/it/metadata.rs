//! `images.v1`, `leases.v1` and `namespaces.v1` as clients use them.

use std::collections::HashMap;

use dist_core::{Digest, Resource};
use dist_grpc::LEASE_HEADER;
use dist_grpc::api::containerd::services::events::v1::events_client::EventsClient;
use dist_grpc::api::containerd::services::events::v1::{PublishRequest, SubscribeRequest};
use dist_grpc::api::containerd::services::images::v1 as images;
use dist_grpc::api::containerd::services::images::v1::images_client::ImagesClient;
use dist_grpc::api::containerd::services::leases::v1 as leases;
use dist_grpc::api::containerd::services::leases::v1::leases_client::LeasesClient;
use dist_grpc::api::containerd::services::namespaces::v1 as namespaces;
use dist_grpc::api::containerd::services::namespaces::v1::namespaces_client::NamespacesClient;
use dist_grpc::api::containerd::types::Descriptor;
use prost_types::{Any, FieldMask, Timestamp};
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::support::{Served, refused, request, request_in};

const EXPIRE: &str = "containerd.io/gc.expire";

fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn nanos(time: Option<Timestamp>) -> (i64, i32) {
    time.map(|time| (time.seconds, time.nanos)).unwrap()
}

fn mask(paths: &[&str]) -> Option<FieldMask> {
    Some(FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() })
}

fn target(content: &str) -> Descriptor {
    Descriptor {
        media_type: "application/vnd.oci.image.manifest.v1+json".into(),
        digest: Digest::sha256(content.as_bytes()).to_string(),
        size: 7,
        annotations: map(&[("a", "1")]),
    }
}

fn image(name: &str, labels: &[(&str, &str)]) -> images::Image {
    images::Image {
        name: name.into(),
        labels: map(labels),
        target: Some(target(name)),
        created_at: Some(Timestamp { seconds: 1, nanos: 0 }),
        updated_at: None,
    }
}

fn create(image: images::Image) -> images::CreateImageRequest {
    images::CreateImageRequest { image: Some(image), source_date_epoch: None }
}

fn update(image: images::Image, paths: &[&str]) -> images::UpdateImageRequest {
    let update_mask = mask(paths);
    images::UpdateImageRequest { image: Some(image), update_mask, source_date_epoch: None }
}

async fn names(client: &mut ImagesClient<Channel>, filters: &[&str]) -> Vec<String> {
    let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
    let list = client.list(request(images::ListImagesRequest { filters })).await.unwrap();
    list.into_inner().images.into_iter().map(|image| image.name).collect()
}

#[tokio::test]
async fn images_are_created_once_listed_and_deleted() {
    let served = Served::new("native");
    let mut client = ImagesClient::new(served.channel());
    let before = std::time::SystemTime::now();
    let made = client.create(request(create(image("b", &[("l", "1")])))).await.unwrap();
    let made = made.into_inner().image.unwrap();
    assert!(nanos(made.created_at) >= nanos(Some(before.into())), "what the caller says");
    assert_eq!((made.created_at, made.target.clone()), (made.updated_at, Some(target("b"))));
    let dated = images::CreateImageRequest {
        image: Some(image("a b/c", &[])),
        source_date_epoch: Some(Timestamp { seconds: 7, nanos: 5 }),
    };
    let dated = client.create(request(dated)).await.unwrap().into_inner().image.unwrap();
    assert_eq!(dated.created_at, Some(Timestamp { seconds: 7, nanos: 5 }));
    let text = refused(client.create(request(create(image("b", &[])))).await, Code::AlreadyExists);
    assert_eq!(text, "image \"b\": already exists");

    assert_eq!(names(&mut client, &[]).await, ["a b/c", "b"]);
    assert_eq!(names(&mut client, &["name==b", "labels.l==2"]).await, ["b"]);
    assert_eq!(names(&mut client, &["labels.l"]).await, ["b"]);
    let bad = images::ListImagesRequest { filters: vec!["name==".into()] };
    refused(client.list(request(bad)).await, Code::InvalidArgument);
    let other = client.list(request_in("other", images::ListImagesRequest::default())).await;
    assert!(other.unwrap().into_inner().images.is_empty());

    let get = |name: &str| request(images::GetImageRequest { name: name.into() });
    assert_eq!(client.get(get("b")).await.unwrap().into_inner().image, Some(made));
    for name in ["ghost", ""] {
        let text = refused(client.get(get(name)).await, Code::NotFound);
        assert!(text.starts_with(&format!("image {name:?}")), "{text}");
    }
    let delete = |name: &str, expected: Option<&str>| {
        let target = expected.map(target);
        request(images::DeleteImageRequest { name: name.into(), sync: true, target })
    };
    refused(client.delete(delete("b", Some("other"))).await, Code::NotFound);
    client.delete(delete("b", Some("b"))).await.unwrap();
    let text = refused(client.delete(delete("b", None)).await, Code::NotFound);
    assert_eq!(text, "image \"b\": not found");
    assert_eq!(names(&mut client, &[""]).await, ["a b/c"]);
}

#[tokio::test]
async fn an_image_needs_a_name_and_a_whole_target() {
    let served = Served::new("native");
    let mut client = ImagesClient::new(served.channel());
    let with = |change: &dyn Fn(&mut Descriptor)| {
        let mut broken = image("x", &[]);
        change(broken.target.as_mut().unwrap());
        broken
    };
    let long = "v".repeat(4096);
    let broken = [
        image("", &[]),
        images::Image { target: None, ..image("x", &[]) },
        image("x", &[("k", &long)]),
        with(&|target| target.digest = "sha256:12".into()),
        with(&|target| target.digest.clear()),
        with(&|target| target.size = 0),
        with(&|target| target.size = -1),
        with(&|target| target.media_type.clear()),
    ];
    client.create(request(create(image("x", &[])))).await.unwrap();
    for broken in broken {
        let created = client.create(request(create(broken.clone()))).await;
        refused(created, Code::InvalidArgument);
        refused(client.update(request(update(broken, &[]))).await, Code::InvalidArgument);
    }
    let none = images::CreateImageRequest::default();
    refused(client.create(request(none)).await, Code::InvalidArgument);
    let none = images::UpdateImageRequest::default();
    refused(client.update(request(none)).await, Code::InvalidArgument);
    let status = client.create(Request::new(create(image("y", &[])))).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(status.message(), "namespace is required: failed precondition");
}

#[tokio::test]
async fn an_update_changes_the_fields_of_its_mask() {
    let served = Served::new("native");
    let mut client = ImagesClient::new(served.channel());
    client.create(request(create(image("x", &[("a.b/c", "1"), ("d", "2")])))).await.unwrap();
    let mut changed = async |image: images::Image, paths: &[&str]| {
        let answer = client.update(request(update(image, paths))).await.unwrap();
        let answer = answer.into_inner().image.unwrap();
        let name = answer.name.clone();
        let read = client.get(request(images::GetImageRequest { name })).await.unwrap();
        (answer, read.into_inner().image.unwrap())
    };
    let labels_only =
        images::Image { target: None, ..image("x", &[("a.b/c", "3"), ("ignored", "1")]) };
    let (answer, read) = changed(labels_only, &["labels.a.b/c", "labels.d"]).await;
    assert_eq!(answer.labels, map(&[("a.b/c", "3")]));
    assert_eq!(read.labels, map(&[("a.b/c", "3")]));
    assert_eq!(read.target, Some(target("x")));
    assert!(nanos(read.updated_at) > nanos(read.created_at));

    let mut other = image("x", &[]);
    let annotations = map(&[("b", "2")]);
    other.target = Some(Descriptor { annotations: annotations.clone(), ..target("other") });
    let (_, read) = changed(other.clone(), &["annotations.b"]).await;
    let both = Descriptor { annotations: map(&[("a", "1"), ("b", "2")]), ..target("x") };
    assert_eq!(read.target, Some(both));
    let (_, read) = changed(other.clone(), &["annotations"]).await;
    assert_eq!(read.target, Some(Descriptor { annotations, ..target("x") }));
    let (_, read) = changed(other.clone(), &["target"]).await;
    assert_eq!((read.target, read.labels), (other.target.clone(), map(&[("a.b/c", "3")])));
    let (_, read) = changed(image("x", &[("n", "1")]), &[]).await;
    assert_eq!((read.target, read.labels), (Some(target("x")), map(&[("n", "1")])));

    for path in ["name", "created_at", "labelsx", ""] {
        let bad = client.update(request(update(image("x", &[]), &[path]))).await;
        let text = refused(bad, Code::InvalidArgument);
        assert!(
            text.starts_with(&format!("cannot update {path:?} field on image \"x\"")),
            "{text}"
        );
    }
    let text = refused(client.update(request(update(image("y", &[]), &[]))).await, Code::NotFound);
    assert_eq!(text, "image \"y\": not found");
}

#[tokio::test]
async fn changes_are_told_after_they_happened() {
    let served = Served::new("native");
    let mut events = EventsClient::new(served.channel());
    let all = events.subscribe(request(SubscribeRequest::default())).await.unwrap();
    let mut all = all.into_inner();
    let mut client = ImagesClient::new(served.channel());
    let mut spaces = NamespacesClient::new(served.channel());
    let space = |labels: &[(&str, &str)]| {
        Some(namespaces::Namespace { name: "n".into(), labels: map(labels) })
    };
    client.create(request(create(image("x", &[("l", "1")])))).await.unwrap();
    client.update(request(update(image("x", &[]), &["labels"]))).await.unwrap();
    let delete = images::DeleteImageRequest { name: "x".into(), ..Default::default() };
    client.delete(request(delete)).await.unwrap();
    let request_of = |namespace| namespaces::CreateNamespaceRequest { namespace };
    spaces.create(Request::new(request_of(space(&[("l", "1")])))).await.unwrap();
    let update = namespaces::UpdateNamespaceRequest {
        namespace: space(&[("l", "2")]),
        update_mask: mask(&["labels.l"]),
    };
    spaces.update(request(update)).await.unwrap();
    let delete = namespaces::DeleteNamespaceRequest { name: "n".into() };
    spaces.delete(request(delete)).await.unwrap();
    let mut told = Vec::new();
    while told.len() < 6 {
        let envelope = all.message().await.unwrap().unwrap();
        told.push((envelope.namespace, envelope.topic, envelope.event.unwrap().type_url));
    }
    let expected = [
        ("default", "/images/create", "containerd.services.images.v1.ImageCreate"),
        ("default", "/images/update", "containerd.services.images.v1.ImageUpdate"),
        ("default", "/images/delete", "containerd.services.images.v1.ImageDelete"),
        ("n", "/namespaces/create", "containerd.events.NamespaceCreate"),
        ("default", "/namespaces/update", "containerd.events.NamespaceUpdate"),
        ("n", "/namespaces/delete", "containerd.events.NamespaceDelete"),
    ]
    .map(|(namespace, topic, url)| (namespace.to_owned(), topic.to_owned(), url.to_owned()));
    assert_eq!(told, expected);
}

#[tokio::test]
async fn an_event_of_any_size_reaches_who_waits_for_nothing_else() {
    let served = Served::new("native");
    // Each on a connection of its own: what one is answered must not push the other's along.
    let mut subscriber = EventsClient::new(served.channel());
    let mut publisher = EventsClient::new(served.channel());
    let all = subscriber.subscribe(request(SubscribeRequest::default())).await.unwrap();
    let mut all = all.into_inner();
    for about in [8 << 10, 16 << 10, 32 << 10, 256 << 10, 512 << 10] {
        for length in [about - 160, about - 9, about, about + 9] {
            let event = Any { type_url: "x".into(), value: vec![7; length] };
            let publish = PublishRequest { topic: "/any".into(), event: Some(event.clone()) };
            publisher.publish(request(publish)).await.unwrap();
            let told = all.message().await.unwrap().unwrap();
            assert!(told.event == Some(event), "{length} bytes");
        }
    }
}

#[tokio::test]
async fn leases_hold_whatever_they_are_given() {
    let served = Served::new("native");
    let mut client = LeasesClient::new(served.channel());
    let create = |id: &str, labels: &[(&str, &str)]| {
        request(leases::CreateRequest { id: id.into(), labels: map(labels) })
    };
    let made = client.create(create("mine", &[("l", "1")])).await.unwrap();
    let made = made.into_inner().lease.unwrap();
    assert_eq!((made.id.as_str(), &made.labels), ("mine", &map(&[("l", "1")])));
    let text = refused(client.create(create("mine", &[])).await, Code::AlreadyExists);
    assert_eq!(text, "lease \"mine\": already exists");
    let random = client.create(create("", &[])).await.unwrap().into_inner().lease.unwrap();
    assert!(!random.id.is_empty());
    let filters = vec!["labels.l==1".to_owned()];
    let list = client.list(request(leases::ListRequest { filters })).await.unwrap();
    assert_eq!(list.into_inner().leases, [made]);

    let resource = |id: &str, kind: &str| {
        let resource = leases::Resource { id: id.into(), r#type: kind.into() };
        request(leases::AddResourceRequest { id: "mine".into(), resource: Some(resource) })
    };
    let digest = Digest::sha256(b"not there").to_string();
    client.add_resource(resource(&digest, "content")).await.unwrap();
    client.add_resource(resource("a ref", "ingests")).await.unwrap();
    client.add_resource(resource("a key", "snapshots/overlayfs")).await.unwrap();
    refused(client.add_resource(resource("x", "content")).await, Code::InvalidArgument);
    refused(client.add_resource(resource("x", "snapshots")).await, Code::InvalidArgument);
    refused(client.add_resource(resource("x", "tasks")).await, Code::Unimplemented);
    let ghost = leases::AddResourceRequest { id: "ghost".into(), resource: None };
    refused(client.add_resource(request(ghost)).await, Code::InvalidArgument);
    let listed = |id: &str| request(leases::ListResourcesRequest { id: id.into() });
    let held = client.list_resources(listed("mine")).await.unwrap().into_inner().resources;
    let held: Vec<_> = held.iter().map(|r| (r.r#type.as_str(), r.id.as_str())).collect();
    let expected =
        [("content", digest.as_str()), ("ingests", "a ref"), ("snapshots/overlayfs", "a key")];
    assert_eq!(held, expected);

    for _ in 0..2 {
        let resource = leases::Resource { id: digest.clone(), r#type: "content".into() };
        let delete = leases::DeleteResourceRequest { id: "mine".into(), resource: Some(resource) };
        client.delete_resource(request(delete)).await.unwrap();
    }
    let none = leases::DeleteResourceRequest { id: "mine".into(), resource: None };
    refused(client.delete_resource(request(none)).await, Code::InvalidArgument);
    let held = client.list_resources(listed("mine")).await.unwrap().into_inner().resources;
    assert_eq!(held.len(), 2);

    let delete = |id: &str| request(leases::DeleteRequest { id: id.into(), sync: true });
    client.delete(delete("mine")).await.unwrap();
    for text in [
        refused(client.delete(delete("mine")).await, Code::NotFound),
        refused(client.list_resources(listed("mine")).await, Code::NotFound),
    ] {
        assert_eq!(text, "lease \"mine\": not found");
    }
}

#[tokio::test]
async fn the_lease_of_the_header_holds_what_a_request_makes() {
    let served = Served::new("native");
    let mut client = LeasesClient::new(served.channel());
    let mut images = ImagesClient::new(served.channel());
    let lease = leases::CreateRequest { id: "mine".into(), ..Default::default() };
    client.create(request(lease)).await.unwrap();
    let leased = |lease: &str, image| {
        let mut request = request(create(image));
        request.metadata_mut().insert(LEASE_HEADER, lease.parse().unwrap());
        request
    };
    let expires = |name| image(name, &[(EXPIRE, "2040-01-01T00:00:00Z")]);
    images.create(leased("mine", image("stays", &[]))).await.unwrap();
    images.create(leased("ghost", image("as well", &[]))).await.unwrap();
    images.create(leased("mine", expires("goes"))).await.unwrap();
    let text = refused(images.create(leased("ghost", expires("no"))).await, Code::NotFound);
    assert_eq!(text, "lease \"ghost\" does not exist: not found");
    let store = served.engine.store().leases(served.engine.namespace());
    let held = store.resources(&"mine".parse().unwrap()).unwrap();
    assert_eq!(held, [Resource::Image("goes".parse().unwrap())]);
}

#[tokio::test]
async fn namespaces_begin_by_themselves_and_end_when_they_are_empty() {
    let served = Served::new("native");
    let mut client = NamespacesClient::new(served.channel());
    let mut images = ImagesClient::new(served.channel());
    let space = |name: &str, labels: &[(&str, &str)]| {
        Some(namespaces::Namespace { name: name.into(), labels: map(labels) })
    };
    let get = |name: &str| Request::new(namespaces::GetNamespaceRequest { name: name.into() });
    for unknown in ["n", "not a name"] {
        let got = client.get(get(unknown)).await.unwrap().into_inner().namespace;
        assert_eq!(got, space(unknown, &[]));
    }
    let list = Request::new(namespaces::ListNamespacesRequest::default());
    assert_eq!(client.list(list).await.unwrap().into_inner().namespaces, []);
    let create = |namespace| Request::new(namespaces::CreateNamespaceRequest { namespace });
    client.create(create(space("n", &[("l", "1")]))).await.unwrap();
    let text = refused(client.create(create(space("n", &[]))).await, Code::AlreadyExists);
    assert_eq!(text, "namespace \"n\": already exists");
    for broken in
        [None, space("a..b", &[]), space("", &[]), space("x", &[("k", &"v".repeat(4096))])]
    {
        refused(client.create(create(broken)).await, Code::InvalidArgument);
    }
    images.create(request_in("m", self::create(image("x", &[])))).await.unwrap();
    let list = Request::new(namespaces::ListNamespacesRequest::default());
    let found = client.list(list).await.unwrap().into_inner().namespaces;
    assert_eq!(found, [space("m", &[]).unwrap(), space("n", &[("l", "1")]).unwrap()]);

    let update = |namespace, paths: &[&str]| {
        let update_mask = mask(paths);
        Request::new(namespaces::UpdateNamespaceRequest { namespace, update_mask })
    };
    client.update(update(space("n", &[("m", "2")]), &["labels.m", "labels.l"])).await.unwrap();
    let got = client.get(get("n")).await.unwrap().into_inner().namespace;
    assert_eq!(got, space("n", &[("m", "2")]));
    client.update(update(space("new", &[("m", "2")]), &[])).await.unwrap();
    let got = client.get(get("new")).await.unwrap().into_inner().namespace;
    assert_eq!(got, space("new", &[("m", "2")]));
    for path in ["labels", "name", ""] {
        let text =
            refused(client.update(update(space("n", &[]), &[path])).await, Code::InvalidArgument);
        assert_eq!(text, format!("cannot update {path:?} field: invalid argument"));
    }
    refused(client.update(update(None, &[])).await, Code::InvalidArgument);

    let delete =
        |name: &str| Request::new(namespaces::DeleteNamespaceRequest { name: name.into() });
    let text = refused(client.delete(delete("m")).await, Code::FailedPrecondition);
    let expected = "namespace \"m\" must be empty, but it still has images: failed precondition";
    assert_eq!(text, expected);
    client.delete(delete("n")).await.unwrap();
    for name in ["n", "not a name"] {
        let text = refused(client.delete(delete(name)).await, Code::NotFound);
        assert!(text.starts_with(&format!("namespace {name:?}")), "{text}");
    }
}
