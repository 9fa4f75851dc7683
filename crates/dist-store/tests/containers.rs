//! Containers as rows: kept, and keeping what they run on.

use std::collections::BTreeMap;

use dist_core::{
    Any, Container, ErrorKind, Exit, Labels, Namespace, Resource, SnapshotKey, SnapshotKind, Task,
};
use dist_store::{Collected, Explanation, GcOptions, Reason, Store, StoreOptions};

fn any(text: &str) -> Any {
    Any { type_url: text.into(), value: text.as_bytes().into() }
}

fn container(id: &str) -> Container {
    Container {
        id: id.parse().expect("an id"),
        labels: Labels::from([("a".into(), "b".into())]),
        image: "redis:7".into(),
        runtime: "io.containerd.runc.v2".into(),
        runtime_options: Some(any("options")),
        spec: None,
        snapshotter: "native".into(),
        snapshot_key: id.into(),
        extensions: BTreeMap::from([("e".into(), any("extension"))]),
        created_at: 0,
        updated_at: 0,
        task: None,
    }
}

#[test]
fn containers_are_kept_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("s"), StoreOptions::default()).unwrap();
    let containers = store.containers(&Namespace::default());
    let made = containers.create(&container("one")).unwrap();
    assert!(made.created_at > 0 && made.created_at == made.updated_at);
    let times = |from: &Container, mut to: Container| {
        (to.created_at, to.updated_at) = (from.created_at, from.updated_at);
        to
    };
    assert_eq!(made, times(&made, container("one")));
    assert_eq!(containers.get(&made.id).unwrap(), made);
    let error = containers.create(&container("one")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);

    containers.set_spec(&made.id, &any("spec")).unwrap();
    let mut task =
        Task { boot_id: "b".into(), address: "unix:///a".into(), version: 2, exit: None };
    containers.set_task(&made.id, &task).unwrap();
    task.exit = Some(Exit { status: 137, at: 7 });
    containers.set_task(&made.id, &task).unwrap();
    let now = containers.get(&made.id).unwrap();
    let wanted = Container { spec: Some(any("spec")), task: Some(task.clone()), ..made.clone() };
    assert_eq!(now, times(&now, wanted));

    containers.create(&container("a-second")).unwrap();
    let ids = |list: Vec<Container>| list.iter().map(|c| c.id.to_string()).collect::<Vec<_>>();
    assert_eq!(ids(containers.list().unwrap()), ["a-second", "one"]);
    let other = store.containers(&"other".parse().unwrap());
    assert_eq!(other.list().unwrap(), []);
    assert_eq!(other.get(&made.id).unwrap_err().kind(), ErrorKind::NotFound);
    containers.delete(&made.id).unwrap();
    assert_eq!(ids(containers.list().unwrap()), ["a-second"]);
    assert_eq!(containers.delete(&made.id).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(containers.set_task(&made.id, &task).unwrap_err().kind(), ErrorKind::NotFound);
    let error = store.namespaces().delete(&Namespace::default()).unwrap_err();
    assert!(error.to_string().contains("containers"), "{error}");
}

#[test]
fn a_container_keeps_its_snapshot_and_all_below_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("s"), StoreOptions::default()).unwrap();
    let namespace = Namespace::default();
    let containers = store.containers(&namespace);
    containers.create(&container("one")).unwrap();
    let snapshots = store.snapshots(&namespace, "native");
    let key = |text: &str| text.parse::<SnapshotKey>().unwrap();
    let none = Labels::new();
    let make = |name: &str, parent: Option<&str>, committed: bool| {
        let parent = parent.map(key);
        snapshots.insert(&key(name), parent.as_ref(), SnapshotKind::Active, &none).unwrap();
        if committed {
            let base = format!("{name} base");
            snapshots.commit(&key(&base), &key(name), None, &none, Default::default()).unwrap();
        }
    };
    make("layer", None, true);
    make("one", Some("layer base"), false);
    make("two", Some("layer base"), false);
    let resource = |name: &str| Resource::Snapshot { snapshotter: "native".into(), key: key(name) };
    let Explanation::Kept(path) = store.explain(&namespace, &resource("layer base")).unwrap()
    else {
        panic!("the layer below a container is not kept")
    };
    assert_eq!(path[0].object.to_string(), "container one");
    let reasons: Vec<_> = path.into_iter().map(|step| step.reason).collect();
    assert_eq!(reasons, [Reason::Container, Reason::Rootfs, Reason::Parent]);
    let removed = || {
        let mut collected = Collected::default();
        store.collect(GcOptions::default(), &mut collected).unwrap();
        collected.removed.iter().map(|removed| removed.object.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(removed(), ["snapshot native/two"]);
    let before = store.deletions().unwrap();
    containers.delete(&"one".parse().unwrap()).unwrap();
    assert!(store.deletions().unwrap() > before, "a collector would not know");
    assert_eq!(removed(), ["snapshot native/one", "snapshot native/layer base"]);
}
