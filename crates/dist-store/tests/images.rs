//! Images.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use dist_core::{
    Descriptor, Digest, ErrorKind, ImageName, LabelChange, Labels, MediaType, Namespace,
};
use dist_store::{ImageChange, ImageStore, Store, StoreOptions};

fn images(store: &Store, namespace: &str) -> ImageStore {
    store.images(namespace.parse::<Namespace>().unwrap())
}

#[test]
fn put_get_list_delete() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("s"), StoreOptions::default()).unwrap();
    let (images, other) = (images(&store, "a"), images(&store, "b"));
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
    let error = images.delete(&name, Some(&target.digest)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    images.delete(&name, Some(&newer.digest)).unwrap();
    assert_eq!(images.delete(&name, None).unwrap_err().kind(), ErrorKind::NotFound);
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
                let images = images(&Store::open(root, StoreOptions::default()).unwrap(), "a");
                for n in 0..20 {
                    images
                        .put(&format!("{thread}-{n}").parse().unwrap(), target, &Labels::new())
                        .unwrap();
                    assert!(images.list().unwrap().len() > n);
                }
            });
        }
    });
    let images = images(&Store::open(&root, StoreOptions::default()).unwrap(), "a");
    assert_eq!(images.list().unwrap().len(), 160);
}

#[test]
fn a_name_is_created_once_and_changed_field_by_field() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("s"), StoreOptions::default()).unwrap();
    let images = images(&store, "a");
    let name: ImageName = "n".parse().unwrap();
    let target = Descriptor::new(MediaType::Index, Digest::sha256(b"1"), 1);
    let map = |pairs: &[(&str, &str)]| -> Labels {
        pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    };
    assert_eq!(
        images.update(&name, &ImageChange::default()).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    let made = images.clone().dated(5).create(&name, &target, &map(&[("a", "1"), ("b", "2")]));
    let made = made.unwrap();
    assert_eq!((made.created_at, made.updated_at), (5, 5));
    let error = images.create(&name, &target, &Labels::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(images.get(&name).unwrap(), made);

    let change = ImageChange {
        labels: Some(LabelChange::Merge(map(&[("a", "")]))),
        annotations: Some(LabelChange::Merge(map(&[("x", "y")]))),
        ..ImageChange::default()
    };
    let updated = images.update(&name, &change).unwrap();
    assert_eq!(updated.labels, map(&[("b", "2")]));
    assert_eq!((updated.created_at, updated.updated_at > 5), (5, true));
    let read = images.get(&name).unwrap();
    assert_eq!((read.labels, &read.target.annotations), (map(&[("b", "2")]), &map(&[("x", "y")])));

    let other = Descriptor::new(MediaType::Manifest, Digest::sha256(b"2"), 2);
    let change = ImageChange { target: Some(other.clone()), ..ImageChange::default() };
    assert_eq!(images.update(&name, &change).unwrap().target, other);
    assert_eq!(images.get(&name).unwrap().labels, map(&[("b", "2")]));

    let long = map(&[("k", &"v".repeat(4096))]);
    let change = ImageChange { labels: Some(LabelChange::Merge(long)), ..ImageChange::default() };
    let error = images.update(&name, &change).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}
