//! Policies: what is refused before a layer is fetched, and what is let through.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use dist_core::Digest;
use dist_testutil::{
    Dist, Fault, FaultProxy, Image, Registry, Response, Rule, index_of, request, timed,
};
use serde_json::{Value, json};

use crate::address::Through;
use crate::support::{dist, quick};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
const SIMPLE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// A registry, a proxy before it that notes what is asked for, an image, and two keys.
pub(crate) struct Place {
    pub(crate) registry: Registry,
    pub(crate) proxy: FaultProxy,
    pub(crate) image: Image,
    pub(crate) dist: Dist,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::with(quick())
    }

    pub(crate) fn with(dist: Dist) -> Self {
        let registry = Registry::start();
        let proxy = FaultProxy::start(registry.address());
        let image = Image::random(7, &[30_000, 200]);
        image.push(&registry, "team/app", "1");
        let this = Self { registry, proxy, image, dist };
        for name in ["key", "other"] {
            this.openssl(&format!(
                "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {name}.key"
            ));
            this.openssl(&format!("pkey -in {name}.key -pubout -out {name}.pub"));
        }
        this
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dist.dir().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs_err::write(self.path(name), bytes).expect("write a file");
    }

    pub(crate) fn openssl(&self, line: &str) {
        self.dist
            .script(&format!("openssl {line} 2> openssl.log || {{ cat openssl.log >&2; false; }}"))
            .ok();
    }

    /// A policy for all that the proxy serves.
    pub(crate) fn policy(&self, rule: &str) -> String {
        let scope = self.proxy.address();
        self.write(
            "policy.toml",
            format!("default = \"reject\"\n[[rule]]\nscope = \"{scope}\"\n{rule}\n"),
        );
        self.path("policy.toml").to_str().expect("a path in UTF-8").to_owned()
    }

    pub(crate) fn by_key(&self) -> String {
        self.policy("keys = [\"key.pub\"]")
    }

    pub(crate) fn reference(&self) -> String {
        self.proxy.reference("team/app:1")
    }

    /// Fails the test if anything of the image was fetched.
    #[track_caller]
    pub(crate) fn nothing_was_fetched(&self) {
        let blobs: Vec<_> = self.image.blobs.iter().map(|blob| blob.digest.to_string()).collect();
        let log = self.proxy.log();
        let fetched = log.iter().find(|it| blobs.iter().any(|blob| it.path.contains(blob)));
        assert!(fetched.is_none(), "{fetched:?}");
    }

    /// Puts a document, and gives what came back.
    pub(crate) fn put(&self, path: &str, media_type: &str, document: &Value) -> Response {
        let (path, kind) = (format!("/v2/{path}"), [("Content-Type", media_type)]);
        let bytes = document.to_string();
        let done = request(self.registry.address(), "PUT", &path, &kind, bytes.as_bytes());
        assert_eq!(done.status, 201, "{path}: {}", String::from_utf8_lossy(&done.body));
        done
    }

    /// Puts a blob, and gives its descriptor.
    pub(crate) fn put_blob(&self, repository: &str, media_type: &str, bytes: &[u8]) -> Value {
        let at = self.registry.address();
        let begun = request(at, "POST", &format!("/v2/{repository}/blobs/uploads/"), &[], b"");
        let location = begun.header("location").expect("a location").to_owned();
        let path = &location[location.find("/v2/").expect("a path")..];
        let digest = Digest::sha256(bytes);
        let done = request(at, "PUT", &format!("{path}&digest={digest}"), &[], bytes);
        assert_eq!(done.status, 201, "{}", String::from_utf8_lossy(&done.body));
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    /// A payload for `digest` as cosign writes it, signed by openssl.
    pub(crate) fn signed(&self, key: &str, name: &str, digest: &str) -> (Vec<u8>, String) {
        let payload = json!({
            "critical": {
                "identity": { "docker-reference": name },
                "image": { "docker-manifest-digest": digest },
                "type": "cosign container image signature",
            },
            "optional": null,
        });
        let payload = payload.to_string().into_bytes();
        self.write("payload", &payload);
        self.openssl(&format!("dgst -sha256 -sign {key}.key -out signature payload"));
        let signature = fs_err::read(self.path("signature")).expect("read the signature");
        (payload, STANDARD.encode(signature))
    }

    /// Puts signatures below cosign's tag of the image in `repository`.
    pub(crate) fn put_signatures(
        &self,
        repository: &str,
        digest: &str,
        signed: &[(Vec<u8>, String)],
    ) {
        let layers: Vec<Value> = signed
            .iter()
            .map(|(payload, signature)| {
                let mut layer = self.put_blob(repository, SIMPLE, payload);
                layer["annotations"] = json!({ SIGNATURE: signature });
                layer
            })
            .collect();
        let config = self.put_blob(repository, "application/vnd.oci.image.config.v1+json", b"{}");
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers,
        });
        let tag = digest.replace(':', "-");
        self.put(&format!("{repository}/manifests/{tag}.sig"), MANIFEST, &manifest);
    }

    /// Puts something that refers to the image, and the index that lists it.
    pub(crate) fn put_referrer(&self, artifact_type: &str, media_type: &str, bytes: &[u8]) {
        let layer = self.put_blob("team/app", media_type, bytes);
        let config = self.put_blob("team/app", artifact_type, b"{}");
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer],
            "subject": self.image.manifest.descriptor(),
        });
        let digest = Digest::sha256(manifest.to_string().as_bytes());
        self.put(&format!("team/app/manifests/{digest}"), MANIFEST, &manifest);
        let entry = json!({
            "mediaType": MANIFEST, "digest": digest, "size": manifest.to_string().len(),
            "artifactType": artifact_type,
        });
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] });
        let tag = self.image.digest().replace(':', "-");
        self.put(&format!("team/app/manifests/{tag}"), INDEX, &index);
    }

    pub(crate) fn pull(&self, policy: &str) -> dist_testutil::Ran {
        self.proxy.reset();
        self.dist.run(&["--policy", policy, "pull", "-q", &self.reference()])
    }

    #[track_caller]
    pub(crate) fn refused(&self, policy: &str, words: &str) {
        self.pull(policy).exit(10).says(words);
        self.nothing_was_fetched();
    }
}

#[test]
fn nothing_comes_in_that_is_not_signed() {
    let _timed = timed("policy");
    let place = Place::new();
    let (policy, reference) = (place.by_key(), place.reference());
    let (copied, tree) = (place.registry.reference("mirror/app:1"), place.path("tree"));
    let tree = tree.to_str().expect("a path in UTF-8");
    let commands: [&[&str]; 8] = [
        &["pull", &reference],
        &["fetch", &reference],
        &["copy", &reference, &copied],
        &["copy", &reference, "oci:layout:1"],
        &["unpack", &reference, tree],
        &["cat", "--remote", &reference, "file"],
        &["oci", "spec", &reference],
        &["verify", &reference],
    ];
    let with = |args: &[&str]| place.dist.run(&[&["--policy", &policy], args].concat());
    for args in commands {
        with(args).exit(10).says("there is no such signature");
    }
    // Of a container that can't be made there is one exit code, as there.
    with(&["run", "--rm", &reference, "true"]).exit(125).says("there is no such signature");
    place.nothing_was_fetched();
    assert_eq!(place.dist.ok(&["images", "-q"]).text(), "");

    place.dist.ok(&["sign", "--key", "key.key", "--public-key", "key.pub", &reference]);
    for args in commands.iter().filter(|args| args[0] != "cat") {
        with(args).ok();
    }
    // The copy has the signature, for the name that was signed.
    let verify = |identity: &str, reference: &str| {
        place.dist.run(&["verify", "--key", "key.pub", "--identity", identity, reference])
    };
    verify("digest", &copied).ok();
    verify("digest", "oci:layout:1").ok();
    verify("exact", &copied).exit(10).says("it names the image");
    let last = verify("exact", &reference).ok().text();
    assert!(last.ends_with(&format!("{reference}@{}\n", place.image.digest())), "{last}");
}

#[test]
fn a_daemon_has_its_own_policy() {
    let _timed = timed("policy");
    let place = Place::with(dist());
    let (policy, reference) = (place.by_key(), place.reference());
    let daemon = place.dist.daemon_with(&["--policy", &policy]);
    let through = Through::new(&place.dist, &daemon);
    let pull = || place.dist.run(&through.args(&["pull", "-q", &reference]));
    pull().exit(10).says("there is no such signature");
    place.nothing_was_fetched();
    place
        .dist
        .run(&through.args(&["--policy", &policy, "pull", &reference]))
        .exit(2)
        .says("daemon");
    place.dist.ok(&["sign", "--key", "key.key", &reference]);
    pull().ok();
    // It reads its policy each time.
    place.policy("keys = [\"other.pub\"]");
    pull().exit(10).says("another key made it");
}

#[test]
fn signatures_by_openssl_are_judged() {
    let _timed = timed("policy");
    let place = Place::new();
    let (policy, digest) = (place.by_key(), place.image.digest());
    let (name, tagged) = (place.proxy.reference("team/app"), place.reference());
    let elsewhere = Digest::sha256(b"other").to_string();
    let put = |signed: &[(Vec<u8>, String)]| place.put_signatures("team/app", &digest, signed);
    for (signed, words) in [
        (place.signed("other", &name, &digest), "another key made it"),
        (place.signed("key", &name, &elsewhere), "it is for sha256:"),
        (place.signed("key", &place.proxy.reference("team/other"), &digest), "it names the image"),
        ((b"{}".to_vec(), place.signed("key", &name, &digest).1), "another key made it"),
        ((Vec::new(), String::new()), "another key made it"),
        ((vec![b' '; (1 << 20) + 1], "AAAA".into()), "its payload can't be read"),
    ] {
        put(&[signed]);
        place.refused(&policy, words);
    }
    let good = place.signed("key", &name, &digest);
    let mut many = vec![(good.0.clone(), "AAAA".to_owned()); 1000];
    many.push(good.clone());
    put(&many);
    place.refused(&policy, "and 28 more");
    put(&[place.signed("other", &name, &digest), good]);
    place.pull(&policy).ok();
    place.dist.ok(&["rmi", &tagged]);
    // What lies below the tag is no manifest.
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] });
    let tag = digest.replace(':', "-");
    place.put(&format!("team/app/manifests/{tag}.sig"), INDEX, &index);
    place.refused(&policy, "its manifest can't be read");
    // A registry that does not say is none that has no signatures.
    place.proxy.add(Rule::any(".sig", Fault::Status(503, Vec::new())));
    place.dist.run(&["--policy", &policy, "pull", &tagged]).exit(5);
}

#[test]
fn bundles_and_notation_are_judged() {
    let _timed = timed("policy");
    let place = Place::new();
    let reference = place.reference();
    place.dist.ok(&["sign", "--key", "key.key", "--form", "bundle", &reference]);
    place.pull(&place.by_key()).ok();
    place.refused(&place.policy("keys = [\"other.pub\"]"), "another key made it");
    place.pull(&place.policy("keys = [\"key.pub\"]\nidentity = \"exact\"")).ok();
    // It replaces the list, so that the bundle is gone.
    let jws = notation(&place);
    place.put_referrer("application/vnd.cncf.notary.signature", "application/jose+json", &jws);
    place.refused(&place.by_key(), "there is no such signature");
    place.pull(&place.policy("certificates = [\"ca.pem\"]\nsigners = [\"CN=robot\"]")).ok();
    let other = place.policy("certificates = [\"ca.pem\"]\nsigners = [\"CN=human\"]");
    place.refused(&other, "its certificate is for");
    let verified = place.dist.ok(&["verify", "--certificate", "ca.pem", &reference]).text();
    assert!(verified.contains(" by CN=robot\n"), "{verified}");
    let both = place.policy("certificates = [\"ca.pem\"]\nkeys = [\"key.pub\"]");
    place.refused(&both, "there is no such signature");
    place.dist.ok(&["sign", "--key", "key.key", &reference]);
    place.pull(&both).ok();
    place.put_referrer("application/vnd.cncf.notary.signature", "application/cose", b"x");
    place.refused(&both, "its media type can't be read");
}

/// A signature of the image as notation makes it, with a certificate of an authority.
fn notation(place: &Place) -> Vec<u8> {
    place.openssl(
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=authority",
    );
    place.openssl("req -newkey rsa:2048 -nodes -keyout robot.key -out robot.csr -subj /CN=robot");
    place.write("ext", "extendedKeyUsage=codeSigning\n");
    place.openssl(
        "x509 -req -in robot.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext \
         -outform DER -out robot.der",
    );
    let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let payload = encode(json!({ "targetArtifact": place.image.manifest.descriptor() }));
    let now = place.dist.script("date -u +%Y-%m-%dT%H:%M:%SZ").ok().text();
    let protected = encode(json!({
        "alg": "PS256",
        "cty": "application/vnd.cncf.notary.payload.v1+json",
        "crit": ["io.cncf.notary.signingScheme"],
        "io.cncf.notary.signingScheme": "notary.x509",
        "io.cncf.notary.signingTime": now.trim(),
    }));
    place.write("message", format!("{protected}.{payload}"));
    place.openssl(
        "dgst -sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest -sign robot.key \
         -out signature message",
    );
    let read = |name: &str| fs_err::read(place.path(name)).expect("read a file");
    let envelope = json!({
        "payload": payload,
        "protected": protected,
        "header": { "x5c": [STANDARD.encode(read("robot.der"))] },
        "signature": URL_SAFE_NO_PAD.encode(read("signature")),
    });
    envelope.to_string().into_bytes()
}

#[test]
fn a_signature_of_an_index_is_none_of_a_manifest_in_it() {
    let _timed = timed("policy");
    let place = Place::new();
    let policy = place.by_key();
    let index = index_of(&[
        ("amd64", None, Image::random(1, &[3000])),
        ("arm64", Some("v8"), Image::random(2, &[2000])),
    ]);
    index.push(&place.registry, "team/index", "1");
    let reference = place.proxy.reference("team/index:1");
    let child = format!("{}@{}", place.proxy.reference("team/index"), index.children[0].digest);
    place.dist.ok(&["sign", "--key", "key.key", &reference]);
    let pull = |name: &str| {
        let args = ["--policy", &policy, "pull", "-q", "--platform", "linux/amd64", name];
        place.dist.run(&args)
    };
    pull(&child).exit(10).says("there is no such signature");
    pull(&reference).ok();
    pull(&child).exit(10).says("there is no such signature");
    // Nor the other way round.
    index.push(&place.registry, "team/two", "1");
    let two = place.proxy.reference("team/two");
    place.dist.ok(&["sign", "--key", "key.key", &format!("{two}@{}", index.children[0].digest)]);
    pull(&format!("{two}:1")).exit(10).says("there is no such signature");
    pull(&format!("{two}@{}", index.children[0].digest)).ok();
}

#[test]
fn a_policy_that_cannot_be_read_allows_nothing() {
    let _timed = timed("policy");
    let place = Place::new();
    let reference = place.reference();
    for (name, text) in [
        ("bad.toml", "default = \"accept\"\nmore = 1\n"),
        ("empty.toml", ""),
        ("bad.json", "{\"default\":[{\"type\":\"insecureAcceptAnything\"}],\"default\":[]}"),
        ("key.toml", "default = \"accept\"\n[[rule]]\nscope = \"h.io\"\nkeys = [\"none.pub\"]\n"),
    ] {
        place.write(name, text);
        place.dist.run(&["--policy", name, "pull", &reference]).exit(10).says("read policy");
        place.dist.run(&["--policy", name, "policy", "check"]).exit(10).says("read policy");
    }
    place.dist.run(&["--policy", "none.toml", "pull", &reference]).exit(10).says("none.toml");
    assert_eq!(place.proxy.log().len(), 0, "{:?}", place.proxy.log());
    // It is nothing to what brings nothing in.
    place.dist.ok(&["--policy", "bad.toml", "images"]);
    place.dist.ok(&["--policy", "bad.toml", "inspect", &reference]);
}

#[test]
fn policies_of_containers_are_taken() {
    let _timed = timed("policy");
    let place = Place::new();
    let reference = place.reference();
    let (scope, key) = (place.proxy.address(), place.path("key.pub"));
    let rule = |more: &str| {
        let rule = format!(r#"{{"type": "sigstoreSigned", "keyPath": {key:?}{more}}}"#);
        place.write(
            "policy.json",
            format!(
                r#"{{"default": [{{"type": "reject"}}],
                    "transports": {{"docker": {{"{scope}": [{rule}]}}}}}}"#
            ),
        );
    };
    rule("");
    let explained = place.dist.ok(&["--policy", "policy.json", "policy", "explain", &reference]);
    let wanted = format!("policy.json, {scope}: a signature by {}", key.display());
    assert!(explained.text().contains(&wanted), "{}", explained.text());
    place.refused("policy.json", "there is no such signature");
    place.dist.ok(&["sign", "--key", "key.key", &reference]);
    place.pull("policy.json").ok();
    place.image.push(&place.registry, "team/app", "2");
    let second = place.proxy.reference("team/app:2");
    let pull = || place.dist.run(&["--policy", "policy.json", "pull", "-q", &second]);
    pull().exit(10).says("it names the image");
    rule(r#", "signedIdentity": {"type": "matchRepository"}"#);
    pull().ok();
    place.dist.run(&["--policy", "policy.json", "pull", "redis"]).exit(10).says("rejects it");
    place.write(
        "policy.json",
        r#"{"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "x"}]}"#,
    );
    place.refused("policy.json", "a GPG signature (signedBy)");
}

#[test]
fn programs_are_asked_as_containerd_asks_them() {
    let _timed = timed("policy");
    let place = Place::new();
    let dir = place.path("programs");
    let program = |name: &str, text: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        fs_err::write(dir.join(name), format!("#!/bin/sh\n{text}\n")).expect("write a program");
        let mode = std::fs::Permissions::from_mode(0o755);
        fs_err::set_permissions(dir.join(name), mode).expect("make it executable");
    };
    let policy = place.policy(&format!(
        "require = \"accept\"\n[programs]\ndirectory = {dir:?}\nmost = 2\ntimeout = \"1s\""
    ));
    place.refused(&policy, "list programs in");
    let check = || place.dist.run(&["--policy", &policy, "policy", "check"]);
    check().exit(10).says("list programs in");
    fs_err::create_dir(&dir).expect("make the directory");
    place.refused(&policy, "there is none");
    let log = place.path("asked");
    let note = format!("echo \"$@\" >> {0}; cat >> {0}; echo fine", log.display());
    program("a", &note);
    assert!(check().ok().text().contains("1 of at most 2"));
    place.pull(&policy).ok();
    let asked = fs_err::read_to_string(&log).expect("read what was asked");
    let (arguments, descriptor) = asked.split_once('\n').expect("two lines");
    let digest = place.image.digest();
    assert_eq!(
        arguments,
        format!(
            "-name {} -digest {digest} -stdin-media-type application/vnd.oci.descriptor.v1+json",
            place.reference()
        )
    );
    let descriptor: Value = serde_json::from_str(descriptor).expect("a descriptor");
    assert_eq!(descriptor, place.image.manifest.descriptor());
    let verified = place.dist.ok(&["--policy", &policy, "verify", &place.reference()]).text();
    assert!(verified.contains("/programs/a: fine\n"), "{verified}");
    place.dist.ok(&["rmi", &place.reference()]);
    program("b", "echo because; exit 3");
    place.refused(&policy, "it says no (exit status: 3): because");
    // What takes too long goes, and what it started.
    let started = place.path("started");
    program("b", &format!("sleep 60 & echo $! > {}; wait", started.display()));
    place.refused(&policy, "it took longer than 1s");
    let started = fs_err::read_to_string(&started).expect("a process");
    let stat = format!("/proc/{}/stat", started.trim());
    let is_over = || fs_err::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_over() {
        assert!(Instant::now() < deadline, "it runs on");
    }
    program("b", "head -c 100000 /dev/zero; exit 0");
    program("c", "exit 0");
    place.refused(&policy, "there are 3, and 2 are to be called");
    fs_err::remove_file(dir.join("c")).expect("remove a program");
    place.pull(&policy).ok();
    fs_err::write(dir.join("b"), "not a program").expect("write a program");
    place.refused(&policy, "start it");
    fs_err::remove_file(dir.join("b")).expect("remove a program");
    fs_err::create_dir(dir.join("b")).expect("make a directory");
    place.refused(&policy, "it is a directory");
    // The directory is beside the policy where it is not said otherwise.
    fs_err::remove_dir(dir.join("b")).expect("remove a directory");
    place.pull(&place.policy("require = \"accept\"\n[programs]\ndirectory = \"programs\"")).ok();
}

#[test]
fn keys_of_cosign_sign() {
    let _timed = timed("policy");
    let place = Place::new();
    let fixtures = crate::support::project().join("crates/dist-policy/tests/it/fixtures");
    let file = |name: &str| fixtures.join(name).to_str().expect("a path in UTF-8").to_owned();
    let (key, public, reference) = (file("cosign.key"), file("cosign.pub"), place.reference());
    place.write("password", "correct horse\nmore\n");
    place.write("wrong", "wrong\n");
    let sign =
        |args: &[&str]| place.dist.run(&[&["sign", "--key", &key], args, &[&reference]].concat());
    sign(&["--passphrase-file", "wrong"]).exit(2).says("the password is another");
    sign(&["--passphrase-file", "password", "--public-key", "key.pub"]).exit(2).says("other half");
    let said = sign(&["--passphrase-file", "password"]).ok().text();
    assert_eq!(said, format!("{reference}@{}\n", place.image.digest()));
    // A second time there is nothing to do.
    place.proxy.reset();
    sign(&["--passphrase-file", "password", "--public-key", &public]).ok();
    assert!(place.proxy.log().iter().all(|it| it.method != "PUT"), "{:?}", place.proxy.log());
    place.dist.ok(&["sign", "--key", "key.key", &reference]);
    for key in [&public, "key.pub"] {
        place.dist.ok(&["verify", "--key", key, "--identity", "exact", &reference]);
    }
    place.dist.run(&["verify", "--key", "other.pub", &reference]).exit(10);
    place.dist.run(&["sign", "--key", "key.pub", &reference]).exit(2).says("no private key");
    place.dist.ok(&["copy", "-q", &reference, "oci:layout:1"]);
    place.dist.run(&["sign", "--key", "key.key", "oci:layout:1"]).exit(2).says("--identity");
    let args = ["sign", "--key", "other.key", "--form", "bundle", "--identity", "h.io/a:1"];
    place.dist.ok(&[&args[..], &["oci:layout:1"]].concat());
    place.dist.ok(&["verify", "--key", "other.pub", "--identity", "h.io/a", "oci:layout:1"]);
}
