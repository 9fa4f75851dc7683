//! The graph against a naive model of the same rules.

use std::collections::BTreeSet;

use dist_core::{Digest, Resource};
use proptest::prelude::*;

use super::graph::{Graph, Via};
use super::{Object, Reason};

const NOW: i64 = 1_000_000_000;

/// One object as a client would make it; everything is text, as in rows.
#[derive(Clone, Debug)]
struct Thing {
    kind: Kind,
    number: u8,
    labels: Vec<(String, String)>,
    /// A snapshot's parent, an image's target, an ingest's content.
    below: Option<u8>,
    holds: Vec<(Kind, u8)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Lease,
    Image,
    Content,
    Snapshot,
    Ingest,
}

fn digest(number: u8) -> Digest {
    Digest::sha256(&[number])
}

fn resource(kind: Kind, number: u8) -> Resource {
    match kind {
        Kind::Image => Resource::Image(format!("i{number}").parse().unwrap()),
        Kind::Content => Resource::Content(digest(number)),
        Kind::Snapshot => Resource::Snapshot {
            snapshotter: "s".into(),
            key: format!("k{number}").parse().unwrap(),
        },
        Kind::Ingest => Resource::Ingest(format!("g{number}").parse().unwrap()),
        Kind::Lease => unreachable!("a lease is no resource"),
    }
}

fn object(kind: Kind, number: u8) -> Object {
    match kind {
        Kind::Lease => Object::Lease(format!("l{number}").parse().unwrap()),
        _ => Object::Resource(resource(kind, number)),
    }
}

fn below(kind: Kind) -> Option<(Kind, Via)> {
    match kind {
        Kind::Image => Some((Kind::Content, Via::Target)),
        Kind::Snapshot => Some((Kind::Snapshot, Via::Parent)),
        Kind::Ingest => Some((Kind::Content, Via::Expected)),
        Kind::Content | Kind::Lease => None,
    }
}

fn build(things: &[Thing]) -> Graph {
    let mut graph = Graph::default();
    let ids: Vec<_> =
        things.iter().map(|thing| graph.add(0, object(thing.kind, thing.number), 1, 0)).collect();
    for (thing, id) in things.iter().zip(&ids) {
        for (name, value) in &thing.labels {
            graph.label(*id, &format!("containerd.io/gc.{name}"), value);
        }
        if let (Some((kind, via)), Some(number)) = (below(thing.kind), thing.below) {
            graph.refer(*id, &resource(kind, number), via);
        }
        if thing.kind == Kind::Ingest {
            // Odd ones are old.
            graph.ends(*id, Some(NOW + if thing.number % 2 == 1 { -1 } else { 1 }), false);
        }
        for (kind, number) in &thing.holds {
            graph.refer(*id, &resource(*kind, *number), Via::Held);
        }
    }
    graph
}

/// The same rules by looking at all pairs again and again: what is kept fully, what flatly.
fn model(things: &[Thing]) -> BTreeSet<(Kind, u8)> {
    let has = |thing: &Thing, name: &str| thing.labels.iter().any(|(label, _)| label == name);
    let expired = |thing: &Thing| {
        thing
            .labels
            .iter()
            .any(|(label, value)| label == "expire" && value.starts_with("1970-01-01T00:00:00"))
    };
    let mut full: BTreeSet<(Kind, u8)> = BTreeSet::new();
    let mut flat: BTreeSet<(Kind, u8)> = BTreeSet::new();
    for thing in things {
        let root = match thing.kind {
            Kind::Lease | Kind::Image => !expired(thing),
            Kind::Content | Kind::Snapshot => has(thing, "root"),
            Kind::Ingest => thing.number % 2 == 0,
        };
        if root {
            full.insert((thing.kind, thing.number));
        }
    }
    loop {
        let before = (full.len(), flat.len());
        for from in things {
            let name = (from.kind, from.number);
            let is_full = full.contains(&name);
            if !is_full && !flat.contains(&name) {
                continue;
            }
            if let (Some((kind, _)), Some(number)) = (below(from.kind), from.below) {
                if is_full {
                    full.insert((kind, number))
                } else {
                    flat.insert((kind, number))
                };
            }
            if !is_full {
                continue;
            }
            for held in &from.holds {
                let flatly = has(from, "flat") && held.0 != Kind::Ingest;
                if flatly {
                    flat.insert(*held)
                } else {
                    full.insert(*held)
                };
            }
            for to in things {
                if to.kind != Kind::Lease && refers(from, to) {
                    full.insert((to.kind, to.number));
                }
            }
        }
        if before == (full.len(), flat.len()) {
            break;
        }
    }
    let there: BTreeSet<_> = things.iter().map(|thing| (thing.kind, thing.number)).collect();
    full.union(&flat).filter(|name| there.contains(name)).copied().collect()
}

/// Whether a label of one of both makes `from` keep `to`.
fn refers(from: &Thing, to: &Thing) -> bool {
    let named = |label: &str, value: &str, way: &str, thing: &Thing| {
        let Some(rest) = label.strip_prefix(way) else { return false };
        match thing.kind {
            Kind::Content => {
                rest.starts_with("content") && value == digest(thing.number).to_string()
            }
            Kind::Image => rest.starts_with("image") && value == format!("i{}", thing.number),
            Kind::Snapshot => {
                rest.starts_with("snapshot.s") && value == format!("k{}", thing.number)
            }
            Kind::Lease | Kind::Ingest => false,
        }
    };
    let used = |hour: &str| {
        to.labels
            .iter()
            .any(|(label, value)| label == "cond.value-usedat" && value.starts_with(hour))
    };
    from.labels.iter().any(|(label, value)| named(label, value, "ref.", to))
        || to.labels.iter().any(|(label, value)| named(label, value, "bref.", from))
        || from.labels.iter().any(|(label, value)| {
            label == "cond.snapshot.s"
                && to.kind == Kind::Snapshot
                && *value == format!("usedat<1h|k{}", to.number)
                && used("1970-01-01T00:00:00")
        })
}

/// References to things that may or may not be there.
fn label() -> impl Strategy<Value = (String, String)> {
    (0..9_u8, 0..5_u8, any::<bool>()).prop_map(|(what, number, first)| {
        let (name, value) = match what {
            0 => ("ref.content.0", digest(number).to_string()),
            1 => ("ref.image", format!("i{number}")),
            2 => ("ref.snapshot.s", format!("k{number}")),
            3 => ("bref.content.x", digest(number).to_string()),
            4 => ("bref.image", format!("i{number}")),
            5 => ("bref.snapshot.s/y", format!("k{number}")),
            6 if first => ("root", "1".into()),
            7 => ("cond.snapshot.s", format!("usedat<1h|k{number}")),
            8 if first => ("cond.value-usedat", "1970-01-01T00:00:00Z".into()),
            8 => ("cond.value-usedat", "1969-12-31T20:00:00Z".into()),
            _ => ("ref.content.1", "no digest".into()),
        };
        (name.to_owned(), value)
    })
}

fn thing() -> impl Strategy<Value = Thing> {
    let kind = prop_oneof![
        1 => Just(Kind::Lease),
        2 => Just(Kind::Image),
        4 => Just(Kind::Content),
        4 => Just(Kind::Snapshot),
        1 => Just(Kind::Ingest),
    ];
    let held = prop_oneof![
        Just(Kind::Image),
        Just(Kind::Content),
        Just(Kind::Snapshot),
        Just(Kind::Ingest)
    ];
    (
        (kind, 0..5_u8),
        prop::collection::vec(label(), 0..4),
        prop::option::of(0..5_u8),
        prop::collection::vec((held, 0..5_u8), 0..3),
        (any::<bool>(), 0..4_u8),
    )
        .prop_map(|((kind, number), mut labels, below, holds, (flat, expire))| {
            // A parent is made before its child, so snapshots form no circle.
            let below = below.filter(|below| kind != Kind::Snapshot || *below < number);
            labels.sort();
            labels.dedup_by(|a, b| a.0 == b.0);
            let lease = kind == Kind::Lease;
            if lease && flat {
                labels.push(("flat".into(), "1".into()));
            }
            match expire {
                0 => labels.push(("expire".into(), "1970-01-01T00:00:00Z".into())),
                1 => labels.push(("expire".into(), "2070-01-01T00:00:00Z".into())),
                2 => labels.push(("expire".into(), "no time".into())),
                _ => (),
            }
            if lease {
                labels.retain(|(name, _)| name == "flat" || name == "expire");
            }
            Thing { kind, number, labels, below, holds: if lease { holds } else { Vec::new() } }
        })
}

fn things() -> impl Strategy<Value = Vec<Thing>> {
    prop::collection::vec(thing(), 0..24).prop_map(|mut things| {
        things.sort_by_key(|thing| (thing.kind, thing.number));
        things.dedup_by_key(|thing| (thing.kind, thing.number));
        things
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_graph_keeps_what_the_model_keeps(things in things()) {
        let mut graph = build(&things);
        let marks = graph.mark(NOW);
        let expected = model(&things);
        for (id, thing) in things.iter().enumerate() {
            let kept = expected.contains(&(thing.kind, thing.number));
            prop_assert_eq!(marks.is_kept(id), kept, "{:?}", thing);
            let path = graph.path(&marks, id);
            prop_assert_eq!(path.is_some(), kept);
            if let Some(path) = path {
                let last = path.last().map(|step| step.0);
                prop_assert_eq!(last, Some(id));
                let root = matches!(
                    path[0].1,
                    Reason::Registered { .. }
                        | Reason::Unexpired { .. }
                        | Reason::InUse
                        | Reason::Labelled(_)
                );
                prop_assert!(root, "{:?}", path);
                prop_assert!(path.iter().all(|step| marks.is_kept(step.0)));
            }
        }
    }
}

#[test]
fn a_path_says_how_each_step_keeps_the_next() {
    let layer = Thing {
        kind: Kind::Content,
        number: 2,
        labels: Vec::new(),
        below: None,
        holds: Vec::new(),
    };
    let manifest = Thing {
        number: 1,
        labels: vec![("ref.content.l.0".into(), digest(2).to_string())],
        ..layer.clone()
    };
    let image =
        Thing { kind: Kind::Image, number: 0, below: Some(1), labels: Vec::new(), ..layer.clone() };
    let lease = Thing {
        kind: Kind::Lease,
        number: 0,
        holds: vec![(Kind::Content, 1)],
        labels: vec![("flat".into(), "1".into())],
        ..layer.clone()
    };
    let mut graph = build(&[lease.clone(), image, manifest.clone(), layer.clone()]);
    let marks = graph.mark(NOW);
    let path = graph.path(&marks, 3).expect("a layer of an image is kept");
    let reasons: Vec<_> = path.into_iter().map(|(_, reason)| reason).collect();
    assert_eq!(
        reasons,
        [
            Reason::Registered { expires: None },
            Reason::Target,
            Reason::Refers("containerd.io/gc.ref.content.l.0".into())
        ]
    );
    let mut graph = build(&[lease, manifest, layer]);
    let marks = graph.mark(NOW);
    assert!(marks.is_kept(1) && !marks.is_kept(2), "a flat lease holds what is in it only");
    assert_eq!(graph.dead_referrers(&marks).get(&2), Some(&1));
}
