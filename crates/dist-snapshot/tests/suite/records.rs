//! Kinds, keys, parents, labels, order: what needs no mount.

use std::ops::ControlFlow;
use std::sync::Arc;

use dist_core::{ErrorKind, LabelChange, Labels, Namespace, SnapshotKind};
use dist_store::Removal;

use crate::support::{Bench, fails, for_each_snapshotter, key};

for_each_snapshotter!(
    kinds_and_times,
    keys_are_taken_once,
    commit_ends_the_key,
    parents_must_be_committed,
    parents_at_commit,
    parents_stay,
    what_is_removed_later_is_in_the_trash_until_somebody_empties_it,
    removed_keys_are_free,
    walk_order,
    walk_lets_others_in,
    labels,
    what_is_there_is_not_made_again,
    namespaces,
    committed_ones_have_no_mounts,
    directories_are_closed,
);

fn kinds_and_times(bench: &Bench) {
    bench.prepare("active", None);
    let active = bench.stat("active").unwrap();
    assert_eq!((active.kind, &active.parent), (SnapshotKind::Active, &None));
    assert_eq!(active.created_at, active.updated_at);
    bench.commit("a", "active");
    let a = bench.stat("a").unwrap();
    assert_eq!((a.kind, &a.parent), (SnapshotKind::Committed, &None));
    assert!(a.created_at >= active.created_at && a.created_at == a.updated_at);
    bench.prepare("next", Some("a"));
    bench.commit("b", "next");
    bench.view("view", Some("b"));
    let view = bench.stat("view").unwrap();
    assert_eq!((view.kind, view.parent), (SnapshotKind::View, Some(key("b"))));
    let b = bench.stat("b").unwrap();
    assert_eq!(b.parent, Some(key("a")));
    assert_eq!(bench.stat(b.parent.unwrap().as_str()).unwrap().parent, None);
    fails(ErrorKind::NotFound, bench.stat("ghost"));
    fails(ErrorKind::NotFound, bench.remove("ghost"));
    fails(ErrorKind::NotFound, bench.snapshotter.usage(&key("ghost")));
    fails(ErrorKind::NotFound, bench.snapshotter.mounts(&key("ghost")));
}

fn keys_are_taken_once(bench: &Bench) {
    bench.prepare("tmp", None);
    bench.commit("base", "tmp");
    let first = bench.prepare("p", Some("base"));
    bench.view("v", Some("base"));
    for taken in ["p", "v", "base"] {
        fails(ErrorKind::AlreadyExists, bench.try_prepare(taken, Some("base")));
        fails(ErrorKind::AlreadyExists, bench.try_view(taken, Some("base")));
        fails(ErrorKind::AlreadyExists, bench.try_commit(taken, "p", None));
    }
    assert_eq!(bench.snapshotter.mounts(&key("p")).unwrap(), first);
}

fn commit_ends_the_key(bench: &Bench) {
    bench.prepare("active", None);
    bench.commit("name", "active");
    fails(ErrorKind::NotFound, bench.stat("active"));
    fails(ErrorKind::NotFound, bench.try_commit("other", "active", None));
    fails(ErrorKind::AlreadyExists, bench.try_commit("name", "name", None));
    fails(ErrorKind::FailedPrecondition, bench.try_commit("other", "name", None));
    bench.view("view", Some("name"));
    fails(ErrorKind::FailedPrecondition, bench.try_commit("other", "view", None));
    bench.prepare("active", Some("name"));
    bench.commit("other", "active");
}

fn parents_must_be_committed(bench: &Bench) {
    fails(ErrorKind::NotFound, bench.try_prepare("a", Some("ghost")));
    fails(ErrorKind::NotFound, bench.try_view("a", Some("ghost")));
    bench.prepare("active", None);
    bench.view("view", None);
    for parent in ["active", "view"] {
        fails(ErrorKind::InvalidArgument, bench.try_prepare("a", Some(parent)));
        fails(ErrorKind::InvalidArgument, bench.try_view("a", Some(parent)));
    }
    fails(ErrorKind::NotFound, bench.stat("a"));
    assert_eq!(bench.dirs().len(), 2);
}

fn parents_at_commit(bench: &Bench) {
    for name in ["base", "other"] {
        bench.prepare("tmp", None);
        bench.commit(name, "tmp");
    }
    bench.prepare("has", Some("base"));
    fails(ErrorKind::FailedPrecondition, bench.try_commit("top", "has", Some("other")));
    bench.try_commit("top", "has", Some("base")).unwrap();

    bench.prepare("bare", None);
    if bench.name == "native" {
        fails(ErrorKind::FailedPrecondition, bench.try_commit("late", "bare", Some("base")));
        return;
    }
    bench.prepare("active", None);
    fails(ErrorKind::NotFound, bench.try_commit("late", "bare", Some("ghost")));
    fails(ErrorKind::FailedPrecondition, bench.try_commit("late", "bare", Some("active")));
    bench.try_commit("late", "bare", Some("top")).unwrap();
    assert_eq!(bench.stat("late").unwrap().parent, Some(key("top")));
    fails(ErrorKind::FailedPrecondition, bench.remove("top"));
    let [mount] = &bench.view("view", Some("late"))[..] else { panic!() };
    assert_eq!(dist_snapshot::mount::lower_dirs(std::slice::from_ref(mount)).len(), 3);
}

fn parents_stay(bench: &Bench) {
    bench.prepare("tmp", None);
    bench.commit("base", "tmp");
    bench.prepare("tmp", Some("base"));
    bench.commit("middle", "tmp");
    bench.prepare("top", Some("middle"));
    for parent in ["base", "middle"] {
        let error = fails(ErrorKind::FailedPrecondition, bench.remove(parent));
        assert!(error.to_string().contains("remove"), "{error:?}");
    }
    for key in ["top", "middle", "base"] {
        bench.remove(key).unwrap();
    }
    assert!(bench.dirs().is_empty());
    let trash = bench.store.root().join("trash");
    assert_eq!(std::fs::read_dir(trash).unwrap().count(), 0);
}

/// Empties the trash at no time.
#[derive(Debug)]
struct Patient;

impl dist_store::Emptier for Patient {
    fn thrown_away(&self) -> bool {
        true
    }
}

fn what_is_removed_later_is_in_the_trash_until_somebody_empties_it(bench: &Bench) {
    let trash = || std::fs::read_dir(bench.store.root().join("trash")).unwrap().count();
    let later = bench.store.removing(Removal::Later(Arc::new(Patient)));
    // Not where the disk that tests run on is nearly full.
    let left = usize::from(later.leave_in_trash());
    let snapshotter = dist_snapshot::open(&later, Namespace::default(), bench.name).unwrap();
    bench.prepare("a", None);
    snapshotter.remove(&key("a")).unwrap();
    assert!(bench.dirs().is_empty());
    assert_eq!(trash(), left);
    bench.prepare("a", None);
    bench.remove("a").unwrap();
    assert_eq!(trash(), left, "nobody asked for this one to go later");
    dist_snapshot::empty_trash(&later).unwrap();
    assert_eq!(trash(), 0);
}

fn removed_keys_are_free(bench: &Bench) {
    bench.prepare("tmp", None);
    bench.commit("name", "tmp");
    bench.prepare("reuse", Some("name"));
    bench.remove("reuse").unwrap();
    bench.view("reuse", Some("name"));
    bench.remove("reuse").unwrap();
    bench.prepare("reuse", None);
    bench.remove("name").unwrap();
    bench.commit("name", "reuse");
}

fn walked(bench: &Bench) -> Vec<String> {
    let mut keys = Vec::new();
    bench
        .snapshotter
        .walk(&mut |info| {
            keys.push(info.key.to_string());
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    keys
}

fn walk_order(bench: &Bench) {
    assert!(walked(bench).is_empty());
    bench.prepare("child", None);
    bench.prepare("tmp", None);
    bench.commit("base", "tmp");
    let late = if bench.name == "native" { None } else { Some("base") };
    bench.try_commit("child committed", "child", late).unwrap();
    bench.prepare("active", Some("child committed"));
    bench.view("view", Some("base"));
    let keys = walked(bench);
    assert_eq!(keys.len(), 4);
    for name in &keys {
        let info = bench.stat(name).unwrap();
        if let Some(parent) = info.parent {
            let place = |key: &str| keys.iter().position(|other| other == key).unwrap();
            assert!(place(parent.as_str()) < place(name), "{keys:?}");
        }
    }
    let mut seen = 0;
    bench
        .snapshotter
        .walk(&mut |_| {
            seen += 1;
            Ok(ControlFlow::Break(()))
        })
        .unwrap();
    assert_eq!(seen, 1);
}

fn walk_lets_others_in(bench: &Bench) {
    bench.prepare("a", None);
    bench
        .snapshotter
        .walk(&mut |info| {
            assert_eq!(bench.snapshotter.stat(&info.key)?, info);
            bench.snapshotter.prepare(&key("b"), None, &Labels::new())?;
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    bench.stat("b").unwrap();
}

fn labels(bench: &Bench) {
    let map = |pairs: &[(&str, &str)]| -> Labels {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    };
    let (first, second) = (map(&[("l", "1"), ("m", "")]), map(&[("n", "2")]));
    bench.snapshotter.prepare(&key("active"), None, &first).unwrap();
    assert_eq!(bench.stat("active").unwrap().labels, map(&[("l", "1")]));
    bench.snapshotter.commit(&key("name"), &key("active"), None, &second, None).unwrap();
    let before = bench.stat("name").unwrap();
    assert_eq!(before.labels, second);
    let records = bench.store.snapshots(Namespace::default(), bench.name);
    let replaced = map(&[("l", "1"), ("o", "3")]);
    let after =
        records.update_labels(&key("name"), &LabelChange::Replace(replaced.clone())).unwrap();
    assert_eq!(after, bench.stat("name").unwrap());
    assert_eq!((after.created_at, &after.labels), (before.created_at, &replaced));
    assert!(after.updated_at > before.updated_at);
    let merge = LabelChange::Merge(map(&[("l", ""), ("o", "4"), ("p", "5")]));
    let answer = records.update_labels(&key("name"), &merge).unwrap();
    assert_eq!(answer.labels, map(&[("o", "4"), ("p", "5")]));
    let after = bench.stat("name").unwrap();
    assert_eq!(after.labels, map(&[("o", "4"), ("p", "5")]));
    fails(ErrorKind::NotFound, records.update_labels(&key("ghost"), &merge));
    let mut walked = Vec::new();
    bench
        .snapshotter
        .walk(&mut |info| {
            walked.push(info);
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    assert_eq!(walked, [after]);
}

fn what_is_there_is_not_made_again(bench: &Bench) {
    let target =
        |name: &str| Labels::from([("containerd.io/snapshot.ref".to_owned(), name.to_owned())]);
    let prepare = |key_: &str, name: &str| {
        bench.snapshotter.prepare(&key(key_), None, &target(name)).map(drop)
    };
    prepare("making", "sha256:aa").unwrap();
    bench.commit("sha256:aa", "making");
    let error = fails(ErrorKind::AlreadyExists, prepare("making", "sha256:aa"));
    assert!(error.to_string().contains("sha256:aa"), "{error:?}");
    fails(ErrorKind::NotFound, bench.stat("making"));
    assert_eq!(bench.dirs().len(), 1);
    prepare("making", "sha256:bb").unwrap();
}

fn namespaces(bench: &Bench) {
    let other: Namespace = "other".parse().unwrap();
    let other = dist_snapshot::open(&bench.store, &other, bench.name).unwrap();
    bench.prepare("tmp", None);
    bench.commit("base", "tmp");
    fails(ErrorKind::NotFound, other.stat(&key("base")));
    fails(ErrorKind::NotFound, other.prepare(&key("a"), Some(&key("base")), &Labels::new()));
    other.prepare(&key("base"), None, &Labels::new()).unwrap();
    bench.remove("base").unwrap();
    assert_eq!(other.stat(&key("base")).unwrap().kind, SnapshotKind::Active);
    assert_eq!(dist_snapshot::purge(&bench.store).unwrap(), 0);
    other.remove(&key("base")).unwrap();
    let unknown = dist_snapshot::open(&bench.store, Namespace::default(), "zfs").map(drop);
    fails(ErrorKind::InvalidArgument, unknown);
}

fn committed_ones_have_no_mounts(bench: &Bench) {
    bench.prepare("tmp", None);
    bench.commit("base", "tmp");
    fails(ErrorKind::FailedPrecondition, bench.snapshotter.mounts(&key("base")));
    let dirs = |key_: &str| {
        let namespace = Namespace::default();
        dist_snapshot::layer_dirs(&bench.store, &namespace, bench.name, &key(key_))
    };
    bench.prepare("top", Some("base"));
    let [base] = &dirs("base").unwrap()[..] else { panic!() };
    let [top, below] = &dirs("top").unwrap()[..] else { panic!() };
    assert!(below == base && top != base && top.is_dir());
    fails(ErrorKind::NotFound, dirs("ghost"));
}

fn directories_are_closed(bench: &Bench) {
    use std::os::unix::fs::MetadataExt;
    let mask = rustix::process::umask(rustix::fs::Mode::empty());
    bench.prepare("active", None);
    rustix::process::umask(mask);
    let base = bench.store.root().join("snapshots").join(bench.name);
    let id = bench.dirs().pop_first().unwrap();
    for dir in [base.parent().unwrap(), &base, &base.join(&id)] {
        assert_eq!(std::fs::metadata(dir).unwrap().mode() & 0o7777, 0o700, "{}", dir.display());
    }
    assert_eq!(std::fs::metadata(base.join(id).join("fs")).unwrap().mode() & 0o7777, 0o755);
}
