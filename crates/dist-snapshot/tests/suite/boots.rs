//! What another boot finds.

use std::path::Path;

use dist_core::{ErrorKind, Namespace};
use dist_store::{SettleMode, Store, StoreOptions};

use crate::support::{Bench, fails, for_each_snapshotter, key, write};

for_each_snapshotter!(unsettled_snapshots_end_with_the_boot, read_only_stores);

fn after_a_boot(bench: &Bench, id: &str) -> Store {
    let boot_id = bench.dir.path().join("boot_id");
    write(&boot_id, id);
    Store::open(bench.store.root(), StoreOptions { boot_id, ..StoreOptions::default() }).unwrap()
}

fn unsettled_snapshots_end_with_the_boot(bench: &Bench) {
    bench.layer("durable", None, |root| write(&root.join("file"), "x"));
    assert_eq!(bench.store.settle(SettleMode::Now).unwrap().flipped, 1);
    bench.layer("lost", Some("durable"), |root| write(&root.join("file"), "y"));
    bench.view("view of the lost", Some("lost"));
    bench.prepare("active", Some("durable"));
    assert_eq!(bench.dirs().len(), 4);

    let store = after_a_boot(bench, "11111111-1111-1111-1111-111111111111");
    let snapshotter = dist_snapshot::open(&store, Namespace::default(), bench.name).unwrap();
    for gone in ["lost", "view of the lost"] {
        fails(ErrorKind::NotFound, snapshotter.stat(&key(gone)));
    }
    snapshotter.stat(&key("durable")).unwrap();
    snapshotter.mounts(&key("active")).unwrap();
    assert_eq!(dist_snapshot::purge(&store).unwrap(), 2);
    assert_eq!(bench.dirs().len(), 2);
    bench.layer("lost", Some("durable"), |root| write(&root.join("file"), "y"));
}

fn read_only_stores(bench: &Bench) {
    bench.layer("base", None, |root| write(&root.join("file"), "x"));
    bench.view("view", Some("base"));
    let options = StoreOptions { mode: dist_store::OpenMode::ReadOnly, ..StoreOptions::default() };
    let store = Store::open(bench.store.root(), options).unwrap();
    let snapshotter = dist_snapshot::open(&store, Namespace::default(), bench.name).unwrap();
    let mounted = bench.mount(&snapshotter.mounts(&key("view")).unwrap());
    assert!(Path::exists(&mounted.target.join("file")));
    let none = dist_core::Labels::new();
    fails(ErrorKind::Storage, snapshotter.prepare(&key("a"), None, &none));
    fails(ErrorKind::Storage, snapshotter.remove(&key("view")));
    fails(ErrorKind::Storage, dist_snapshot::purge(&store));
}
