//! A real 2.x `ctr`, which the environment variable `CTR2` named when the tests were built.

use std::path::Path;
use std::process::{Command, Stdio};

use dist_testutil::{Auth, Certificates, Image, Registry, RegistryOptions, Tree, index_of};

use crate::support::Served;

/// `ctr`, talking to the daemon.
struct Ctr<'a>(&'a Served);

impl Ctr<'_> {
    /// Whether it succeeded, and all that it printed.
    fn run(&self, args: &[&str]) -> (bool, String) {
        let mut command = Command::new(env!("CTR2"));
        command.arg("--address").arg(self.0.path("socket")).args(args).stdin(Stdio::null());
        let ran = tokio::task::block_in_place(|| command.output()).unwrap();
        let bytes = [ran.stdout, ran.stderr].concat();
        (ran.status.success(), String::from_utf8_lossy(&bytes).into_owned())
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let (success, text) = self.run(args);
        assert!(success, "{args:?}: {text}");
        text
    }

    /// Fails unless it fails, and says `part`.
    #[track_caller]
    fn fails(&self, args: &[&str], part: &str) {
        let (success, text) = self.run(args);
        assert!(!success && text.contains(part), "{args:?}: {text}");
    }

    /// The lines that it prints, sorted.
    #[track_caller]
    fn lines(&self, args: &[&str]) -> Vec<String> {
        let mut lines: Vec<String> = self.ok(args).lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    /// Removes all images, and what only they kept.
    fn clear(&self) {
        let names = self.lines(&["images", "ls", "-q"]);
        let names = names.iter().map(String::as_str);
        self.ok(&["images", "rm", "--sync"].into_iter().chain(names).collect::<Vec<_>>());
        assert_eq!(self.lines(&["content", "ls", "-q"]), [""; 0]);
        assert_eq!(self.lines(&["snapshots", "ls"]).len(), 1);
    }

    /// Fails unless the layers of these images are there and of no others, and unpacked if they are
    /// `unpacked`.
    #[track_caller]
    fn holds(&self, all: &[&Image], images: &[&Image], unpacked: bool) {
        // What nothing keeps is still there until a collection.
        self.ok(&["leases", "create", "--id", "sync"]);
        self.ok(&["leases", "rm", "--sync", "sync"]);
        let (blobs, snapshots) = (self.ok(&["content", "ls", "-q"]), self.ok(&["snapshots", "ls"]));
        for image in all {
            let wanted = images.iter().any(|other| other.digest() == image.digest());
            assert_eq!(blobs.contains(&image.layer(0)), wanted, "{blobs}");
            let chain_id = image.chain_id().to_string();
            assert_eq!(snapshots.contains(&chain_id), wanted && unpacked, "{snapshots}");
        }
    }
}

/// Images for three platforms.
struct Three {
    amd64: Image,
    arm64: Image,
    s390x: Image,
    index: Image,
}

impl Three {
    fn new() -> Self {
        let [amd64, arm64, s390x] = [1, 2, 3].map(|seed| Image::random(seed, &[300_000, 500]));
        let platforms = [("amd64", &amd64), ("arm64", &arm64), ("s390x", &s390x)];
        let index = index_of(&platforms.map(|(name, image)| (name, None, image.clone())));
        Self { amd64, arm64, s390x, index }
    }

    fn all(&self) -> [&Image; 3] {
        [&self.amd64, &self.arm64, &self.s390x]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ctr_2_pulls_what_it_is_told_to() {
    let (registry, three) = (Registry::start(), Three::new());
    three.index.push(&registry, "team/app", "1");
    let served = Served::new("overlayfs");
    let (ctr, name) = (Ctr(&served), registry.reference("team/app:1"));
    let name = name.as_str();
    let (arm64, amd64) = (["--platform", "linux/arm64"], ["--platform", "linux/amd64"]);
    let metadata = |there: bool| {
        let blobs = ctr.ok(&["content", "ls", "-q"]);
        assert_eq!(blobs.contains(&three.s390x.digest()), there, "{blobs}");
    };
    let told = ctr.ok(&["images", "pull", name]);
    for part in ["fetching image content", "Pulling from OCI Registry", &three.index.digest()] {
        assert!(told.contains(part), "{part}: {told}");
    }
    // What is not brought is not waited for.
    assert!(!told.contains(&three.s390x.layer(0)["sha256:".len()..][..12]), "{told}");
    ctr.holds(&three.all(), &[&three.amd64], true);
    metadata(true);
    assert!(ctr.ok(&["images", "ls"]).contains("linux/amd64,linux/arm64,linux/s390x"));
    assert!(ctr.ok(&["images", "check"]).contains("complete (3/3)"));
    assert!(ctr.ok(&["images", "usage", name]).contains("KiB"));
    ctr.ok(&["images", "pull", name]);
    ctr.clear();

    ctr.ok(&["images", "pull", arm64[0], arm64[1], name]);
    ctr.holds(&three.all(), &[&three.arm64], true);
    ctr.ok(&["images", "pull", arm64[0], arm64[1], amd64[0], amd64[1], name]);
    ctr.holds(&three.all(), &[&three.arm64, &three.amd64], true);
    ctr.clear();
    ctr.ok(&["images", "pull", "--skip-metadata", "--label", "colour=red", name]);
    metadata(false);
    assert!(ctr.ok(&["images", "ls", "labels.colour==red"]).contains(name));
    ctr.clear();
    ctr.ok(&["images", "pull", "--all-platforms", name]);
    ctr.holds(&three.all(), &three.all(), false);
    let target = served.path("mounted");
    std::fs::create_dir(&target).unwrap();
    let target = target.to_str().unwrap();
    ctr.ok(&["images", "pull", "--snapshotter", "native", name]);
    ctr.ok(&["images", "pull", name]);
    ctr.ok(&["images", "mount", name, target]);
    assert!(Path::new(target).read_dir().unwrap().next().is_some());
    ctr.ok(&["images", "unmount", "--rm", target]);
    let pinned = registry.reference(&format!("team/app@{}", three.index.digest()));
    ctr.ok(&["images", "pull", &pinned]);
    ctr.ok(&["images", "pull", "--local", "--plain-http", name]);

    ctr.fails(&["images", "pull", &registry.reference("none:1")], "not found");
    ctr.fails(&["images", "pull", "--platform", "linux/none", name], "not found");
    ctr.fails(&["images", "pull", "--snapshotter", "none", name], "invalid argument");
    ctr.fails(&["images", "pull", "--http-dump", name], "over http");
    ctr.clear();
}

#[tokio::test(flavor = "multi_thread")]
async fn ctr_2_reaches_registries_as_it_is_told_to() {
    let (open, image) = (Registry::start(), Image::random(1, &[3000]));
    image.push(&open, "app", "1");
    let storage = Some(open.storage().to_owned());
    let certificates = Certificates::new();
    let auth = Auth::Basic { user: "user".into(), password: "hunter2".into() };
    let tls = Registry::with(RegistryOptions {
        storage,
        auth,
        tls: Some(certificates.server("good", "IP:127.0.0.1")),
        ..RegistryOptions::default()
    });
    let served = Served::new("overlayfs");
    let ctr = Ctr(&served);
    ctr.ok(&["images", "pull", "--plain-http", &open.reference("app:1")]);
    let hosts = served.path("hosts");
    let dir = hosts.join(tls.address());
    std::fs::create_dir_all(&dir).unwrap();
    let (hosts, name) = (hosts.to_str().unwrap(), tls.reference("app:1"));
    let pull = ["images", "pull", "--hosts-dir", hosts, "--user"];
    let as_user = |user| pull.into_iter().chain([user, name.as_str()]).collect::<Vec<&str>>();
    ctr.fails(&as_user("user:hunter2"), "ertificate");
    let section = |server: &str, rest: &str| {
        let text = format!("[host.{server:?}]\ncapabilities = ['pull', 'resolve']\n{rest}\n");
        std::fs::write(dir.join("hosts.toml"), text).unwrap();
    };
    let server = format!("https://{}", tls.address());
    section(&server, &format!("ca = {:?}", certificates.authority()));
    ctr.ok(&as_user("user:hunter2"));
    ctr.fails(&as_user("user:wrong"), "401");
    ctr.fails(&["images", "push", "--hosts-dir", hosts, &name], "push");
    section(&server, "skip_verify = true");
    ctr.ok(&as_user("user:hunter2"));
    // A mirror needs neither the certificate nor the password.
    section(&format!("http://{}", open.address()), "");
    ctr.ok(&as_user("user:wrong"));
}

#[tokio::test(flavor = "multi_thread")]
async fn ctr_2_moves_images_through_transfers() {
    let (first, second, three) = (Registry::start(), Registry::start(), Three::new());
    three.index.push(&first, "team/app", "1");
    let served = Served::new("overlayfs");
    let (ctr, name, copy) =
        (Ctr(&served), first.reference("team/app:1"), second.reference("copy:2"));
    let (name, copy) = (name.as_str(), copy.as_str());
    ctr.ok(&["images", "pull", "--all-platforms", name]);
    ctr.ok(&["images", "tag", name, copy, "example.com/other:1"]);
    ctr.ok(&["images", "tag", "--force", name, copy]);
    ctr.fails(&["images", "tag", "example.com/none:1", "example.com/none:2"], "not found");
    let told = ctr.ok(&["images", "push", copy]);
    assert!(told.contains("Pushing to OCI Registry"), "{told}");
    let (arm64, two) = (second.reference("arm64:1"), second.reference("copy:two"));
    ctr.ok(&["images", "push", "--platform", "linux/arm64", &arm64, name]);
    let both = ["--platform", "linux/arm64", "--platform", "linux/amd64"];
    ctr.ok(&["images", "push", both[0], both[1], both[2], both[3], &two, name]);
    ctr.fails(&["images", "push", "example.com/none:1"], "not found");

    let path = |at: &str| served.path(at).to_str().unwrap().to_owned();
    let archives = ["host", "arm64", "all", "several"].map(path);
    let [host, arm, all, several] = archives.each_ref().map(String::as_str);
    ctr.ok(&["images", "export", host, name]);
    ctr.ok(&["images", "export", "--platform", "linux/arm64", arm, name]);
    ctr.ok(&["images", "export", "--all-platforms", "--skip-manifest-json", all, name]);
    ctr.ok(&["images", "export", "--skip-non-distributable", several, name, copy]);
    let lists = |archive: &str, image: &Image| {
        let listed = dist_testutil::run("tar", &["tf".as_ref(), archive.as_ref()]);
        let layer = image.layer(0).replace(':', "/");
        (listed.contains(&layer), listed.contains("manifest.json"))
    };
    for (archive, images, docker) in [
        (host, vec![&three.amd64], true),
        (arm, vec![&three.arm64], true),
        (all, three.all().to_vec(), false),
        (several, vec![&three.amd64], true),
    ] {
        for image in three.all() {
            let wanted = images.iter().any(|other| other.digest() == image.digest());
            assert_eq!(lists(archive, image), (wanted, docker), "{archive}");
        }
    }
    ctr.fails(&["images", "export", &path("no"), "example.com/none:1"], "not found");
    ctr.fails(&["images", "export", "--platform", "linux/none", &path("no"), name], "not found");
    ctr.clear();

    ctr.ok(&["images", "import", host]);
    ctr.holds(&three.all(), &[&three.amd64], true);
    assert_eq!(ctr.lines(&["images", "ls", "-q"]), [name]);
    ctr.clear();
    ctr.ok(&["images", "import", "--platform", "linux/arm64", all]);
    ctr.holds(&three.all(), &[&three.arm64], true);
    ctr.clear();
    ctr.ok(&["images", "import", "--all-platforms", "--no-unpack", "--label", "a=b", all]);
    ctr.holds(&three.all(), &three.all(), false);
    assert!(ctr.ok(&["images", "ls", "labels.a==b"]).contains(name));
    let digests = ["--digests", "--base-name", "example.com/new"];
    ctr.ok(&["images", "import", digests[0], digests[1], digests[2], several]);
    let digest = format!("example.com/new@{}", three.index.digest());
    assert!(ctr.lines(&["images", "ls", "-q"]).contains(&digest));
    ctr.ok(&["images", "import", "--index-name", "all:1", several]);
    assert!(ctr.lines(&["images", "ls", "-q"]).contains(&"all:1".to_owned()));
    ctr.ok(&["images", "import", "--local", host]);
    ctr.fails(&["images", "import", env!("CTR2")], "ctr: ");
    ctr.clear();
    ctr.ok(&["images", "pull", copy]);
    ctr.ok(&["images", "pull", "--platform", "linux/arm64", &arm64]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ctr_2_does_its_other_work() {
    let (registry, image) = (Registry::start(), Image::random(1, &[3000]));
    image.push(&registry, "app", "1");
    let served = Served::new("overlayfs");
    let (ctr, name) = (Ctr(&served), registry.reference("app:1"));
    ctr.ok(&["version"]);
    assert!(ctr.ok(&["plugins", "ls"]).contains("overlayfs"));
    ctr.ok(&["namespaces", "create", "other", "team=red"]);
    assert_eq!(ctr.lines(&["namespaces", "ls", "-q"]), ["other"]);
    ctr.ok(&["-n", "other", "content", "fetch", "--plain-http", &name]);
    assert_eq!(ctr.lines(&["-n", "other", "content", "ls", "-q"]).len(), image.blob_count());
    assert_eq!(ctr.lines(&["content", "ls", "-q"]), [""; 0]);
    ctr.ok(&["-n", "other", "content", "get", &image.digest()]);
    ctr.ok(&["-n", "other", "content", "label", &image.digest(), "a=b"]);
    ctr.ok(&["images", "pull", &name]);
    let chain_id = image.chain_id().to_string();
    ctr.ok(&["snapshots", "prepare", "active", &chain_id]);
    ctr.ok(&["snapshots", "diff", "active"]);
    ctr.ok(&["snapshots", "commit", "committed", "active"]);
    assert!(ctr.ok(&["snapshots", "tree"]).contains("committed"));
    assert!(ctr.ok(&["snapshots", "info", "committed"]).contains(&chain_id));
    ctr.ok(&["snapshots", "usage", "committed"]);
    ctr.ok(&["snapshots", "rm", "committed"]);
    ctr.ok(&["leases", "create", "--id", "one", "k=v"]);
    assert_eq!(ctr.lines(&["leases", "ls", "-q"]), ["one"]);
    ctr.ok(&["leases", "rm", "--sync", "one"]);
    ctr.ok(&["content", "prune", "references"]);
    ctr.fails(&["namespaces", "rm", "other"], "failed precondition");
    ctr.ok(&["-n", "other", "images", "rm", "--sync", &name]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ctr_2_unpacks_to_images_and_mounts_them() {
    let (registry, image) = (Registry::start(), Image::varied());
    image.push(&registry, "app", "1");
    let served = Served::new("overlayfs");
    let (ctr, name) = (Ctr(&served), registry.reference("app:1"));
    let name = name.as_str();
    let announced =
        ctr.ok(&["plugins", "ls", "-d", "type==io.containerd.snapshotter.v1,id==erofs"]);
    assert!(announced.contains("rebase"), "{announced}");
    let target = served.path("mounted");
    std::fs::create_dir(&target).unwrap();
    let at = target.to_str().unwrap();
    // Without the time of the root, which no layer holds.
    let read = || {
        let mut tree = Tree::read(&target);
        tree.0.get_mut(Path::new("")).unwrap().mtime = 0;
        tree
    };
    let mounted = |snapshotter: &str| {
        ctr.ok(&["images", "mount", "--snapshotter", snapshotter, name, at]);
        let tree = read();
        ctr.ok(&["images", "unmount", "--rm", "--snapshotter", snapshotter, at]);
        tree
    };
    ctr.ok(&["images", "pull", name]);
    let expected = mounted("overlayfs");
    assert!(expected.0.contains_key(Path::new("hidden/new")));
    assert!(!expected.0.contains_key(Path::new("hidden/below")));
    let images = served.engine.store().root().join("snapshots/erofs");
    let on_disk = || {
        let entries = std::fs::read_dir(&images).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    };
    for options in [&[][..], &["--local", "--plain-http"]] {
        let pull = [&["images", "pull", "--snapshotter", "erofs"], options, &[name]].concat();
        ctr.ok(&pull);
        assert!(on_disk().iter().all(|name| name.ends_with(".erofs")), "{:?}", on_disk());
        assert_eq!(on_disk().len(), 3, "{options:?}");
        expected.assert_same(&mounted("erofs"), &format!("{options:?}"));

        // As what runs a container does it.
        let chain_id = image.chain_id().to_string();
        let snapshots = ["snapshots", "--snapshotter", "erofs"];
        let snapshots = |rest: &[&str]| ctr.ok(&[&snapshots[..], rest].concat());
        snapshots(&["prepare", "container", &chain_id]);
        let mount = snapshots(&["mounts", at, "container"]);
        dist_testutil::run("sh", &["-ec".as_ref(), mount.as_ref()]);
        expected.assert_same(&read(), "a container's root");
        std::fs::write(target.join("written"), b"in the container").unwrap();
        dist_testutil::run("umount", &[at.as_ref()]);
        snapshots(&["commit", "saved", "container"]);
        snapshots(&["view", "look", "saved"]);
        dist_testutil::run("sh", &["-ec".as_ref(), snapshots(&["mounts", at, "look"]).as_ref()]);
        assert_eq!(std::fs::read(target.join("written")).unwrap(), b"in the container");
        dist_testutil::run("umount", &[at.as_ref()]);
        for key in ["look", "saved", &chain_id] {
            // What is below goes with the collection.
            snapshots(&["rm", key]);
        }
        ctr.clear();
        assert_eq!(on_disk(), [""; 0]);
        ctr.ok(&["images", "pull", name]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ctr_2_runs_containers() {
    let registry = Registry::of_images();
    let image = format!("{}/library/busybox:1", registry.address());
    let served = Served::new("overlayfs");
    let ctr = Ctr(&served);
    ctr.ok(&["images", "pull", "--plain-http", &image]);
    let shell = |flags: &[&str], id: &str, script: &str| {
        ctr.run(&[&["run"], flags, &[&image, id, "sh", "-c", script]].concat())
    };
    let flags = ["--rm", "--env", "A=b", "--user", "7:8", "--memory-limit", "67108864"];
    let (success, text) = shell(&flags, "first", "echo $A; busybox id -u; busybox id -g");
    assert!(success && text == "b\n7\n8\n", "{text}");
    let (success, text) = shell(&["--rm"], "fails", "echo out; exit 7");
    assert!(!success && text.contains("out\n"), "{text}");
    ctr.fails(&["run", "--rm", &image, "none", "nosuch"], "not found in $PATH");
    assert_eq!(ctr.lines(&["containers", "ls", "-q"]), [""; 0]);

    ctr.ok(&["run", "-d", &image, "stays", "busybox", "sleep", "1000"]);
    assert!(ctr.ok(&["tasks", "ls"]).contains("RUNNING"));
    let exec = ["tasks", "exec", "--exec-id", "e", "stays", "sh", "-c", "echo in"];
    assert_eq!(ctr.ok(&exec), "in\n");
    ctr.ok(&["tasks", "pause", "stays"]);
    assert!(ctr.ok(&["tasks", "ls"]).contains("PAUSED"));
    ctr.ok(&["tasks", "resume", "stays"]);
    assert!(ctr.ok(&["tasks", "ps", "stays"]).lines().count() > 1);
    assert!(ctr.ok(&["tasks", "metrics", "stays"]).contains("memory"));
    assert!(ctr.ok(&["containers", "info", "stays"]).contains("busybox"));
    ctr.fails(&["containers", "rm", "stays"], "non stopped");
    ctr.ok(&["tasks", "rm", "--force", "stays"]);
    ctr.ok(&["containers", "rm", "stays"]);
    assert_eq!(ctr.lines(&["containers", "ls", "-q"]), [""; 0]);
    assert_eq!(ctr.ok(&["tasks", "ls"]).lines().count(), 1);
    assert!(!ctr.ok(&["snapshots", "ls"]).contains("Active"));
}
