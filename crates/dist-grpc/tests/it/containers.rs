//! `containers.v1`: what a container keeps, and what is told of it.

use dist_core::{Labels, SnapshotKey, SnapshotKind};
use dist_grpc::api::containerd::events as ev;
use dist_grpc::api::containerd::services::containers::v1 as api;
use dist_grpc::api::containerd::services::containers::v1::containers_client::ContainersClient;
use dist_grpc::api::containerd::services::events::v1::SubscribeRequest;
use dist_grpc::api::containerd::services::events::v1::events_client::EventsClient;
use dist_grpc::api::containerd::services::leases::v1 as leases;
use dist_grpc::api::containerd::services::leases::v1::leases_client::LeasesClient;
use prost::Message as _;
use prost_types::{Any, FieldMask};
use tonic::Code;

use crate::support::{Served, refused, request};

fn container(id: &str, snapshot: &str) -> api::Container {
    let runtime = Some(api::container::Runtime { name: "mine".into(), options: None });
    api::Container {
        id: id.into(),
        image: "an image".into(),
        runtime,
        spec: Some(Any { type_url: "spec".into(), value: vec![0, 255, 1] }),
        snapshotter: "native".into(),
        snapshot_key: snapshot.into(),
        ..Default::default()
    }
}

/// Collects, and tells which snapshots there still are.
async fn left(served: &Served) -> Vec<String> {
    let mut client = LeasesClient::new(served.channel());
    let lease = leases::CreateRequest { id: "l".into(), ..Default::default() };
    client.create(request(lease)).await.unwrap();
    client.delete(request(leases::DeleteRequest { id: "l".into(), sync: true })).await.unwrap();
    let snapshots = served.engine.store().snapshots(served.engine.namespace(), "native");
    let mut keys: Vec<String> =
        snapshots.list().unwrap().into_iter().map(|info| info.key.to_string()).collect();
    keys.sort();
    keys
}

#[tokio::test]
async fn a_container_keeps_its_snapshot_as_long_as_it_is_there() {
    let served = Served::new("native");
    let mut client = ContainersClient::new(served.channel());
    let snapshots = served.engine.store().snapshots(served.engine.namespace(), "native");
    for key in ["one", "two"] {
        let key: SnapshotKey = key.parse().unwrap();
        snapshots.insert(&key, None, SnapshotKind::Active, &Labels::new()).unwrap();
    }
    let create = api::CreateContainerRequest { container: Some(container("c", "one")) };
    client.create(request(create)).await.unwrap();
    assert_eq!(left(&served).await, ["one"]);
    let key: SnapshotKey = "two".parse().unwrap();
    snapshots.insert(&key, None, SnapshotKind::Active, &Labels::new()).unwrap();
    let update = api::UpdateContainerRequest {
        container: Some(container("c", "two")),
        update_mask: Some(FieldMask { paths: vec!["snapshotkey".into()] }),
    };
    client.update(request(update)).await.unwrap();
    assert_eq!(left(&served).await, ["two"]);
    client.delete(request(api::DeleteContainerRequest { id: "c".into() })).await.unwrap();
    assert!(left(&served).await.is_empty());
}

#[tokio::test]
async fn changes_of_containers_are_told() {
    let served = Served::new("native");
    let mut client = ContainersClient::new(served.channel());
    let mut events = EventsClient::new(served.channel());
    let filters = vec![
        r#"topic=="/containers/create",event.runtime.name==mine,event.id==c"#.to_owned(),
        r#"topic=="/containers/update",event.labels.a==b"#.to_owned(),
        r#"topic=="/containers/delete",event.id==c"#.to_owned(),
    ];
    let told = events.subscribe(request(SubscribeRequest { filters })).await.unwrap();
    let mut told = told.into_inner();
    for id in ["other", "c"] {
        let create = api::CreateContainerRequest { container: Some(container(id, "")) };
        client.create(request(create)).await.unwrap();
    }
    let create = api::CreateContainerRequest { container: Some(container("c", "")) };
    let text = refused(client.create(request(create)).await, Code::AlreadyExists);
    assert_eq!(text, "container \"c\": already exists");
    let mut labelled = container("c", "");
    labelled.labels.insert("a".into(), "b".into());
    let update = api::UpdateContainerRequest { container: Some(labelled), update_mask: None };
    client.update(request(update)).await.unwrap();
    let delete = || request(api::DeleteContainerRequest { id: "c".into() });
    client.delete(delete()).await.unwrap();
    let text = refused(client.delete(delete()).await, Code::NotFound);
    assert_eq!(text, "container \"c\" in namespace \"default\": not found");
    let mut next = async |topic: &str| {
        let envelope = told.message().await.unwrap().unwrap();
        assert_eq!((envelope.namespace.as_str(), envelope.topic.as_str()), ("default", topic));
        envelope.event.unwrap()
    };
    let created = next("/containers/create").await;
    assert_eq!(created.type_url, "containerd.events.ContainerCreate");
    let created = ev::ContainerCreate::decode(&*created.value).unwrap();
    assert_eq!((created.id.as_str(), created.image.as_str()), ("c", "an image"));
    let updated = ev::ContainerUpdate::decode(&*next("/containers/update").await.value).unwrap();
    assert_eq!(updated.labels.get("a").map(String::as_str), Some("b"));
    let deleted = ev::ContainerDelete::decode(&*next("/containers/delete").await.value).unwrap();
    assert_eq!(deleted.id, "c");
}
