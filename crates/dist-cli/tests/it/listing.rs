//! What `dist images` says, out of documents and out of what is kept of them.

use dist_testutil::{Dist, Image, ImageOptions, Layer, Registry, index_of, run, timed};
use serde_json::Value;

use crate::support::{dist, pull};

/// Both forms of the listing.
fn listed(dist: &Dist) -> (String, Value) {
    (dist.ok(&["images"]).text(), dist.ok(&["images", "--format", "json"]).json())
}

/// Runs SQL on the database, and gives the number that it answers with.
/// Runs one statement on the database.
pub(crate) fn sql(dist: &Dist, text: &str) -> String {
    let script = "import sqlite3, sys\n\
                  db = sqlite3.connect(sys.argv[1], timeout=10)\n\
                  print((db.execute(sys.argv[2]).fetchone() or [''])[0])\n\
                  db.commit()";
    let database = dist.root().join("meta.db");
    run("python3", &["-c".as_ref(), script.as_ref(), database.as_os_str(), text.as_ref()])
        .trim()
        .to_owned()
}

fn documents(dist: &Dist) -> String {
    sql(dist, "SELECT count(*) FROM documents")
}

/// What JSON says of one image.
fn row<'a>(json: &'a Value, reference: &str) -> &'a Value {
    let rows = json.as_array().expect("an array");
    rows.iter().find(|row| row["name"] == reference).expect("a row")
}

#[test]
fn images_are_listed_the_same_whether_their_documents_are_read_or_known() {
    let _timed = timed("listing");
    let registry = Registry::start();
    let dist = dist();
    let of = |seed, platform| {
        let options = ImageOptions { platform: Some(platform), ..ImageOptions::default() };
        Image::new(&[Layer::random(seed, 1000)], &options)
    };
    let (amd, arm) = (of(7, ("amd64", None)), of(8, ("arm64", Some("v8"))));
    let (plain, shared) = (Image::varied(), Image::random(9, &[20, 30, 40]));
    plain.push(&registry, "test/plain", "1");
    shared.push(&registry, "test/shared", "1");
    shared.push(&registry, "test/again", "1");
    let index = index_of(&[("amd64", None, amd.clone()), ("arm64", Some("v8"), arm.clone())]);
    index.push(&registry, "test/index", "1");
    for name in ["plain", "shared", "again", "index"] {
        pull(&dist, &registry.reference(&format!("test/{name}:1")));
    }
    let check = |what: &str| {
        sql(&dist, "DELETE FROM documents");
        let read = listed(&dist);
        assert_ne!(documents(&dist), "0", "{what}");
        assert_eq!(listed(&dist), read, "{what}");
        read.1
    };
    let said = |json: &Value, name: &str| {
        let row = row(json, &registry.reference(&format!("test/{name}:1")));
        (row["platforms"].clone(), row["complete"] == true, row["size"].as_u64())
    };
    let json = check("of one platform");
    let (platforms, complete, one) = said(&json, "index");
    assert_eq!((platforms, complete), (serde_json::json!(["linux/amd64"]), true));
    dist.ok(&["fetch", "--all-platforms", &registry.reference("test/index:1")]);
    let json = check("of all platforms");
    let (platforms, complete, all) = said(&json, "index");
    assert_eq!((platforms, complete), (serde_json::json!(["linux/amd64", "linux/arm64"]), true));
    assert!(all > one, "{json}");

    // Less and less of one is there.
    let whole = said(&json, "shared").2;
    dist.ok(&["delete", &shared.layer(1)]);
    let json = check("without a layer");
    for name in ["shared", "again"] {
        let (_, complete, left) = said(&json, name);
        assert!(!complete && left < whole && left.is_some(), "{json}");
    }
    dist.ok(&["delete", &shared.blobs[0].digest.to_string()]);
    let json = check("without a config");
    assert_eq!(said(&json, "shared").0, serde_json::json!(["unknown"]));
    dist.ok(&["delete", &shared.digest()]);
    let json = check("without a manifest");
    assert_eq!(said(&json, "shared"), (serde_json::json!([]), false, None));
    dist.ok(&["delete", &arm.digest()]);
    let json = check("without one platform of an index");
    assert_eq!(said(&json, "index").0, serde_json::json!(["linux/amd64"]));
    assert_eq!(said(&json, "plain").0, serde_json::json!(["linux/amd64"]));
}

#[test]
fn what_is_known_of_documents_goes_with_them() {
    let _timed = timed("listing");
    let (registry, image, dist) = (Registry::start(), Image::varied(), dist());
    image.push(&registry, "test/known", "1");
    let reference = registry.reference("test/known:1");
    pull(&dist, &reference);
    let before = listed(&dist);
    assert_eq!(documents(&dist), "2");
    // They are not read again: that a file is lost is for `fsck` to find.
    let path = dist.root().join("content/blobs").join(image.digest().replace(':', "/"));
    let whole = fs_err::read(&path).expect("read the manifest");
    fs_err::remove_file(&path).expect("lose the manifest");
    assert_eq!(listed(&dist), before);
    dist.run(&["fsck"]).exit(8);
    fs_err::write(&path, whole).expect("put it back");
    dist.ok(&["rmi", &reference]);
    dist.ok(&["gc"]);
    assert_eq!(documents(&dist), "0");
}

#[test]
fn many_listings_and_pulls_at_once() {
    let _timed = timed("listing");
    let (registry, dist) = (Registry::start(), dist());
    let names: Vec<String> = (0..6).map(|n| format!("test/many{n}")).collect();
    for (seed, name) in (20..).zip(&names) {
        Image::random(seed, &[500, 600]).push(&registry, name, "1");
    }
    let references: Vec<_> =
        names.iter().map(|name| registry.reference(&format!("{name}:1"))).collect();
    let running: Vec<_> = references
        .iter()
        .flat_map(|reference| {
            [dist.spawn(&["pull", reference]), dist.spawn(&["images"]), dist.spawn(&["images"])]
        })
        .collect();
    for running in running {
        running.wait().ok();
    }
    let known = listed(&dist);
    assert_eq!(documents(&dist), "12");
    sql(&dist, "DELETE FROM documents");
    assert_eq!(listed(&dist), known);
    assert!(known.1.as_array().expect("an array").iter().all(|row| row["complete"] == true));
}
