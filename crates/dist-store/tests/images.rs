//! Images.

use std::collections::BTreeMap;

use dist_core::{Descriptor, Digest, ErrorKind, ImageName, Labels, MediaType};
use dist_store::{Store, StoreOptions};

#[test]
fn put_get_list_delete() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("s"), StoreOptions::default()).unwrap();
    let (images, other) =
        (store.images(&"a".parse().unwrap()), store.images(&"b".parse().unwrap()));
    let name: ImageName = "docker.io/library/redis:7 \u{1f980}".parse().unwrap();
    let mut target =
        Descriptor::new(MediaType::parse("application/x-own"), Digest::sha256(b"1"), 1 << 60);
    target.annotations = BTreeMap::from([("k".into(), "v \"quoted\"".into())]);
    let labels = Labels::from([("l".into(), "1".into())]);

    assert_eq!(images.get(&name).unwrap_err().kind(), ErrorKind::NotFound);
    let made = images.put(&name, &target, &labels).unwrap();
    assert_eq!((&made.target, &made.labels, &made.name), (&target, &labels, &name));
    assert_eq!(made.created_at, made.updated_at);
    assert_eq!(images.get(&name).unwrap(), made);
    assert!(other.list().unwrap().is_empty());

    let newer = Descriptor::new(MediaType::Index, Digest::sha256(b"2"), 2);
    let again = images.put(&name, &newer, &Labels::new()).unwrap();
    assert_eq!((again.target, again.created_at), (newer.clone(), made.created_at));
    assert!(again.labels.is_empty() && again.updated_at > made.updated_at);

    images.put(&"a".parse().unwrap(), &newer, &labels).unwrap();
    other.put(&name, &newer, &labels).unwrap();
    let names: Vec<_> = images.list().unwrap().into_iter().map(|i| i.name.to_string()).collect();
    assert_eq!(names, ["a", name.as_str()]);
    images.delete(&name).unwrap();
    assert_eq!(images.delete(&name).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(images.list().unwrap().len(), 1);
    assert_eq!(other.get(&name).unwrap().labels, labels);
}

#[test]
fn many_threads_put_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("s");
    let target = Descriptor::new(MediaType::Index, Digest::sha256(b"2"), 2);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (root, target) = (&root, &target);
            scope.spawn(move || {
                let images = Store::open(root, StoreOptions::default())
                    .unwrap()
                    .images(&"a".parse().unwrap());
                for n in 0..20 {
                    images
                        .put(&format!("{thread}-{n}").parse().unwrap(), target, &Labels::new())
                        .unwrap();
                    assert!(images.list().unwrap().len() > n);
                }
            });
        }
    });
    let images = Store::open(&root, StoreOptions::default()).unwrap().images(&"a".parse().unwrap());
    assert_eq!(images.list().unwrap().len(), 160);
}
