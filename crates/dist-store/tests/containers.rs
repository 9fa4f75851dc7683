//! Containers as rows: kept, and keeping what they run on.

use std::collections::BTreeMap;

use dist_core::{
    Any, Container, Error, ErrorKind, Exit, Labels, Namespace, Resource, SnapshotKey, SnapshotKind,
    Task,
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

    let changed = containers.update(&made.id, |container| {
        container.spec = Some(any("spec"));
        container.labels = Labels::from([("a".into(), String::new()), ("c".into(), "d".into())]);
        container.extensions = BTreeMap::from([("f".into(), any("another"))]);
        container.image = "redis:8".into();
        container.snapshot_key = "another".into();
        Ok(())
    });
    let made = Container {
        spec: Some(any("spec")),
        labels: Labels::from([("c".into(), "d".into())]),
        extensions: BTreeMap::from([("f".into(), any("another"))]),
        image: "redis:8".into(),
        snapshot_key: "another".into(),
        updated_at: changed.as_ref().unwrap().updated_at,
        ..made
    };
    assert!(made.updated_at > made.created_at);
    assert_eq!(changed.unwrap(), made);
    let refused = containers.update(&made.id, |container| {
        container.image.clear();
        Err(Error::new(ErrorKind::Aborted, "no"))
    });
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Aborted);
    assert_eq!(containers.get(&made.id).unwrap(), made);
    assert_eq!(containers.forget_task(&made.id).unwrap_err().kind(), ErrorKind::NotFound);
    let mut task =
        Task { boot_id: "b".into(), address: "unix:///a".into(), version: 2, exit: None };
    containers.set_task(&made.id, &task).unwrap();
    task.exit = Some(Exit { status: 137, at: 7 });
    containers.set_task(&made.id, &task).unwrap();
    let now = containers.get(&made.id).unwrap();
    let wanted = Container { task: Some(task.clone()), ..made.clone() };
    assert_eq!(now, times(&now, wanted));
    containers.forget_task(&made.id).unwrap();
    assert_eq!(containers.get(&made.id).unwrap(), made);

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

#[test]
fn nothing_of_a_container_waits_for_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("s");
    let open = || Store::open(&root, StoreOptions::default()).unwrap();
    let log = || std::fs::metadata(root.join("meta.db-wal")).map_or(0, |log| log.len());
    let namespace = Namespace::default();
    drop(open());
    assert_eq!(log(), 0);

    let store = open();
    let one = store.containers(&namespace).create(&container("one")).unwrap().id;
    let (snapshots, key) = (store.snapshots(namespace.clone(), "native"), "one".parse().unwrap());
    snapshots.insert(&key, None, SnapshotKind::Active, &Labels::new()).unwrap();
    drop((snapshots, store));
    // Whoever writes the log back at the end waits for the disk twice.
    assert!(log() > 0);

    let store = open();
    assert_eq!(store.containers(&namespace).list().unwrap().len(), 1);
    store.snapshots(namespace.clone(), "native").remove(&key).unwrap();
    store.containers(&namespace).delete(&one).unwrap();
    drop(store);
    assert!(log() > 0);

    // A snapshot of nobody's is durable, and then all is.
    let store = open();
    assert!(store.containers(&namespace).list().unwrap().is_empty());
    let snapshots = store.snapshots(namespace.clone(), "native");
    snapshots.insert(&key, None, SnapshotKind::Active, &Labels::new()).unwrap();
    drop((snapshots, store));
    assert_eq!(log(), 0);
}
