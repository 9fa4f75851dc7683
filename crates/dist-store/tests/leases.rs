//! Leases, namespaces, and what goes into them with every write.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write as _;

use dist_core::{
    Cancel, Descriptor, Digest, ErrorKind, Expected, GC_EXPIRE, Ingest, IngestKey, Ingester as _,
    LabelChange, Labels, LeaseId, MediaType, Namespace, Resource, SnapshotKey, SnapshotKind, Usage,
};
use dist_store::{ContentStore, Scope, Store, StoreOptions};

struct Fixture {
    _dir: tempfile::TempDir,
    store: Store,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s"), StoreOptions::default()).unwrap();
        Self { _dir: dir, store }
    }

    /// A scope with a new lease.
    fn leased(&self) -> Scope {
        let lease = self.store.leases(&namespace("a")).create(None, &Labels::new()).unwrap();
        Scope { namespace: namespace("a"), lease: Some(lease.id) }
    }

    fn held(&self, scope: &Scope) -> Vec<Resource> {
        let lease = scope.lease.as_ref().unwrap();
        self.store.leases(&scope.namespace).resources(lease).unwrap()
    }

    fn namespaces(&self) -> Vec<String> {
        let list = self.store.namespaces().list().unwrap();
        list.into_iter().map(|(name, _)| name.to_string()).collect()
    }
}

fn namespace(name: &str) -> Namespace {
    name.parse().unwrap()
}

fn key(text: &str) -> SnapshotKey {
    text.parse().unwrap()
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

fn snapshot(name: &str) -> Resource {
    Resource::Snapshot { snapshotter: "native".into(), key: key(name) }
}

/// Writes a blob, or finds that it is there.
fn put(content: &ContentStore, bytes: &[u8]) -> dist_core::Result<Digest> {
    let digest = Digest::sha256(bytes);
    let expected = Expected { digest: Some(digest), size: Some(bytes.len() as u64) };
    let key = IngestKey::for_content("blob", &digest);
    match content.ingest(&key, expected, &Cancel::default())? {
        Ingest::Exists(_) => (),
        Ingest::Writer(mut writer) => {
            writer.write_all(bytes).unwrap();
            writer.commit(expected)?;
        }
    }
    Ok(digest)
}

#[test]
fn leases_are_made_listed_and_deleted() {
    let f = Fixture::new();
    let (leases, other) = (f.store.leases(&namespace("a")), f.store.leases(&namespace("b")));
    let id: LeaseId = "mine / too".parse().unwrap();
    let made = leases.create(Some(id.clone()), &labels(&[("l", "1"), ("m", "")])).unwrap();
    assert_eq!((&made.id, &made.labels), (&id, &labels(&[("l", "1")])));
    assert_eq!(leases.get(&id).unwrap(), made);
    let error = leases.create(Some(id.clone()), &Labels::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    let random = leases.create(None, &Labels::new()).unwrap();
    assert_ne!(random.id, leases.create(None, &Labels::new()).unwrap().id);
    assert_eq!(leases.list().unwrap().len(), 3);
    assert!(leases.list().unwrap().contains(&made));
    assert!(other.list().unwrap().is_empty());
    assert_eq!(other.delete(&id).unwrap_err().kind(), ErrorKind::NotFound);

    let resource = Resource::Content(Digest::sha256(b"not there"));
    leases.add(&id, &resource).unwrap();
    leases.add(&id, &resource).unwrap();
    leases.add(&id, &Resource::Image("x".parse().unwrap())).unwrap();
    leases.add(&id, &Resource::Ingest("i".parse().unwrap())).unwrap();
    leases.add(&id, &snapshot("s")).unwrap();
    assert_eq!(leases.resources(&id).unwrap().len(), 4);
    leases.remove(&id, &resource).unwrap();
    leases.remove(&id, &resource).unwrap();
    assert!(!leases.resources(&id).unwrap().contains(&resource));
    assert!(leases.resources(&random.id).unwrap().is_empty());

    leases.delete(&id).unwrap();
    let again = leases.create(Some(id.clone()), &Labels::new()).unwrap();
    assert!(leases.resources(&again.id).unwrap().is_empty());
    leases.delete(&id).unwrap();
    for error in [
        leases.delete(&id).unwrap_err(),
        leases.get(&id).unwrap_err(),
        leases.resources(&id).unwrap_err(),
        leases.add(&id, &resource).unwrap_err(),
        leases.remove(&id, &resource).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.to_string(), "lease \"mine / too\" does not exist");
    }
    leases.delete_lazily(&id).unwrap();
}

#[test]
fn a_blob_goes_into_the_lease_whether_it_is_new_or_there() {
    let f = Fixture::new();
    let (first, second) = (f.leased(), f.leased());
    let digest = put(&f.store.content(&first), b"hello").unwrap();
    let resource = Resource::Content(digest);
    assert_eq!(f.held(&first), std::slice::from_ref(&resource));
    assert!(f.held(&second).is_empty());
    put(&f.store.content(&second), b"hello").unwrap();
    assert_eq!(f.held(&second), std::slice::from_ref(&resource));
    // From another namespace, which has to claim the file.
    let lease = f.store.leases(&namespace("b")).create(None, &Labels::new()).unwrap();
    let third = Scope { namespace: namespace("b"), lease: Some(lease.id) };
    put(&f.store.content(&third), b"hello").unwrap();
    assert_eq!(f.held(&third), std::slice::from_ref(&resource));
    f.store.content(&first).delete(&digest).unwrap();
    assert!(f.held(&first).is_empty());
    assert_eq!(f.held(&second), [resource]);
}

#[test]
fn a_lease_that_is_not_there_lets_nothing_be_made() {
    let f = Fixture::new();
    let scope = Scope { namespace: namespace("a"), lease: Some("ghost".parse().unwrap()) };
    let (content, snapshots) = (f.store.content(&scope), f.store.snapshots(&scope, "native"));
    let insert = |key| snapshots.insert(key, None, SnapshotKind::Active, &Labels::new());
    let error = put(&content, b"hello").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(format!("{error:?}").contains("lease \"ghost\" does not exist"), "{error:?}");
    assert_eq!(insert(&key("s")).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(content.list().unwrap().is_empty());
    assert!(snapshots.list().unwrap().is_empty());
    assert!(f.namespaces().is_empty());
    // What is there is not given out under it either.
    let digest = put(&f.store.content(namespace("a")), b"hello").unwrap();
    assert_eq!(put(&content, b"hello").unwrap_err().kind(), ErrorKind::NotFound);
    content.delete(&digest).unwrap();
}

#[test]
fn a_commit_moves_the_lease_from_the_key_to_the_name() {
    let f = Fixture::new();
    let (first, second) = (f.leased(), f.leased());
    let open = |scope: &Scope| f.store.snapshots(scope, "native");
    let insert = |scope: &Scope, name| {
        open(scope).insert(&key(name), None, SnapshotKind::Active, &Labels::new())
    };
    let commit = |scope: &Scope, name, from| {
        open(scope).commit(&key(name), &key(from), None, &Labels::new(), Usage::default())
    };
    insert(&first, "k").unwrap();
    assert_eq!(f.held(&first), [snapshot("k")]);
    commit(&first, "n", "k").unwrap();
    assert_eq!(f.held(&first), [snapshot("n")]);

    // What is there already goes into the lease of whoever wanted to make it.
    insert(&second, "k2").unwrap();
    assert_eq!(commit(&second, "n", "k2").unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(insert(&second, "k2").unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(f.held(&second), [snapshot("k2"), snapshot("n")]);
    open(&second).remove(&key("k2")).unwrap();
    assert_eq!(f.held(&second), [snapshot("n")]);

    let third = f.leased();
    assert!(open(&third).hold(&key("n")).unwrap());
    assert!(!open(&third).hold(&key("ghost")).unwrap());
    assert_eq!(f.held(&third), [snapshot("n")]);
}

#[test]
fn only_images_that_expire_go_into_a_lease() {
    let f = Fixture::new();
    let scope = f.leased();
    let images = f.store.images(&scope);
    let target = Descriptor::new(MediaType::Index, Digest::sha256(b"1"), 1);
    let expire = labels(&[(GC_EXPIRE, "2030-01-01T00:00:00Z")]);
    images.create(&"stays".parse().unwrap(), &target, &Labels::new()).unwrap();
    images.create(&"goes".parse().unwrap(), &target, &expire).unwrap();
    assert_eq!(f.held(&scope), [Resource::Image("goes".parse().unwrap())]);
    images.delete(&"goes".parse().unwrap(), None).unwrap();
    assert!(f.held(&scope).is_empty());
}

#[test]
fn a_namespace_begins_with_the_first_thing_in_it() {
    let f = Fixture::new();
    let target = Descriptor::new(MediaType::Index, Digest::sha256(b"1"), 1);
    put(&f.store.content(namespace("c")), b"hello").unwrap();
    f.store.images(namespace("i")).put(&"x".parse().unwrap(), &target, &Labels::new()).unwrap();
    f.store.leases(&namespace("l")).create(None, &Labels::new()).unwrap();
    f.store
        .snapshots(namespace("s"), "native")
        .insert(&key("k"), None, SnapshotKind::Active, &Labels::new())
        .unwrap();
    assert_eq!(f.namespaces(), ["c", "i", "l", "s"]);
    // From one that has the blob.
    put(&f.store.content(namespace("d")), b"hello").unwrap();
    assert_eq!(f.namespaces(), ["c", "d", "i", "l", "s"]);
}

#[test]
fn only_an_empty_namespace_is_deleted() {
    let f = Fixture::new();
    let (namespaces, name) = (f.store.namespaces(), namespace("a"));
    assert_eq!(namespaces.labels(&name).unwrap(), None);
    assert_eq!(namespaces.delete(&name).unwrap_err().kind(), ErrorKind::NotFound);
    namespaces.create(&name, &labels(&[("l", "1")])).unwrap();
    assert_eq!(
        namespaces.create(&name, &Labels::new()).unwrap_err().kind(),
        ErrorKind::AlreadyExists
    );
    assert_eq!(namespaces.labels(&name).unwrap(), Some(labels(&[("l", "1")])));
    let change = LabelChange::Merge(labels(&[("l", ""), ("m", "2")]));
    assert_eq!(namespaces.update(&name, &change).unwrap(), labels(&[("m", "2")]));
    assert_eq!(namespaces.labels(&name).unwrap(), Some(labels(&[("m", "2")])));

    let target = Descriptor::new(MediaType::Index, Digest::sha256(b"1"), 1);
    let digest = put(&f.store.content(&name), b"hello").unwrap();
    let image = "x".parse().unwrap();
    f.store.images(&name).put(&image, &target, &Labels::new()).unwrap();
    let snapshots = f.store.snapshots(&name, "native");
    snapshots.insert(&key("k"), None, SnapshotKind::Active, &Labels::new()).unwrap();
    f.store.leases(&name).create(None, &Labels::new()).unwrap();
    let error = namespaces.delete(&name).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert_eq!(
        error.to_string(),
        "namespace \"a\" must be empty, but it still has images, blobs, \
         snapshots on \"native\" snapshotter"
    );
    f.store.content(&name).delete(&digest).unwrap();
    f.store.images(&name).delete(&image, None).unwrap();
    snapshots.remove(&key("k")).unwrap();
    namespaces.delete(&name).unwrap();
    assert!(f.namespaces().is_empty());
    assert!(f.store.leases(&name).list().unwrap().is_empty());
}
