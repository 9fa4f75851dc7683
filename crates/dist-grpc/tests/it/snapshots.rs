//! `snapshots.v1` as clients use it, with every snapshotter.

use std::collections::HashMap;
use std::path::PathBuf;

use dist_core::{Labels, Namespace};
use dist_grpc::api::containerd::events::{SnapshotCommit, SnapshotPrepare, SnapshotRemove};
use dist_grpc::api::containerd::services::events::v1::SubscribeRequest;
use dist_grpc::api::containerd::services::events::v1::events_client::EventsClient;
use dist_grpc::api::containerd::services::introspection::v1::PluginsRequest;
use dist_grpc::api::containerd::services::introspection::v1::introspection_client::IntrospectionClient;
use dist_grpc::api::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient;
use dist_grpc::api::containerd::services::snapshots::v1::{
    CleanupRequest, CommitSnapshotRequest, Info, Kind, ListSnapshotsRequest, MountsRequest,
    PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest, UpdateSnapshotRequest,
    UsageRequest, ViewSnapshotRequest,
};
use dist_grpc::api::containerd::types::Mount;
use dist_store::{Store, StoreOptions};
use prost::Message as _;
use prost_types::{FieldMask, Timestamp};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::support::{Served, leased, refused, request, request_in};

type Answer<T> = Result<Response<T>, Status>;

/// The snapshots of one socket, one snapshotter, and the namespace `default`.
pub(crate) struct Client {
    api: SnapshotsClient<Channel>,
    name: String,
    raw: bool,
    lease: Option<&'static str>,
}

impl Client {
    /// One whose requests carry a lease, so that no collection takes what they make.
    fn new(served: &Served, name: &str) -> Self {
        let leases = served.engine.store().leases(&Namespace::default());
        let id = "keep".parse().unwrap();
        if leases.get(&id).is_err() {
            leases.create(Some(id), &Labels::new()).unwrap();
        }
        Self {
            api: SnapshotsClient::new(served.channel()),
            name: name.into(),
            raw: false,
            lease: Some("keep"),
        }
    }

    /// One that sends no headers at all, to the backend socket.
    pub(crate) fn raw(served: &Served, name: &str) -> Self {
        Self {
            api: SnapshotsClient::new(served.backend()),
            name: name.into(),
            raw: true,
            lease: None,
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        match self.lease {
            _ if self.raw => Request::new(message),
            None => request(message),
            Some(lease) => leased(lease, message),
        }
    }

    pub(crate) async fn prepare(
        &self,
        key: &str,
        parent: &str,
        labels: &[(&str, &str)],
    ) -> Result<Vec<Mount>, Status> {
        let message = PrepareSnapshotRequest {
            snapshotter: self.name.clone(),
            key: key.into(),
            parent: parent.into(),
            labels: map(labels),
        };
        let answer = self.api.clone().prepare(self.request(message)).await?;
        Ok(answer.into_inner().mounts)
    }

    pub(crate) async fn view(&self, key: &str, parent: &str) -> Result<Vec<Mount>, Status> {
        let message = ViewSnapshotRequest {
            snapshotter: self.name.clone(),
            key: key.into(),
            parent: parent.into(),
            labels: HashMap::new(),
        };
        Ok(self.api.clone().view(self.request(message)).await?.into_inner().mounts)
    }

    pub(crate) async fn commit(&self, name: &str, key: &str, parent: &str) -> Answer<()> {
        let message = CommitSnapshotRequest {
            snapshotter: self.name.clone(),
            name: name.into(),
            key: key.into(),
            labels: HashMap::new(),
            parent: parent.into(),
        };
        self.api.clone().commit(self.request(message)).await
    }

    /// Makes the committed snapshot `name`.
    pub(crate) async fn layer(&self, name: &str, parent: &str) {
        let key = format!("extract {name}");
        self.prepare(&key, parent, &[]).await.unwrap();
        self.commit(name, &key, "").await.unwrap();
    }

    pub(crate) async fn mounts(&self, key: &str) -> Result<Vec<Mount>, Status> {
        let message = MountsRequest { snapshotter: self.name.clone(), key: key.into() };
        Ok(self.api.clone().mounts(self.request(message)).await?.into_inner().mounts)
    }

    pub(crate) async fn remove(&self, key: &str) -> Answer<()> {
        let message = RemoveSnapshotRequest { snapshotter: self.name.clone(), key: key.into() };
        self.api.clone().remove(self.request(message)).await
    }

    pub(crate) async fn stat(&self, key: &str) -> Result<Info, Status> {
        let message = StatSnapshotRequest { snapshotter: self.name.clone(), key: key.into() };
        Ok(self.api.clone().stat(self.request(message)).await?.into_inner().info.unwrap())
    }

    pub(crate) async fn update(&self, info: Option<Info>, paths: &[&str]) -> Result<Info, Status> {
        let mask = FieldMask { paths: paths.iter().map(|path| (*path).into()).collect() };
        let message = UpdateSnapshotRequest {
            snapshotter: self.name.clone(),
            info,
            update_mask: (!paths.is_empty()).then_some(mask),
        };
        Ok(self.api.clone().update(self.request(message)).await?.into_inner().info.unwrap())
    }

    /// The keys of a listing, and how many of them each of its messages had.
    pub(crate) async fn list(&self, filters: &[&str]) -> Result<(Vec<String>, Vec<usize>), Status> {
        let message = ListSnapshotsRequest {
            snapshotter: self.name.clone(),
            filters: filters.iter().map(|filter| (*filter).into()).collect(),
        };
        let mut stream = self.api.clone().list(self.request(message)).await?.into_inner();
        let (mut keys, mut blocks) = (Vec::new(), Vec::new());
        while let Some(block) = stream.message().await? {
            blocks.push(block.info.len());
            keys.extend(block.info.into_iter().map(|info| info.name));
        }
        Ok((keys, blocks))
    }

    pub(crate) async fn usage(&self, key: &str) -> Result<(i64, i64), Status> {
        let message = UsageRequest { snapshotter: self.name.clone(), key: key.into() };
        let usage = self.api.clone().usage(self.request(message)).await?.into_inner();
        Ok((usage.size, usage.inodes))
    }

    pub(crate) async fn cleanup(&self) -> Answer<()> {
        let message = CleanupRequest { snapshotter: self.name.clone() };
        self.api.clone().cleanup(self.request(message)).await
    }
}

/// Wraps an answer again, for [`refused`].
#[track_caller]
pub(crate) fn fails<T: std::fmt::Debug>(result: Result<T, Status>, code: Code) -> String {
    refused(result.map(Response::new), code)
}

fn map(labels: &[(&str, &str)]) -> HashMap<String, String> {
    labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

fn nanoseconds(time: Option<Timestamp>) -> i128 {
    let time = time.unwrap();
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
}

fn now() -> i128 {
    nanoseconds(Some(std::time::SystemTime::now().into()))
}

const SNAPSHOTTERS: [&str; 2] = ["overlayfs", "native"];

#[tokio::test]
async fn a_layer_is_prepared_committed_viewed_and_removed() {
    let served = Served::new("native");
    for name in SNAPSHOTTERS {
        let client = Client::new(&served, name);
        let before = now();
        let [mount] = &client.prepare("a key/with a slash", "", &[]).await.unwrap()[..] else {
            panic!()
        };
        assert_eq!(
            (&*mount.r#type, &mount.options[..]),
            ("bind", &["rw", "rbind"].map(String::from)[..])
        );
        fs_err::write(PathBuf::from(&mount.source).join("file"), vec![1; 10_000]).unwrap();
        let active = client.stat("a key/with a slash").await.unwrap();
        assert_eq!(active.kind(), Kind::Active);
        assert_eq!(active.created_at, active.updated_at);
        let created = nanoseconds(active.created_at);
        assert!((before..=now()).contains(&created), "{created}");
        assert_eq!(client.mounts("a key/with a slash").await.unwrap(), std::slice::from_ref(mount));

        client.commit("layer", "a key/with a slash", "").await.unwrap();
        let committed = client.stat("layer").await.unwrap();
        assert_eq!((committed.kind(), &*committed.parent), (Kind::Committed, ""));
        fails(client.stat("a key/with a slash").await, Code::NotFound);
        fails(client.mounts("layer").await, Code::FailedPrecondition);
        let (size, inodes) = client.usage("layer").await.unwrap();
        assert!(size >= 10_000 && inodes == 2, "{size} {inodes}");

        let [mount] = &client.view("view", "layer").await.unwrap()[..] else { panic!() };
        assert_eq!(mount.options, ["ro", "rbind"].map(String::from));
        assert_eq!(client.stat("view").await.unwrap().kind(), Kind::View);
        assert_eq!(client.usage("view").await.unwrap(), (0, 0));
        fails(
            client.commit("other", "view", "").await.map(Response::into_inner),
            Code::FailedPrecondition,
        );

        client.prepare("next", "layer", &[]).await.unwrap();
        assert_eq!(client.stat("next").await.unwrap().parent, "layer");
        let said = refused(client.remove("layer").await, Code::FailedPrecondition);
        assert!(said.contains("remove"), "{said}");
        for key in ["next", "view", "layer"] {
            client.remove(key).await.unwrap();
            refused(client.remove(key).await, Code::NotFound);
        }
        assert_eq!(client.list(&[]).await.unwrap().0, [""; 0]);
    }
}

#[tokio::test]
async fn overlay_mounts_have_the_shape_that_clients_know() {
    let served = Served::new("overlayfs");
    let client = Client::new(&served, "overlayfs");
    client.layer("one", "").await;
    client.layer("two", "one").await;
    let view = client.view("view", "two").await.unwrap();
    let [mount] = &view[..] else { panic!("{view:?}") };
    assert_eq!((&*mount.r#type, &*mount.source), ("overlay", "overlay"));
    let root = served.engine.store().root().display();
    let lower = format!("lowerdir={root}/snapshots/overlayfs/2/fs:{root}/snapshots/overlayfs/1/fs");
    assert_eq!(mount.options, ["index=off".to_owned(), lower.clone()]);
    let active = client.prepare("active", "two", &[]).await.unwrap();
    let [mount] = &active[..] else { panic!("{active:?}") };
    let dir = format!("{root}/snapshots/overlayfs/4");
    let expected = [
        "index=off".to_owned(),
        format!("workdir={dir}/work"),
        format!("upperdir={dir}/fs"),
        lower,
    ];
    assert_eq!(mount.options, expected);
}

#[tokio::test]
async fn snapshotters_and_namespaces_must_be_named() {
    let served = Served::new("overlayfs");
    let mut api = SnapshotsClient::new(served.channel());
    let stat =
        |name: &str| StatSnapshotRequest { snapshotter: name.to_owned(), key: "key".to_owned() };
    refused(api.stat(request(stat(""))).await, Code::InvalidArgument);
    refused(api.stat(request(stat("zfs"))).await, Code::InvalidArgument);
    refused(api.stat(Request::new(stat(""))).await, Code::InvalidArgument);
    let said = refused(api.stat(Request::new(stat("native"))).await, Code::FailedPrecondition);
    assert!(said.contains("namespace is required"), "{said}");
    refused(api.stat(request_in("a..b", stat("native"))).await, Code::InvalidArgument);
    refused(api.stat(request_in("@native", stat("native"))).await, Code::InvalidArgument);

    let client = Client::new(&served, "native");
    client.layer("layer", "").await;
    refused(api.stat(request_in("other", stat("native"))).await, Code::NotFound);
    fails(Client::new(&served, "overlayfs").stat("layer").await, Code::NotFound);
    let list = ListSnapshotsRequest { snapshotter: "native".into(), filters: Vec::new() };
    let mut stream = api.list(request_in("other", list)).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap(), None);
}

#[tokio::test]
async fn keys_and_parents_are_judged_as_by_containerd() {
    let served = Served::new("native");
    for name in SNAPSHOTTERS {
        let client = Client::new(&served, name);
        client.layer("base", "").await;
        client.prepare("active", "base", &[]).await.unwrap();
        fails(client.prepare("a", "ghost", &[]).await, Code::NotFound);
        fails(client.view("a", "ghost").await, Code::NotFound);
        fails(client.prepare("a", "active", &[]).await, Code::InvalidArgument);
        fails(client.view("a", "active").await, Code::InvalidArgument);
        for taken in ["active", "base"] {
            fails(client.prepare(taken, "base", &[]).await, Code::AlreadyExists);
            fails(client.view(taken, "base").await, Code::AlreadyExists);
            refused(client.commit(taken, "active", "").await, Code::AlreadyExists);
        }
        refused(client.commit("a", "ghost", "").await, Code::NotFound);
        fails(client.stat("").await, Code::NotFound);
        fails(client.mounts("").await, Code::NotFound);
        refused(client.remove("").await, Code::NotFound);
        fails(client.prepare("", "", &[]).await, Code::InvalidArgument);
        refused(client.commit("", "active", "").await, Code::InvalidArgument);
    }
}

#[tokio::test]
async fn a_parent_at_commit_is_for_those_without_one() {
    let served = Served::new("overlayfs");
    let client = Client::new(&served, "overlayfs");
    client.layer("one", "").await;
    client.layer("two", "one").await;
    client.prepare("bare", "", &[]).await.unwrap();
    refused(client.commit("three", "bare", "ghost").await, Code::NotFound);
    client.commit("three", "bare", "two").await.unwrap();
    assert_eq!(client.stat("three").await.unwrap().parent, "two");
    client.prepare("clad", "one", &[]).await.unwrap();
    client.commit("four", "clad", "three").await.unwrap();
    assert_eq!(client.stat("four").await.unwrap().parent, "one");
    refused(client.remove("two").await, Code::FailedPrecondition);

    let native = Client::new(&served, "native");
    native.layer("one", "").await;
    native.prepare("bare", "", &[]).await.unwrap();
    refused(native.commit("two", "bare", "one").await, Code::FailedPrecondition);

    // Clients look here whether they may ask for it.
    let asked = PluginsRequest { filters: vec!["type==io.containerd.snapshotter.v1".into()] };
    let plugins = IntrospectionClient::new(served.channel()).plugins(asked).await.unwrap();
    let mut said: Vec<_> = plugins
        .into_inner()
        .plugins
        .into_iter()
        .map(|plugin| (plugin.id, plugin.capabilities.join(",")))
        .collect();
    said.sort_unstable();
    let wanted = [("erofs", "rebase"), ("native", ""), ("overlayfs", "rebase")];
    assert_eq!(said, wanted.map(|(name, can)| (name.to_owned(), can.to_owned())));
}

#[tokio::test]
async fn labels_change_by_mask() {
    let served = Served::new("native");
    let client = Client::new(&served, "native");
    client.prepare("key", "", &[("a", "1"), ("empty", "")]).await.unwrap();
    let old = client.stat("key").await.unwrap();
    assert_eq!(old.labels, map(&[("a", "1")]));
    let info = |labels: &[(&str, &str)]| {
        let parent = "is not changed".to_owned();
        Some(Info { name: "key".into(), parent, labels: map(labels), ..Info::default() })
    };
    let new = client.update(info(&[("b.c/d", "2"), ("e", "3")]), &[]).await.unwrap();
    assert_eq!(new.labels, map(&[("b.c/d", "2"), ("e", "3")]));
    assert_eq!((new.created_at, &*new.parent), (old.created_at, ""));
    assert!(nanoseconds(new.updated_at) > nanoseconds(old.updated_at));
    assert_eq!(client.stat("key").await.unwrap(), new);
    let change = info(&[("b.c/d", "4"), ("f", "not named")]);
    let new = client.update(change, &["labels.b.c/d", "labels.e"]).await.unwrap();
    assert_eq!(new.labels, map(&[("b.c/d", "4")]));
    let new = client.update(info(&[("g", "5")]), &["labels"]).await.unwrap();
    assert_eq!(new.labels, map(&[("g", "5")]));
    for path in ["parent", "kind", "label", ""] {
        fails(client.update(info(&[]), &[path]).await, Code::InvalidArgument);
    }
    fails(client.update(None, &[]).await, Code::InvalidArgument);
    fails(client.update(Some(Info::default()), &[]).await, Code::InvalidArgument);
    let ghost = Info { name: "ghost".into(), ..Info::default() };
    fails(client.update(Some(ghost), &[]).await, Code::NotFound);
    let long = "v".repeat(4096);
    fails(client.update(info(&[("k", &long)]), &[]).await, Code::InvalidArgument);
    fails(client.prepare("other", "", &[("k", &long)]).await, Code::InvalidArgument);
    client.prepare("other", "", &[("k", &long[1..])]).await.unwrap();
}

#[tokio::test]
async fn a_long_list_comes_in_blocks_and_filters_select() {
    let served = Served::new("native");
    let client = Client::new(&served, "native");
    client.layer("base", "").await;
    for number in 0..205 {
        let label = (number % 2).to_string();
        client.prepare(&format!("k{number:03}"), "base", &[("odd", &label)]).await.unwrap();
    }
    client.view("view", "").await.unwrap();
    let (keys, blocks) = client.list(&[]).await.unwrap();
    assert_eq!(blocks, [100, 100, 7]);
    assert!(keys.is_sorted(), "{keys:?}");
    let count = async |filters: &[&str]| client.list(filters).await.unwrap().0.len();
    assert_eq!(count(&[""]).await, 207);
    assert_eq!(count(&["kind==active,labels.odd==1"]).await, 102);
    assert_eq!(count(&["name==view", "name==base"]).await, 2);
    assert_eq!(count(&["parent==base"]).await, 205);
    assert_eq!(count(&["parent!=\"\""]).await, 205);
    assert_eq!(count(&["labels.odd"]).await, 205);
    assert_eq!(count(&["kind==committed"]).await, 1);
    fails(client.list(&["kind=="]).await, Code::InvalidArgument);
}

#[tokio::test]
async fn a_layer_that_is_there_is_not_unpacked_again() {
    let served = Served::new("native");
    for name in SNAPSHOTTERS {
        let client = Client::new(&served, name);
        let target = [("containerd.io/snapshot.ref", "sha256:aa")];
        client.prepare("extract", "", &target).await.unwrap();
        client.commit("sha256:aa", "extract", "").await.unwrap();
        fails(client.prepare("extract", "", &target).await, Code::AlreadyExists);
        fails(client.stat("extract").await, Code::NotFound);
    }
}

#[tokio::test]
async fn clients_cannot_clean_up() {
    let served = Served::new("native");
    refused(Client::new(&served, "native").cleanup().await, Code::Unimplemented);
    refused(Client::new(&served, "zfs").cleanup().await, Code::InvalidArgument);
}

#[tokio::test]
async fn what_was_committed_outlives_a_stop_and_a_power_cut() {
    let served = Served::new("overlayfs");
    let client = Client::new(&served, "overlayfs");
    client.layer("layer", "").await;
    drop(client);
    let dir = served.stop().await;
    let boot_id = dir.path().join("boot_id");
    fs_err::write(&boot_id, "01234567-89ab-cdef-0123-456789abcdef\n").unwrap();
    let options = StoreOptions { boot_id, ..StoreOptions::default() };
    let store = Store::open(&dir.path().join("root"), options).unwrap();
    let records = store.snapshots(Namespace::default(), "overlayfs");
    records.get(&"layer".parse().unwrap()).unwrap();
}

#[tokio::test]
async fn subscribers_hear_of_snapshots_but_not_of_views() {
    let served = Served::new("native");
    let mut events = EventsClient::new(served.channel());
    let mut stream = events.subscribe(SubscribeRequest::default()).await.unwrap().into_inner();
    Client::raw(&served, "native").layer("is no business of clients", "").await;
    let client = Client::new(&served, "native");
    client.layer("base", "").await;
    client.view("view", "base").await.unwrap();
    client.prepare("active", "base", &[]).await.unwrap();
    client.remove("active").await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let envelope = stream.message().await.unwrap().unwrap();
        assert_eq!(envelope.namespace, "default");
        let event = envelope.event.unwrap();
        let (name, text) = match &*event.type_url {
            "containerd.events.SnapshotPrepare" => {
                let event = SnapshotPrepare::decode(&*event.value).unwrap();
                (event.snapshotter, format!("{} on {:?}", event.key, event.parent))
            }
            "containerd.events.SnapshotCommit" => {
                let event = SnapshotCommit::decode(&*event.value).unwrap();
                (event.snapshotter, format!("{} as {}", event.key, event.name))
            }
            "containerd.events.SnapshotRemove" => {
                let event = SnapshotRemove::decode(&*event.value).unwrap();
                (event.snapshotter, event.key)
            }
            other => panic!("{other}"),
        };
        assert_eq!(name, "native");
        seen.push(format!("{}: {text}", envelope.topic));
    }
    let expected = [
        "/snapshot/prepare: extract base on \"\"",
        "/snapshot/commit: extract base as base",
        "/snapshot/prepare: active on \"base\"",
        "/snapshot/remove: active",
    ];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn what_is_made_or_found_goes_into_the_lease() {
    let served = Served::new("native");
    let leases = served.engine.store().leases(&Namespace::default());
    let id = leases.create(Some("lease".parse().unwrap()), &Labels::new()).unwrap().id;
    let held = || -> Vec<String> {
        let held = leases.resources(&id).unwrap();
        held.iter().map(ToString::to_string).collect()
    };
    for name in SNAPSHOTTERS {
        let bare = Client::new(&served, name);
        bare.layer("base", "").await;
        let client = Client { lease: Some("lease"), ..Client::new(&served, name) };
        client.prepare("active", "base", &[]).await.unwrap();
        client.view("view", "base").await.unwrap();
        let keys = |keys: &[&str]| -> Vec<String> {
            keys.iter().map(|key| format!("snapshot {name}/{key}")).collect()
        };
        assert_eq!(held(), keys(&["active", "view"]));
        client.commit("name", "active", "").await.unwrap();
        assert_eq!(held(), keys(&["name", "view"]));
        client.remove("view").await.unwrap();
        client.remove("name").await.unwrap();
        assert_eq!(held(), keys(&[]));
        // Also what is there already, whichever way that is found out.
        bare.layer("one", "").await;
        bare.layer("two", "").await;
        bare.layer("three", "").await;
        let target = [("containerd.io/snapshot.ref", "one")];
        fails(client.prepare("extract", "", &target).await, Code::AlreadyExists);
        fails(client.prepare("two", "", &[]).await, Code::AlreadyExists);
        bare.prepare("active", "", &[]).await.unwrap();
        refused(client.commit("three", "active", "").await, Code::AlreadyExists);
        assert_eq!(held(), keys(&["one", "three", "two"]));
        for key in ["one", "two", "three"] {
            client.remove(key).await.unwrap();
        }
    }
    let client = Client { lease: Some("ghost"), ..Client::new(&served, "native") };
    fails(client.prepare("a", "", &[]).await, Code::NotFound);
    fails(client.view("a", "").await, Code::NotFound);
    let said = refused(client.commit("a", "active", "").await, Code::NotFound);
    assert!(said.contains("lease"), "{said}");
    client.remove("active").await.unwrap();
    assert_eq!(client.list(&[]).await.unwrap().0, ["base"]);
}
