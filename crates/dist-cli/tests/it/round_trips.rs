//! All test images through pull and push, and through copy, into registries without and with the
//! referrers API; what skopeo, podman and containerd then find there is what there was.

use std::ffi::OsStr;
use std::path::Path;

use dist_testutil::{
    Containerd, ReferrersRegistry, Registry, request, require, run, scratch, timed,
};
use serde_json::Value;

use super::support::dist;

fn json(registry: &Registry, path: &str) -> Value {
    serde_json::from_slice(&request(registry.address(), "GET", path, &[], b"").body).expect("JSON")
}

/// Names and tags of all images.
fn images(registry: &Registry) -> Vec<String> {
    let strings = |value: &Value| -> Vec<String> {
        let all = value.as_array().expect("a list").iter();
        all.map(|name| name.as_str().expect("a name").to_owned()).collect()
    };
    let names = strings(&json(registry, "/v2/_catalog")["repositories"]);
    let tags = |name: &String| strings(&json(registry, &format!("/v2/{name}/tags/list"))["tags"]);
    let all = |name: &String| tags(name).into_iter().map(|tag| format!("{name}:{tag}")).collect();
    names.iter().flat_map(|name| -> Vec<String> { all(name) }).collect()
}

/// The bytes that a name stands for, as skopeo gets them.
fn raw(name: &str) -> String {
    let name = format!("docker://{name}");
    run("skopeo", &["inspect", "--raw", "--tls-verify=false", &name].map(OsStr::new))
}

/// Has skopeo fetch the image for this machine, which compares each blob with its digest.
fn fetch_by_skopeo(name: &str, to: &Path) {
    let (name, to) = (format!("docker://{name}"), format!("dir:{}", to.display()));
    let args = ["copy", "-q", "--src-tls-verify=false", &name, &to];
    run("skopeo", &args.map(OsStr::new));
}

/// Pulls an image with podman; its ID.
fn pull_by_podman(name: &str, top: &Path) -> String {
    let (root, running) = (top.join("root"), top.join("run"));
    let args = ["pull", "-q", "--tls-verify=false", name].map(OsStr::new);
    let places =
        [OsStr::new("--root"), root.as_os_str(), OsStr::new("--runroot"), running.as_os_str()];
    run("podman", &[&places[..], &args[..]].concat()).trim().to_owned()
}

#[test]
fn what_was_pushed_and_copied_is_pulled_by_others_as_it_was() {
    let _timed = timed("round trips");
    require(&["skopeo", "podman"]);
    let (there, plain, behind) = (Registry::of_images(), Registry::start(), Registry::start());
    let referrers = ReferrersRegistry::start(&behind);
    let (dist, containerd) = (dist(), Containerd::start());
    let images = images(&there);
    assert!(images.len() >= 4, "{images:?}");
    for image in &images {
        let source = there.reference(image);
        dist.ok(&["pull", &source]);
        let whole = raw(&source);
        for registry in [plain.reference("x"), referrers.reference("x")] {
            let (pushed, copied) =
                (format!("{registry}/pushed/{image}"), format!("{registry}/copied/{image}"));
            dist.ok(&["push", &source, &pushed]);
            dist.ok(&["copy", &source, &copied]);
            assert!(raw(&copied) == whole, "{copied}");
            let dir = scratch();
            fetch_by_skopeo(&copied, &dir.path().join("copied"));
            fetch_by_skopeo(&pushed, &dir.path().join("pushed"));
        }
    }
    // Unpacking takes others long, and tells no more of large images than of these.
    for image in images.iter().filter(|name| name.contains("redis") || name.contains("busybox")) {
        let (pushed, copied) = (
            plain.reference(&format!("x/pushed/{image}")),
            plain.reference(&format!("x/copied/{image}")),
        );
        containerd.ctr(&["images", "pull", "--plain-http", &pushed]);
        let dir = scratch();
        let id = pull_by_podman(&copied, dir.path());
        let digest = format!("sha256:{id}");
        assert!(dist.ok(&["list", "-q"]).text().contains(&digest), "{copied}: {id}");
    }
}
