//! Who may pull: htpasswd, tokens, files that docker and podman write, helpers.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use dist_testutil::{
    Auth, Certificates, Fault, FaultProxy, Image, Registry, RegistryOptions, Rule, Scratch,
    TokenServer, scratch, timed,
};

use crate::support::{dist, pull, quick, verify_image};

pub(crate) const USER: &str = "ann";
pub(crate) const PASSWORD: &str = "p\u{e4}ss:word";

fn secret(stdout: &str) -> bool {
    stdout.contains(PASSWORD)
}

/// A registry over the same content that asks for a password.
pub(crate) fn basic() -> (Kept, Image) {
    let (open, image) = (Registry::start(), Image::random(1, &[20_000, 1000]));
    image.push(&open, "test/private", "1");
    let storage = open.storage().to_owned();
    // The content must outlive the open registry.
    let kept = scratch();
    let storage_kept = kept.path().join("registry");
    fs_err::rename(storage, &storage_kept).expect("keep the content");
    let auth = Auth::Basic { user: USER.into(), password: PASSWORD.into() };
    let options = RegistryOptions { storage: Some(storage_kept), auth, ..Default::default() };
    (Kept(Registry::with(options), kept), image)
}

/// A registry whose content goes with it.
pub(crate) struct Kept(pub(crate) Registry, #[expect(dead_code)] Scratch);

#[test]
fn basic_by_flag_by_pipe_and_not_at_all() {
    let _timed = timed("auth");
    let (registry, image) = basic();
    let reference = registry.0.reference("test/private:1");
    let dist = quick();
    let said = dist.run(&["pull", &reference]).exit(4).stderr;
    assert!(said.contains("hint:"), "{said}");
    let wrong = format!("{USER}:wrong");
    let said = dist.run(&["--user", &wrong, "pull", &reference]).exit(4).stderr;
    assert!(!said.contains("wrong:") && !said.contains(&wrong), "the password is shown: {said}");
    dist.feed(&["--user", USER, "--password-stdin", "pull", &reference], PASSWORD.as_bytes()).ok();
    verify_image(&dist, &reference, &image);
    // It is read once, also where two parts of a command want it.
    let copy = ["--user", USER, "--password-stdin", "copy", &reference, "store:"];
    quick().feed(&copy, PASSWORD.as_bytes()).ok();
    let flagged = quick();
    let login = format!("{USER}:{PASSWORD}");
    let ran = flagged.ok(&["--user", &login, "--debug", "pull", &reference]);
    assert!(!secret(&ran.text()) && !secret(&ran.stderr), "{}", ran.stderr);
}

#[test]
fn login_writes_what_docker_reads_and_logout_removes_it() {
    let _timed = timed("auth");
    let (registry, image) = basic();
    let (dist, host) = (quick(), registry.0.address());
    let login = ["login", "--user", USER, "--password-stdin"];
    let said = dist.feed(&[&login[..], &[host]].concat(), b"wrong").exit(4);
    assert!(said.stderr.contains("password is wrong") && !said.stderr.contains("dist login"));
    let file = dist.home().join(".docker/config.json");
    assert!(!file.exists(), "a failed login was written");
    let below = format!("{host}/test");
    let said = dist.feed(&[&login[..], &[&*below]].concat(), PASSWORD.as_bytes()).ok();
    assert!(said.stderr.contains(&format!("for all of {host}")), "{}", said.stderr);
    let said = dist.feed(&[&login[..], &[host]].concat(), PASSWORD.as_bytes()).ok();
    assert!(!said.stderr.contains("for all of"), "{}", said.stderr);
    let mode = fs_err::metadata(&file).expect("the file").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let written: serde_json::Value =
        serde_json::from_slice(&fs_err::read(&file).expect("the file")).expect("JSON");
    assert!(written["auths"][host]["auth"].is_string(), "{written}");
    let reference = registry.0.reference("test/private:1");
    pull(&dist, &reference);
    verify_image(&dist, &reference, &image);
    // skopeo reads the same file.
    let from = format!("docker://{reference}");
    let mut skopeo = dist.clean("skopeo");
    skopeo.args(["inspect", "--raw", "--tls-verify=false", "--authfile"]).arg(&file).arg(&from);
    let out = skopeo.output().expect("run skopeo");
    assert_eq!(out.stdout, image.manifest.bytes, "{}", String::from_utf8_lossy(&out.stderr));
    dist.ok(&["logout", host]);
    let text = fs_err::read_to_string(&file).unwrap_or_default();
    assert!(!text.contains(host), "{text}");
    quick().run(&["pull", &reference]).exit(4);
}

#[test]
fn files_of_podman_and_helpers_of_docker() {
    let _timed = timed("auth");
    let (registry, image) = basic();
    let reference = registry.0.reference("test/private:1");
    let auth = base64(&format!("{USER}:{PASSWORD}"));

    let by_path = quick();
    let file = by_path.dir().join("auth.json");
    let wrong = base64("nobody:nothing");
    let key = registry.0.reference("test/private");
    let text = serde_json::json!({ "auths": {
        registry.0.address(): { "auth": wrong },
        key: { "auth": auth },
    } });
    fs_err::write(&file, text.to_string()).expect("write auth.json");
    fs_err::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    let by_path = by_path.env("REGISTRY_AUTH_FILE", file);
    pull(&by_path, &reference);
    verify_image(&by_path, &reference, &image);

    let helped = quick();
    let bin = helped.dir().join("bin");
    fs_err::create_dir_all(&bin).expect("make a bin dir");
    let helper = bin.join("docker-credential-test");
    let answer = serde_json::json!({ "Username": USER, "Secret": PASSWORD });
    fs_err::write(&helper, format!("#!/bin/sh\ncat >/dev/null\ncat <<'X'\n{answer}\nX\n"))
        .expect("write the helper");
    fs_err::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let config = helped.dir().join("docker");
    fs_err::create_dir_all(&config).expect("make the config dir");
    let text = serde_json::json!({ "credHelpers": { registry.0.address(): "test" } });
    fs_err::write(config.join("config.json"), text.to_string()).expect("write config.json");
    fs_err::set_permissions(config.join("config.json"), std::fs::Permissions::from_mode(0o600))
        .expect("chmod");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let helped = helped.env("DOCKER_CONFIG", config).env("PATH", path);
    pull(&helped, &reference);
    verify_image(&helped, &reference, &image);

    fs_err::write(&helper, "#!/bin/sh\nexit 1\n").expect("break the helper");
    let fresh = helped.at(registry.0.storage().parent().expect("a dir").join("fresh"));
    fresh.run(&["pull", &reference]).exit(4);
}

/// A registry that wants tokens, with a proxy in front of it.
fn tokens(seconds: u32) -> (Certificates, TokenServer, Kept, FaultProxy, Image) {
    let image = Image::random(3, &[400_000, 300_000, 2000]);
    let kept = scratch();
    let storage = Some(kept.path().join("registry"));
    let open = Registry::with(RegistryOptions { storage: storage.clone(), ..Default::default() });
    image.push(&open, "test/private", "1");
    drop(open);
    let certificates = Certificates::new();
    let server = TokenServer::start(&certificates.authority_pair(), USER, PASSWORD, seconds, 300);
    let auth = server.auth();
    let registry = Registry::with(RegistryOptions { storage, auth, ..Default::default() });
    let proxy = FaultProxy::start(registry.address());
    (certificates, server, Kept(registry, kept), proxy, image)
}

#[test]
fn tokens_are_asked_for_once_and_reused() {
    let _timed = timed("auth");
    let (_certificates, server, _registry, proxy, image) = tokens(300);
    let (dist, reference) = (quick(), proxy.reference("test/private:1"));
    dist.run(&["pull", &reference]).exit(4);
    let login = format!("{USER}:{PASSWORD}");
    let before = server.requests().len();
    let ran = dist.ok(&["--user", &login, "--debug", "pull", &reference]);
    assert!(!ran.stderr.contains("eyJ"), "a token is shown: {}", ran.stderr);
    verify_image(&dist, &reference, &image);
    let asked = server.requests().len() - before;
    assert!((1..=2).contains(&asked), "{asked} tokens for one pull");
}

#[test]
fn a_token_that_expires_in_the_middle_is_renewed() {
    let _timed = timed("auth");
    let (_certificates, server, _registry, proxy, image) = tokens(2);
    // The layers reach the registry only when the token is too old for it.
    for layer in 0..2 {
        let part = format!("/blobs/{}", image.layer(layer));
        proxy.add(Rule::get(part, Fault::Delay(Duration::from_millis(3200))).times(1));
    }
    let (dist, reference) = (dist(), proxy.reference("test/private:1"));
    let login = format!("{USER}:{PASSWORD}");
    dist.ok(&["--user", &login, "pull", &reference]);
    verify_image(&dist, &reference, &image);
    let refused = proxy.log().iter().filter(|r| r.status == 401).count();
    assert!(refused >= 2, "no token expired: {:?}", proxy.log());
    assert!(server.requests().len() >= 2, "{:?}", server.requests());
}

#[test]
fn a_token_allows_what_is_done_with_it() {
    let _timed = timed("auth");
    let (_certificates, server, _registry, proxy, image) = tokens(300);
    let login = format!("{USER}:{PASSWORD}");
    let dist = quick().with(&["--user", &login]);
    let name = proxy.reference("test/private:1");
    assert_eq!(dist.ok(&["tags", "ls", &proxy.reference("test/private")]).text(), "1\n");
    assert_eq!(dist.ok(&["repo", "ls", proxy.address()]).text(), "test/private\n");
    dist.ok(&["pull", &name]);
    let other = proxy.reference("test/private:2");
    dist.ok(&["push", &name, &other]);
    dist.ok(&["tags", "rm", &name]);
    assert_eq!(dist.ok(&["tags", "ls", &proxy.reference("test/private")]).text(), "2\n");
    dist.ok(&["pull", &other]);
    verify_image(&dist, &other, &image);
    let asked = server.requests();
    for scope in ["registry:catalog:*", "repository:test/private:delete,pull,push"] {
        assert!(asked.iter().any(|request| request.to_string().contains(scope)), "{asked:?}");
    }
}

fn base64(text: &str) -> String {
    let encoded = dist_testutil::run(
        "sh",
        &["-c", "printf %s \"$1\" | base64 -w0", "sh", text].map(std::ffi::OsStr::new),
    );
    encoded.trim().to_owned()
}
