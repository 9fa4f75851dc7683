//! Images by address: archives and layouts on web servers.

use std::path::Path;

use dist_testutil::{
    Auth, Certificates, Dist, Fault, FaultProxy, Image, Registry, RegistryOptions, Rule, WebServer,
    index_of, request, require, timed,
};

use crate::resume::wait_active;
use crate::support::{pulled, quick, verify_store};

/// A server of files with an image in it, as `app.tar` and as the layout `app`.
fn served(image: &Image) -> (WebServer, Dist) {
    let (server, dist) = (WebServer::start(), quick());
    let layout = image.write_layout(&server.files().join("app"), "1");
    let archive = format!("oci-archive:{}:1", server.files().join("app.tar").display());
    dist.ok(&["copy", "-q", &layout.reference("1"), &archive]);
    (server, dist)
}

/// The blobs below a layout are those of the image.
#[track_caller]
fn verify_layout(path: &Path, image: &Image) {
    for blob in image.blobs.iter().chain(&image.children).chain([&image.manifest]) {
        let file = path.join("blobs/sha256").join(blob.digest.hex());
        assert!(fs_err::read(file).expect("a blob") == blob.bytes, "{}", blob.digest);
    }
}

fn url(proxy: &FaultProxy, path: &str) -> String {
    format!("http://{}/{path}", proxy.address())
}

/// The bytes that the server sent.
fn sent(proxy: &FaultProxy) -> u64 {
    proxy.log().iter().map(|request| request.sent).sum()
}

#[test]
fn of_a_plain_archive_only_what_is_wanted_is_read() {
    let _timed = timed("web");
    let image = index_of(&[
        ("amd64", None, Image::random(1, &[3_000_000, 20])),
        ("arm64", Some("v8"), Image::random(2, &[2_000_000])),
    ]);
    let (server, dist) = served(&image);
    let proxy = FaultProxy::start(server.address());
    let address = url(&proxy, "app.tar");
    let to = dist.dir().join("out");
    let said = dist.ok(&["copy", &address, &format!("oci:{}:1", to.display())]);
    assert_eq!(pulled(&said.text()), image.digest());
    verify_layout(&to, &image);
    assert!(proxy.log().iter().all(|r| r.range.is_some()), "{:?}", proxy.log());
    let whole = fs_err::metadata(server.files().join("app.tar")).expect("the archive").len();
    assert!(sent(&proxy) < whole + 600_000, "{} of {whole}", sent(&proxy));

    proxy.reset();
    let digest = image.children[0].digest.to_string();
    let said = dist.ok(&[
        "copy",
        "--platform",
        "linux/amd64",
        &address,
        &format!("oci:{}:2", to.display()),
    ]);
    assert_eq!(pulled(&said.text()), digest);
    proxy.reset();
    assert_eq!(
        pulled(&dist.ok(&["pull", "--platform", "linux/arm64", &address]).text()),
        image.digest()
    );
    assert!(sent(&proxy) < 2_700_000, "{}", sent(&proxy));
    verify_store(&dist);
    let listed = dist.ok(&["images"]).text();
    assert!(listed.contains(&address), "{listed}");
    // It is there, and its layers are not asked for again.
    proxy.reset();
    dist.ok(&["pull", "-q", "--platform", "linux/arm64", &address]);
    assert!(sent(&proxy) < 700_000, "{:?}", proxy.log());
}

#[test]
fn archives_of_all_kinds_are_taken() {
    let _timed = timed("web");
    require(&["skopeo", "gzip", "zstd"]);
    let image = Image::random(3, &[400_000, 20]);
    let (server, dist) = served(&image);
    let script = format!(
        "cd {} && skopeo copy -q oci:app:1 docker-archive:saved.tar:mine/app:7 && gzip -k app.tar \
         && zstd -q app.tar && gzip -k saved.tar && mkdir both && mv saved.tar both",
        server.files().display()
    );
    dist.script(&script).ok();
    dist.ok(&[
        "copy",
        "-q",
        &server.url("app/"),
        &format!("docker-archive:{}/ours.tar:x:1", server.files().display()),
    ]);
    for name in ["app.tar", "app.tar.gz", "app.tar.zst", "app.tar#1", "app/", "app/#1", "ours.tar"]
    {
        let to = dist.dir().join("out");
        let said = dist.ok(&["copy", "-q", &server.url(name), &format!("oci:{}:1", to.display())]);
        assert_eq!(pulled(&said.text()), image.digest(), "{name}");
        verify_layout(&to, &image);
        fs_err::remove_dir_all(to).expect("remove the copy");
    }
    let by_digest = format!("{}#{}", server.url("app/"), image.digest());
    assert_eq!(pulled(&dist.ok(&["pull", &by_digest]).text()), image.digest());
    // What names no digests gets manifests that are made here, the same as from a file.
    let here = format!("docker-archive:{}", server.files().join("both/saved.tar").display());
    let made = pulled(&dist.ok(&["copy", "-q", &here, "oci:made:1"]).text());
    for name in ["both/saved.tar", "saved.tar.gz", "both/saved.tar#mine/app:7"] {
        let said = dist.ok(&["copy", "-q", &server.url(name), "oci:made:2"]);
        assert_eq!(pulled(&said.text()), made, "{name}");
    }
    dist.run(&["copy", &server.url("both/saved.tar#other"), "oci:made:3"]).exit(3);
    for name in ["app.tar", "app.tar.zst", "saved.tar.gz"] {
        let imported = dist.ok(&["import", "--no-unpack", &server.url(name)]).text();
        let expected = if name.starts_with("app") { image.digest() } else { made.clone() };
        assert_eq!(pulled(&imported), expected, "{name}");
    }
    verify_store(&dist);
}

#[test]
fn what_breaks_in_the_middle_is_mended() {
    let _timed = timed("web");
    let image = Image::random(4, &[2_000_000, 20]);
    let (server, dist) = served(&image);
    dist.script(&format!("gzip -k {}", server.files().join("app.tar").display())).ok();
    let layer = image.blobs.iter().max_by_key(|blob| blob.bytes.len()).expect("a layer");
    let out = |name: &str| format!("oci:{}:1", dist.dir().join(name).display());

    let proxy = FaultProxy::start(server.address());
    proxy.add(Rule::get(layer.digest.hex(), Fault::Cut(700_000)).times(1));
    dist.ok(&["copy", "-q", &url(&proxy, "app/"), &out("layout")]);
    verify_layout(&dist.dir().join("layout"), &image);
    let ranges: Vec<_> =
        proxy.log().into_iter().filter(|r| r.path.contains(&layer.digest.hex())).collect();
    assert_eq!(ranges.len(), 2, "{ranges:?}");
    assert_eq!(ranges[1].range.as_deref(), Some("bytes=700000-"));

    // In the layer of a plain archive, and where a server gives no parts.
    proxy.reset();
    proxy.add(Rule::get("app.tar", Fault::Cut(300_000)));
    dist.ok(&["copy", "-q", &url(&proxy, "app.tar"), &out("plain")]);
    verify_layout(&dist.dir().join("plain"), &image);
    assert!(proxy.log().iter().any(|r| r.sent == 300_000), "{:?}", proxy.log());
    for name in ["app.tar", "app.tar.gz"] {
        proxy.reset();
        proxy.add(Rule::get(name, Fault::IgnoreRange).after(1));
        proxy.add(Rule::get(name, Fault::Cut(900_000)).times(1));
        dist.ok(&["copy", "-q", &url(&proxy, name), &out("no-parts")]);
        verify_layout(&dist.dir().join("no-parts"), &image);
        fs_err::remove_dir_all(dist.dir().join("no-parts")).expect("remove the copy");
        proxy.reset();
        proxy.add(Rule::get(name, Fault::IgnoreRange));
        dist.ok(&["copy", "-q", &url(&proxy, name), &out("no-parts")]);
        verify_layout(&dist.dir().join("no-parts"), &image);
        fs_err::remove_dir_all(dist.dir().join("no-parts")).expect("remove the copy");
    }
    proxy.reset();
    proxy.add(Rule::get("app.tar.gz", Fault::Cut(900_000)).after(1).times(1));
    dist.ok(&["import", "--no-unpack", &url(&proxy, "app.tar.gz")]);
    verify_store(&dist);
}

#[test]
fn what_was_pulled_by_address_is_copied_on() {
    let _timed = timed("web");
    let image = Image::random(6, &[3000]);
    let (server, dist) = served(&image);
    let address = format!("http://{}/app.tar", server.address());
    dist.ok(&["pull", "-q", &address]);
    drop(server);
    let said = dist.ok(&["copy", &format!("store:{address}"), "oci:out:1"]).text();
    assert_eq!(pulled(&said), image.digest());
}

#[test]
fn a_kill_in_a_layer_costs_what_did_not_come() {
    let _timed = timed("web");
    let image = Image::random(5, &[2_000_000]);
    let (server, dist) = served(&image);
    let proxy = FaultProxy::start(server.address());
    let layer = image.blobs.iter().max_by_key(|blob| blob.bytes.len()).expect("a layer");
    let gate = dist_testutil::Gate::default();
    proxy.add(Rule::get(layer.digest.hex(), Fault::Hold(1_500_000, gate.clone())).times(1));
    let running = dist.spawn(&["fetch", &url(&proxy, "app/#1")]);
    gate.wait_held(1);
    wait_active(&dist, 1_000_000);
    running.kill();
    gate.open();
    proxy.reset();
    dist.ok(&["fetch", &url(&proxy, "app/#1")]);
    let gets: Vec<_> =
        proxy.log().into_iter().filter(|r| r.path.contains(&layer.digest.hex())).collect();
    assert!(gets[0].range.is_some() && gets[0].sent < 1_500_000, "{gets:?}");
    verify_store(&dist);
}

#[test]
fn bytes_of_two_versions_never_meet() {
    let _timed = timed("web");
    let image = Image::random(6, &[2_000_000]);
    let (server, dist) = served(&image);
    let proxy = FaultProxy::start(server.address());
    proxy.add(Rule::get("app.tar", Fault::With("etag", "\"another\"".to_owned())).after(1));
    dist.run(&["copy", &url(&proxy, "app.tar"), "oci:out:1"]).exit(5).says("changed while");
    proxy.reset();
    let layer = image.blobs.iter().max_by_key(|blob| blob.bytes.len()).expect("a layer");
    proxy.add(Rule::get(layer.digest.hex(), Fault::Flip(1000)));
    dist.run(&["copy", &url(&proxy, "app/"), "oci:out:1"]).exit(6);
    dist.run(&["pull", &url(&proxy, "app/")]).exit(6);
}

#[test]
fn what_is_no_image_is_refused_with_the_reason() {
    let _timed = timed("web");
    let image = Image::random(7, &[200_000]);
    let (server, dist) = served(&image);
    let write = |name: &str, bytes: &[u8]| {
        fs_err::write(server.files().join(name), bytes).expect("write a file");
    };
    write("index.html", b"<html><body>Welcome</body></html>");
    let archive = fs_err::read(server.files().join("app.tar")).expect("the archive");
    write("cut.tar", &archive[..150_000]);
    write("empty.tar", b"");
    write("text.tar", &b"nothing like a tar ".repeat(100));
    fs_err::create_dir(server.files().join("bare")).expect("make a directory");
    for (path, code, said) in [
        ("missing.tar", 3, "404"),
        ("missing/", 6, "it is no OCI layout"),
        ("bare/", 6, "it is no OCI layout"),
        ("index.html", 6, "it is a page (text/html)"),
        ("cut.tar", 6, "it ends at byte 150000"),
        ("empty.tar", 6, "the file is empty"),
        ("text.tar", 6, "it is no tar"),
        ("app.tar#2", 3, "there is no such image"),
        ("app/#2", 3, "there are: 1"),
        ("app/#", 2, "after # comes"),
    ] {
        for command in
            [["pull", &server.url(path)].as_slice(), &["copy", &server.url(path), "oci:out"]]
        {
            let ran = dist.run(command).exit(code).says(said);
            assert!(!ran.stderr.contains("<html"), "{}", ran.stderr);
        }
    }
    let user = format!("http://ann:secret@{}/app.tar", server.address());
    let ran = dist.run(&["pull", &user]).exit(2).says("--user");
    assert!(!ran.stderr.contains("secret"), "{}", ran.stderr);
    dist.run(&["copy", &server.url("app/"), &server.url("to.tar")]).exit(2).says("only read from");
    assert!(!dist.dir().join("out").exists());
}

#[test]
fn credentials_do_not_follow_to_another_host() {
    let _timed = timed("web");
    let image = Image::random(8, &[200_000]);
    let (behind, dist) = served(&image);
    let behind = FaultProxy::start(behind.address());
    let users = dist.dir().join("users");
    fs_err::write(&users, "ann:secret\n").expect("write the users");
    let front = WebServer::with(&format!(
        "auth.backend = \"plain\"\nauth.backend.plain.userfile = \"{}\"\n\
         auth.require = (\"/\" => (\"method\" => \"basic\", \"realm\" => \"x\", \"require\" => \"valid-user\"))\n\
         url.redirect = (\"^/(.*)$\" => \"http://{}/$1\")",
        users.display(),
        behind.address()
    ));
    let front = FaultProxy::start(front.address());
    dist.run(&["pull", &url(&front, "app.tar")]).exit(4);
    for path in ["app.tar", "app/"] {
        dist.ok(&["--user", "ann:secret", "copy", "-q", &url(&front, path), "oci:out:1"]);
    }
    verify_layout(&dist.dir().join("out"), &image);
    assert!(front.log().iter().any(|r| r.authorized));
    assert!(behind.log().iter().all(|r| !r.authorized), "{:?}", behind.log());
}

#[test]
fn certificates_and_users_are_those_of_registries() {
    let _timed = timed("web");
    let certificates = Certificates::new();
    let (open, dist) = (Registry::start(), quick());
    let image = Image::random(9, &[200_000]);
    let layout = image.write_layout(&dist.dir().join("layout"), "1");
    dist.ok(&["copy", "-q", &layout.reference("1"), "oci-archive:app.tar:1"]);
    // A registry serves the archive as a blob, with ranges.
    let bytes = fs_err::read(dist.dir().join("app.tar")).expect("the archive");
    let start = request(open.address(), "POST", "/v2/app/blobs/uploads/", &[], b"");
    let place = start.header("location").expect("an upload location").to_owned();
    let (_, path) = place.split_once(open.address()).expect("a path");
    let digest = dist_core::Digest::sha256(&bytes);
    let kind = [("Content-Type", "application/octet-stream")];
    let done = request(open.address(), "PUT", &format!("{path}&digest={digest}"), &kind, &bytes);
    assert_eq!(done.status, 201);
    let secret = ("ann".to_owned(), "secret".to_owned());
    let registry = Registry::with(RegistryOptions {
        storage: Some(open.storage().to_owned()),
        tls: Some(certificates.server("good", "DNS:localhost,IP:127.0.0.1")),
        auth: Auth::Basic { user: secret.0, password: secret.1 },
        ..RegistryOptions::default()
    });
    let address = format!("https://{}/v2/app/blobs/{digest}", registry.address());
    let authority = certificates.authority();
    let authority = authority.to_str().expect("a path in UTF-8");
    dist.run(&["pull", &address]).exit(5).says("trusted");
    dist.run(&["--tls-ca-cert", authority, "pull", &address]).exit(4);
    let trusting = ["--tls-ca-cert", authority, "--user", "ann:secret", "pull", &address];
    assert_eq!(pulled(&dist.ok(&trusting).text()), image.digest());
    // By the directory of the host, too.
    let own = dist.dir().join("certs").join(registry.address());
    fs_err::create_dir_all(&own).expect("make the directory");
    fs_err::copy(authority, own.join("ca.crt")).expect("copy the certificate");
    let hosts = dist.dir().join("certs");
    let hosts = hosts.to_str().expect("a path in UTF-8");
    let by_dir =
        ["--hosts-dir", hosts, "--user", "ann:secret", "copy", "-q", &address, "oci:out:1"];
    dist.ok(&by_dir);
    verify_layout(&dist.dir().join("out"), &image);
}

#[test]
fn a_bundle_is_loaded_from_its_address() {
    let _timed = timed("web");
    let (registry, there) = (Registry::start(), Registry::start());
    let image = Image::random(10, &[300_000]);
    image.push(&registry, "team/app", "1");
    let (server, dist) = (WebServer::start(), quick());
    let name = registry.reference("team/app:1");
    let file = server.files().join("bundle.tar");
    dist.ok(&["bundle", "create", file.to_str().expect("a path in UTF-8"), &name]);
    let address = server.url("bundle.tar");
    let loaded = dist.ok(&["bundle", "load", "--to", there.address(), &address]).text();
    assert_eq!(pulled(&loaded), image.digest());
    assert_eq!(pulled(&dist.ok(&["bundle", "load", &address]).text()), image.digest());
    verify_store(&dist);
    dist.run(&["bundle", "load", &server.url("none.tar")]).exit(3);
}

#[test]
fn one_file_of_an_image_is_read_by_address() {
    let _timed = timed("web");
    let image = Image::varied();
    let (server, dist) = served(&image);
    for path in ["app.tar", "app/"] {
        let ran = dist.ok(&["inspect", &server.url(path)]);
        assert!(ran.text().contains(&image.digest()), "{}", ran.text());
        dist.run(&["cat", &server.url(path), "no/such/file"]).exit(3);
    }
    assert!(!dist.root().exists(), "a store was made");
}
