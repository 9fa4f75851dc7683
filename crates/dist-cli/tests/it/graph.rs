//! The direction of the crates: who may name whom, and where no runtime is.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use dist_testutil::timed;
use serde_json::Value;

/// What each crate may depend on, of ours.
const ALLOWED: [(&str, &[&str]); 11] = [
    ("dist-core", &[]),
    ("dist-layer", &["dist-core"]),
    ("dist-registry", &["dist-core"]),
    ("dist-policy", &["dist-core"]),
    ("dist-store", &["dist-core"]),
    ("dist-snapshot", &["dist-core", "dist-layer", "dist-store"]),
    (
        "dist",
        &["dist-core", "dist-layer", "dist-policy", "dist-registry", "dist-snapshot", "dist-store"],
    ),
    ("dist-run", &["dist", "dist-core", "dist-layer", "dist-snapshot", "dist-store"]),
    (
        "dist-grpc",
        &[
            "dist",
            "dist-core",
            "dist-layer",
            "dist-registry",
            "dist-run",
            "dist-snapshot",
            "dist-store",
        ],
    ),
    (
        "dist-cli",
        &[
            "dist",
            "dist-core",
            "dist-grpc",
            "dist-layer",
            "dist-policy",
            "dist-registry",
            "dist-run",
            "dist-snapshot",
            "dist-store",
        ],
    ),
    ("dist-testutil", &["dist-core"]),
];

fn metadata() -> Value {
    // What other platforms need may never have been downloaded.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", &platform])
        .current_dir(crate::support::project())
        .output()
        .expect("run cargo metadata");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("cargo's JSON")
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[test]
fn crates_depend_downwards_only() {
    let _timed = timed("graph");
    let metadata = metadata();
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        ALLOWED.iter().map(|(name, of)| (*name, of.iter().copied().collect())).collect();
    let mut names = BTreeMap::new();
    for package in array(&metadata["packages"]) {
        let name = package["name"].as_str().expect("a name");
        names.insert(package["id"].as_str().expect("an id"), name);
        if !package["source"].is_null() {
            continue;
        }
        let allowed = allowed.get(name).unwrap_or_else(|| panic!("{name} is not in the graph"));
        for dependency in array(&package["dependencies"]) {
            let on = dependency["name"].as_str().expect("a name");
            let dev = dependency["kind"] == "dev";
            let ours = on == "dist" || on.starts_with("dist-");
            let fine = allowed.contains(on) || dev && on == "dist-testutil" && name != on;
            assert!(!ours || fine, "{name} may not depend on {on}");
        }
    }
    for start in ["dist-core", "dist-store", "dist-layer", "dist-policy", "dist-snapshot"] {
        let reached = reach(&metadata, &names, start);
        for banned in ["tokio", "reqwest", "hyper"] {
            assert!(!reached.contains(banned), "{banned} is reachable from {start}");
        }
    }
    let whole = reach(&metadata, &names, "dist-cli");
    for banned in ["openssl", "openssl-sys", "native-tls", "aws-lc-rs", "libz-sys"] {
        assert!(!whole.contains(banned), "{banned} is in the tree");
    }
}

/// Everything a crate needs to be built, tests apart.
fn reach<'a>(
    metadata: &'a Value,
    names: &BTreeMap<&'a str, &'a str>,
    start: &str,
) -> BTreeSet<&'a str> {
    let nodes: BTreeMap<&str, &Value> = array(&metadata["resolve"]["nodes"])
        .iter()
        .map(|node| (node["id"].as_str().expect("an id"), node))
        .collect();
    let mut todo: Vec<&str> =
        names.iter().filter(|(_, name)| **name == start).map(|(id, _)| *id).collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = todo.pop() {
        if !seen.insert(id) {
            continue;
        }
        for dependency in array(&nodes[id]["deps"]) {
            let needed = array(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null());
            if needed {
                todo.push(dependency["pkg"].as_str().expect("an id"));
            }
        }
    }
    seen.iter().map(|id| names[id]).collect()
}
