//! Registries that answer otherwise than they should: what `ctr` of containerd makes of them, and we.

use dist_testutil::{Containerd, Dist, Fault, FaultProxy, Image, Ran, Registry, Rule, timed};

use super::{Difference, Log, compare};
use crate::auth::{PASSWORD, USER, basic};
use crate::support::{quick, verify_image};

const DIFFERENT: &[(&str, &[Difference])] = &[
    (
        "what can be asked once more is asked once more",
        &[
            ("HEAD fails once", "refused", "pulled"),
            ("the connection is refused once", "refused", "pulled"),
            ("the connection is reset once", "refused", "pulled"),
            ("the layer is unavailable once", "refused", "pulled"),
        ],
    ),
    (
        "a registry that refuses HEAD may still answer GET",
        &[("HEAD finds nothing", "refused", "pulled"), ("HEAD is forbidden", "refused", "pulled")],
    ),
    (
        "a manifest has its type in itself as well",
        &[("no type of the manifest", "refused", "pulled")],
    ),
];

/// What goes wrong, for the parts of paths of a manifest and of a layer.
fn faults(elsewhere: &str, layer: &str) -> Vec<(&'static str, Vec<Rule>)> {
    let status = |code| Fault::Status(code, Vec::new());
    let head = |fault| Rule::any("/manifests/", fault).times(1);
    let body = |fault| Rule::get(layer, fault);
    let there = format!("http://{elsewhere}/v2/test/odd{layer}");
    let moved = |code| Fault::Status(code, vec![("Location", there.clone())]);
    vec![
        ("nothing", vec![]),
        ("HEAD is not allowed", vec![head(status(405))]),
        ("HEAD is forbidden", vec![head(status(403))]),
        ("the manifest is forbidden", vec![Rule::any("/manifests/", status(403))]),
        ("HEAD finds nothing", vec![head(status(404))]),
        ("HEAD fails once", vec![head(status(500))]),
        ("the manifest always fails", vec![Rule::any("/manifests/", status(500))]),
        ("nobody is let in, and told no way", vec![Rule::any("/v2/", status(401))]),
        ("no digest", vec![Rule::any("/manifests/", Fault::Without("docker-content-digest"))]),
        (
            "no length of the manifest",
            vec![Rule::any("/manifests/", Fault::Without("content-length"))],
        ),
        ("no type of the manifest", vec![Rule::any("/manifests/", Fault::Without("content-type"))]),
        ("no length of the layer", vec![body(Fault::Without("content-length"))]),
        ("no type of the layer", vec![body(Fault::Without("content-type"))]),
        ("the manifest is another", vec![Rule::get("/manifests/", Fault::Flip(30))]),
        (
            "too many requests, once",
            vec![body(Fault::Status(429, vec![("Retry-After", "0".into())])).times(1)],
        ),
        ("too many requests, always", vec![body(status(429))]),
        ("the layer is unavailable once", vec![body(status(503)).times(1)]),
        ("the layer is unavailable", vec![body(status(503))]),
        ("the layer is not found", vec![body(status(404))]),
        ("the layer is forbidden", vec![body(status(403))]),
        ("the layer is cut once", vec![body(Fault::Cut(100_000)).times(1)]),
        ("the layer is always cut", vec![body(Fault::Cut(0))]),
        ("the connection is reset once", vec![body(Fault::Reset(100_000)).times(1)]),
        ("the connection is refused once", vec![body(Fault::Refuse).times(1)]),
        (
            "cut, and then the range is ignored",
            vec![body(Fault::Cut(100_000)).times(1), body(Fault::IgnoreRange)],
        ),
        ("a wrong byte", vec![body(Fault::Flip(100_000))]),
        ("the layer is elsewhere", vec![body(moved(307))]),
        ("the layer is elsewhere for good", vec![body(moved(301))]),
        ("elsewhere is nowhere", vec![body(status(307))]),
        (
            "elsewhere is here",
            vec![body(Fault::Status(307, vec![("Location", format!("/v2/test/odd{layer}"))]))],
        ),
    ]
}

/// Pulls through each fault, and does `then` without it.
fn all(pull: impl Fn(&str) -> Ran, then: impl Fn(&str)) -> Log {
    let mut log = Log::default();
    let (registry, other) = (Registry::start(), Registry::start());
    let elsewhere = FaultProxy::start(other.address());
    for (at, seed) in (0..faults("", "").len()).zip(100..) {
        // Another image each time: nothing is there from before.
        let image = Image::random(seed, &[300_000, 2_000]);
        for registry in [&registry, &other] {
            image.push(registry, "test/odd", &seed.to_string());
        }
        let proxy = FaultProxy::start(registry.address());
        let layer = format!("/blobs/{}", image.layer(0));
        let (name, rules) = faults(elsewhere.address(), &layer).swap_remove(at);
        rules.into_iter().for_each(|rule| proxy.add(rule));
        let reference = proxy.reference(&format!("test/odd:{seed}"));
        let ran = pull(&reference);
        log.say(name, if ran.code == Some(0) { "pulled" } else { "refused" });
        proxy.reset();
        then(&reference);
    }
    log
}

#[test]
fn odd_registries_are_met_as_by_containerd() {
    let _timed = timed("differential");
    let containerd = Containerd::start();
    let dist = quick();
    let ctr = |reference: &str| {
        let mut ctr = dist.clean("ctr");
        ctr.arg("--address").arg(containerd.socket());
        ctr.args(["images", "pull", "--plain-http", reference]);
        dist.finish(ctr)
    };
    // What containerd makes of bytes that it kept though they were wrong depends on its luck.
    let theirs = all(ctr, |_| {});
    let ours = all(
        |reference| dist.run(&["pull", reference]),
        |reference| drop(dist.ok(&["pull", reference])),
    );
    compare(theirs, ours, DIFFERENT);
}

/// Passwords are for the host that they were given for, also when it sends on to another one.
#[test]
fn a_password_does_not_follow_a_layer_to_another_host() {
    let _timed = timed("differential");
    let (registry, image) = basic();
    let open = Registry::start();
    image.push(&open, "test/private", "1");
    let (proxy, elsewhere) =
        (FaultProxy::start(registry.0.address()), FaultProxy::start(open.address()));
    let layer = format!("/blobs/{}", image.layer(0));
    let there = format!("http://{}/v2/test/private{layer}", elsewhere.address());
    proxy.add(Rule::get(layer, Fault::Status(307, vec![("Location", there)])));
    let reference = proxy.reference("test/private:1");
    let login = format!("{USER}:{PASSWORD}");
    let (containerd, dist) = (Containerd::start(), quick());
    let ctr = |dist: &Dist| {
        let mut ctr = dist.clean("ctr");
        ctr.arg("--address").arg(containerd.socket());
        ctr.args(["images", "pull", "--plain-http", "--user", &login, &reference]);
        dist.finish(ctr)
    };
    ctr(&dist).ok();
    dist.ok(&["--user", &login, "pull", &reference]);
    verify_image(&dist, &reference, &image);
    assert!(proxy.log().iter().any(|request| request.authorized), "nobody showed a password");
    let asked = elsewhere.log();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(asked.iter().all(|request| !request.authorized), "{asked:?}");
}
