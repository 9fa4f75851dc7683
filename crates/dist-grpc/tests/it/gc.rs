//! Collections by the daemon: when they run, what they take, and what is told of them.

use std::collections::HashMap;
use std::time::Duration;

use dist_core::{
    Expected, GC_EXPIRE, GC_ROOT, Ingest, Ingester as _, Labels, Resource, SnapshotKind,
};
use dist_grpc::api::containerd::services::content::v1::DeleteContentRequest;
use dist_grpc::api::containerd::services::content::v1::content_client::ContentClient;
use dist_grpc::api::containerd::services::diff::v1::DiffRequest;
use dist_grpc::api::containerd::services::diff::v1::diff_client::DiffClient;
use dist_grpc::api::containerd::services::events::v1::events_client::EventsClient;
use dist_grpc::api::containerd::services::events::v1::{Envelope, SubscribeRequest};
use dist_grpc::api::containerd::services::images::v1 as images;
use dist_grpc::api::containerd::services::images::v1::images_client::ImagesClient;
use dist_grpc::api::containerd::services::leases::v1 as leases;
use dist_grpc::api::containerd::services::leases::v1::leases_client::LeasesClient;
use dist_grpc::api::containerd::services::snapshots::v1::RemoveSnapshotRequest;
use dist_grpc::api::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient;
use dist_grpc::api::containerd::types::Descriptor;
use dist_store::Store;
use tonic::{Code, Streaming};

use crate::support::{Served, request};

/// What nobody waits longer for.
const LONG: Duration = Duration::from_secs(60);

fn ends_in(time: Duration) -> String {
    let end = jiff::Timestamp::now() + jiff::SignedDuration::try_from(time).unwrap();
    end.to_string()
}

/// A blob that nothing keeps.
fn put(served: &Served, bytes: &[u8]) -> dist_core::Digest {
    let digest = dist_core::Digest::sha256(bytes);
    let expected = Expected { digest: Some(digest), size: Some(bytes.len() as u64) };
    let key = digest.to_string().parse().unwrap();
    let Ingest::Writer(mut writer) =
        served.engine.content().ingest(&key, expected, &Default::default()).unwrap()
    else {
        panic!("{digest} is there")
    };
    std::io::Write::write_all(&mut writer, bytes).unwrap();
    writer.commit(expected).unwrap();
    digest
}

fn blobs(served: &Served) -> usize {
    served.engine.content().list().unwrap().len()
}

async fn subscribe(served: &Served) -> Streaming<Envelope> {
    let mut events = EventsClient::new(served.channel());
    events.subscribe(request(SubscribeRequest::default())).await.unwrap().into_inner()
}

/// Waits for the next event of a topic.
async fn next(events: &mut Streaming<Envelope>, topic: &str) -> Envelope {
    let wait = async {
        loop {
            let event = events.message().await.unwrap().expect("the stream goes on");
            if event.topic == topic {
                return event;
            }
        }
    };
    tokio::time::timeout(LONG, wait).await.expect("an event comes")
}

/// Asks until it is so: there is no event for what is looked at.
async fn eventually(mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, wait).await.expect("it becomes so");
}

fn image(name: &str, labels: &[(&str, &str)]) -> images::CreateImageRequest {
    let labels: HashMap<_, _> =
        labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let target = Descriptor {
        media_type: "application/vnd.oci.image.manifest.v1+json".into(),
        digest: dist_core::Digest::sha256(name.as_bytes()).to_string(),
        size: 7,
        annotations: HashMap::new(),
    };
    let image = images::Image {
        name: name.into(),
        labels,
        target: Some(target),
        created_at: None,
        updated_at: None,
    };
    images::CreateImageRequest { image: Some(image), source_date_epoch: None }
}

/// A snapshot that only `lease` keeps, if anything does.
fn snapshot(store: &Store, key: &str) -> Resource {
    let key = key.parse().unwrap();
    let records = store.snapshots(dist_core::Namespace::default(), "native");
    records.insert(&key, None, SnapshotKind::Active, &Labels::new()).unwrap();
    Resource::Snapshot { snapshotter: "native".into(), key }
}

#[tokio::test]
async fn what_a_lease_kept_goes_with_a_synchronous_delete() {
    let served = Served::collecting("native");
    let mut client = LeasesClient::new(served.channel());
    let create = leases::CreateRequest { id: "l".into(), labels: HashMap::new() };
    client.create(request(create)).await.unwrap();
    let (lost, kept) = {
        let scope = dist_store::Scope {
            namespace: dist_core::Namespace::default(),
            lease: Some("l".parse().unwrap()),
        };
        let store = served.engine.store();
        let write = |bytes: &[u8], labels: &[(&str, &str)]| {
            let mut writer = store
                .content(&scope)
                .open_writer(&"w".parse().unwrap(), Expected::default(), Default::default())
                .unwrap();
            writer.write(bytes).unwrap();
            let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            writer.commit(Expected::default(), &labels).unwrap().digest
        };
        (write(b"lost", &[]), write(b"kept", &[(GC_ROOT, "1")]))
    };
    let delete = leases::DeleteRequest { id: "l".into(), sync: true };
    client.delete(request(delete)).await.unwrap();
    let left: Vec<_> =
        served.engine.content().list().unwrap().into_iter().map(|info| info.digest).collect();
    assert_eq!(left, [kept]);
    assert!(served.engine.content().info(&lost).is_err());
}

#[tokio::test]
async fn an_image_that_ends_and_what_a_lease_that_ends_kept_go_without_any_request() {
    let served = Served::collecting("native");
    let mut events = subscribe(&served).await;
    let held = snapshot(served.engine.store(), "held");
    let labels: Labels = [(GC_EXPIRE.to_owned(), ends_in(Duration::from_millis(700)))].into();
    let leases = served.engine.store().leases(&dist_core::Namespace::default());
    let lease = leases.create_lazily(&labels, &[held]).unwrap();
    let mut client = ImagesClient::new(served.channel());
    let soon = ends_in(Duration::from_millis(400));
    client.create(request(image("ends", &[(GC_EXPIRE, &soon)]))).await.unwrap();
    client.create(request(image("stays", &[]))).await.unwrap();

    let event = next(&mut events, "/images/delete").await;
    assert_eq!(event.event.unwrap().type_url, "containerd.services.images.v1.ImageDelete");
    let event = next(&mut events, "/snapshot/remove").await;
    assert_eq!(event.namespace, "default");
    assert!(leases.get(&lease).is_err());
    let names: Vec<_> =
        served.engine.images().list().unwrap().into_iter().map(|i| i.name.to_string()).collect();
    assert_eq!(names, ["stays"]);
}

#[tokio::test]
async fn what_another_process_deletes_is_a_reason_to_collect() {
    let served = Served::collecting("native");
    // The first collection, after the start, is over when it has taken this.
    put(&served, b"first");
    eventually(|| blobs(&served) == 0).await;
    // A few changes are no reason.
    put(&served, b"second");
    let name = "x".parse().unwrap();
    let target = dist_core::Descriptor::new(
        dist_core::MediaType::Manifest,
        dist_core::Digest::sha256(b"nothing"),
        1,
    );
    // As another process would: no service of this daemon is told.
    let images = served.engine.images();
    images.put(&name, &target, &Labels::new()).unwrap();
    images.delete(&name, None).unwrap();
    eventually(|| blobs(&served) == 0).await;
}

/// What still takes space although it was deleted.
fn trash(served: &Served) -> usize {
    std::fs::read_dir(served.engine.store().root().join("trash")).unwrap().count()
}

#[tokio::test]
async fn what_requests_delete_leaves_the_disk_without_a_collection() {
    let served = Served::new("native");
    let digest = put(&served, b"deleted").to_string();
    let kept = put(&served, b"kept");
    snapshot(served.engine.store(), "removed");
    let mut content = ContentClient::new(served.channel());
    content.delete(request(DeleteContentRequest { digest })).await.unwrap();
    let mut snapshots = SnapshotsClient::new(served.channel());
    let remove = RemoveSnapshotRequest { snapshotter: "native".into(), key: "removed".into() };
    snapshots.remove(request(remove)).await.unwrap();
    eventually(|| trash(&served) == 0).await;
    let left: Vec<_> =
        served.engine.content().list().unwrap().into_iter().map(|info| info.digest).collect();
    assert_eq!(left, [kept]);
}

#[tokio::test]
async fn what_a_layer_that_cannot_be_committed_leaves_takes_no_space_for_long() {
    let served = Served::new("native");
    let labels = HashMap::from([("a".to_owned(), "b".repeat(5000))]);
    let diff = DiffRequest { labels, ..DiffRequest::default() };
    let failed = DiffClient::new(served.channel()).diff(request(diff)).await.unwrap_err();
    assert_eq!(failed.code(), Code::InvalidArgument);
    assert!(served.engine.content().ingests().unwrap().is_empty());
    eventually(|| trash(&served) == 0).await;
}

#[tokio::test]
async fn what_was_deleted_takes_no_space_when_a_synchronous_delete_answers() {
    let served = Served::new("native");
    let mut client = ImagesClient::new(served.channel());
    client.create(request(image("x", &[]))).await.unwrap();
    let digests: Vec<_> = (0..100_u32).map(|n| put(&served, &n.to_le_bytes())).collect();
    for digest in &digests {
        let digest = digest.to_string();
        let mut content = ContentClient::new(served.channel());
        content.delete(request(DeleteContentRequest { digest })).await.unwrap();
    }
    // As a daemon that was killed leaves it.
    let left = served.engine.store().root().join("trash/left");
    std::fs::write(left, "left").unwrap();
    let delete = images::DeleteImageRequest { name: "x".into(), sync: true, target: None };
    client.delete(request(delete)).await.unwrap();
    assert_eq!(trash(&served), 0);
}
