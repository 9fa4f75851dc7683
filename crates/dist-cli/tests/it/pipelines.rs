//! Commands made of commands: shell pipelines over one store.

use dist_testutil::{Fault, FaultProxy, Gate, Image, ImageOptions, Layer, Registry, Rule, timed};

use crate::support::{dist, verify_store};

/// The layers of a manifest, ten at a time, each through a pipe of its own.
const FETCH_LAYERS: &str = r#"
dist fetch-object "$IMAGE" mediatype:application/vnd.oci.image.manifest.v1+json |
  jq -r '.layers[] | "\(.size) \(.digest)"' |
  xargs -P10 -L1 bash -euo pipefail -c '
    dist fetch-object "${IMAGE%:*}@$1" | dist ingest "layer-$1" --expected-size "$0" --expected-digest "$1"'
"#;

fn many_layers(repeat: bool) -> Image {
    let mut layers: Vec<Layer> = (0..10).map(|seed| Layer::random(seed, 20_000)).collect();
    if repeat {
        layers = layers.iter().chain(&layers).cloned().collect();
    }
    Image::new(&layers, &ImageOptions::default())
}

#[test]
fn layers_by_jq_and_xargs() {
    let _timed = timed("pipelines");
    let (registry, image) = (Registry::start(), many_layers(false));
    image.push(&registry, "test/pipe", "1");
    let dist = dist().env("IMAGE", registry.reference("test/pipe:1"));
    dist.script(FETCH_LAYERS).ok();
    let listed = dist.ok(&["list", "-q"]).text();
    assert_eq!(listed.lines().count(), 10, "{listed}");
    assert!((0..10).all(|at| listed.contains(&image.layer(at))), "{listed}");
    verify_store(&dist);
    dist.script("dist list -q | xargs dist delete").ok();
    assert_eq!(dist.ok(&["list", "-q"]).text(), "");
}

#[test]
fn repeated_digests_end_in_one_blob_and_no_error() {
    let _timed = timed("pipelines");
    let (registry, image) = (Registry::start(), many_layers(true));
    image.push(&registry, "test/pipe", "1");
    let dist = dist().env("IMAGE", registry.reference("test/pipe:1"));
    dist.script(FETCH_LAYERS).ok();
    let listed = dist.ok(&["list", "-q"]).text();
    assert_eq!(listed.lines().count(), 10, "{listed}");
    verify_store(&dist);
}

#[test]
fn the_second_of_one_key_waits_and_reads_nothing() {
    let _timed = timed("pipelines");
    let dist = dist().with(&["--stall-timeout", "1s"]);
    let ran = dist
        .script(
            r#"
            mkfifo first second
            digest=$(printf 'hello' | sha256sum | cut -d' ' -f1)
            dist ingest one-key --expected-size 5 --expected-digest sha256:$digest <first & a=$!
            exec 8>first; printf 'he' >&8
            until [ "$(dist active --format json | jq 'length')" = 1 ]; do :; done
            dist ingest one-key --expected-size 5 --expected-digest sha256:$digest <second 8>&- & b=$!
            exec 9>second; printf 'never read' >&9
            # Longer than the stall timeout: that is for the network alone.
            read -rt 1.3 <> <(:) || :
            kill -0 $b
            printf 'llo' >&8; exec 8>&-
            wait $a; wait $b
            exec 9>&-
            dist list -q
            "#,
        )
        .ok();
    assert_eq!(ran.text().trim().lines().last().unwrap_or("").len(), 71, "{ran:?}");
}

#[test]
fn active_from_another_shell() {
    let _timed = timed("pipelines");
    let registry = Registry::start();
    let image = Image::random(71, &[2_000_000]);
    image.push(&registry, "test/active", "1");
    let proxy = FaultProxy::start(registry.address());
    let gate = Gate::default();
    proxy.add(Rule::get(image.layer(0), Fault::Hold(1_500_000, gate.clone())).times(1));
    let dist = dist();
    let running = dist.spawn(&["fetch", &proxy.reference("test/active:1")]);
    gate.wait_held(1);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let text = dist.ok(&["active"]).text();
        if text.contains(&image.layer(0)) {
            assert!(text.lines().next().is_some_and(|line| line.contains("REF")), "{text}");
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{text}");
    }
    gate.open();
    running.wait().ok();
    assert!(!dist.ok(&["active"]).text().contains(&image.layer(0)));
}

#[test]
fn get_path_apply_and_multi_fetch() {
    let _timed = timed("pipelines");
    let (registry, image) = (Registry::start(), Image::varied());
    image.push(&registry, "test/varied", "1");
    let reference = registry.reference("test/varied:1");
    let dist = dist()
        .env("IMAGE", &reference)
        .env("NAME", registry.reference("test/varied"))
        .env("LAYERS", (0..3).map(|at| image.layer(at)).collect::<Vec<_>>().join(" "));
    let raw = dist.ok(&["fetch-object", &reference]).stdout;
    assert_eq!(raw, image.manifest.bytes, "the manifest as it is");
    let by_name = dist.ok(&["fetch-object", &registry.reference("test/varied"), &image.layer(0)]);
    assert_eq!(by_name.stdout, image.blobs[1].bytes, "a blob as it is");

    dist.script("for l in $LAYERS; do echo $l; done | dist multi-fetch \"$NAME\"").ok();
    assert_eq!(dist.ok(&["list", "-q"]).text().lines().count(), 3);
    let script = r#"
        mkdir tree
        for l in $LAYERS; do dist get $l | dist apply tree >applied; done
        cmp "$(dist path ${LAYERS%% *})" <(dist get ${LAYERS%% *})
        test -e tree/etc/new -a ! -e tree/etc/gone -a ! -e tree/hidden/below
        stat -c %a tree/bin/su
    "#;
    assert_eq!(dist.script(script).ok().text().trim(), "4755");
    let both = dist.ok(&["path", &image.layer(0), &image.layer(1)]).text();
    assert_eq!(both.lines().count(), 2);
    dist.run(&["get", &image.digest()]).exit(3);
    dist.run(&["path", &image.digest()]).exit(3);
}

#[test]
fn delete_warns_but_obeys() {
    let _timed = timed("pipelines");
    let (registry, image) = (Registry::start(), Image::random(1, &[100]));
    image.push(&registry, "test/del", "1");
    let dist = dist();
    dist.ok(&["pull", &registry.reference("test/del:1")]);
    let ran = dist.ok(&["delete", &image.layer(0)]);
    assert!(ran.stderr.contains("test/del"), "names the image: {}", ran.stderr);
    assert_eq!(ran.text().trim(), image.layer(0));
    dist.run(&["delete", "sha256:xyz"]).exit(2);
    dist.ok(&["pull", &registry.reference("test/del:1")]);
    assert!(dist.ok(&["list", "-q"]).text().contains(&image.layer(0)));
}
