//! Policies as files.

use dist_core::{ErrorKind, Reference};
use dist_policy::{Policy, Subject};

use crate::openssl::{Openssl, base64};

fn subject(text: &str) -> Subject {
    Subject::Registry(Reference::parse_familiar(text).expect("a reference"))
}

/// The scope and the rule for an image.
fn rule(policy: &Policy, name: &str) -> String {
    let (scope, rule) = policy.rule(&subject(name));
    format!("{}: {rule}", scope.unwrap_or_else(|| "default".into()))
}

#[test]
fn the_narrowest_scope_counts() {
    let openssl = Openssl::new();
    openssl.pair("key", "p256");
    openssl.write(
        "policy.toml",
        "default = \"reject\"\n\
         [[rule]]\nscope = \"docker.io/library\"\nrequire = \"accept\"\n\
         [[rule]]\nscope = \"docker.io/library/redis\"\nkeys = [\"key.pub\"]\n\
         [[rule]]\nscope = \"docker.io/library/redis:7\"\nrequire = \"reject\"\n\
         [[rule]]\nscope = \"*.example.com\"\nkeys = [\"key.pub\"]\nidentity = \"digest\"\n\
         [[rule]]\nscope = \"localhost:5000\"\nrequire = \"accept\"\n\
         [[rule]]\nscope = \"oci:/srv\"\nrequire = \"accept\"\n",
    );
    let policy = Policy::read(&openssl.path("policy.toml")).expect("a policy");
    let key = openssl.path("key.pub").display().to_string();
    for (name, wanted) in [
        ("alpine", "docker.io/library: accept".to_owned()),
        (
            "redis",
            format!("docker.io/library/redis: a signature by {key} that names the repository"),
        ),
        ("redis:7", "docker.io/library/redis:7: reject".into()),
        ("a.b.example.com/x", format!("*.example.com: a signature by {key}")),
        ("example.com/x", "default: reject".into()),
        ("localhost:5000/a/b:1", "localhost:5000: accept".into()),
        ("localhost:50001/a", "default: reject".into()),
        ("docker.io/libraryx/y", "default: reject".into()),
    ] {
        assert_eq!(rule(&policy, name), wanted, "{name}");
    }
    let fingerprint = |policy: &Policy| policy.rule(&subject("redis")).1.fingerprint();
    let before = fingerprint(&policy);
    openssl.pair("key", "p256");
    let policy = Policy::read(&openssl.path("policy.toml")).expect("a policy");
    assert_ne!(fingerprint(&policy), before, "another key is another rule");
}

#[test]
fn a_policy_with_anything_wrong_is_none() {
    let openssl = Openssl::new();
    openssl.pair("key", "p256");
    let read = |name: &str, text: &str| {
        openssl.write(name, text);
        Policy::read(&openssl.path(name))
    };
    let entry = |more: &str| format!("default = \"accept\"\n[[rule]]\nscope = \"h.io/a\"\n{more}");
    let key = "keys = [\"key.pub\"]\n";
    read("policy.toml", &entry(key)).expect("a good one");
    for (text, words) in [
        (String::new(), "missing field `default`"),
        ("default = \"allow\"".into(), "unknown variant `allow`"),
        ("default = \"accept\"\ndefaults = 1".into(), "unknown field `defaults`"),
        ("default = \"accept\"\nrevoked = [\"sha256:abc\"]".into(), "line 2"),
        (entry(""), "neither keys nor certificates"),
        (entry("require = \"signed\""), "neither keys nor certificates"),
        (entry("keys = []"), "keys is empty"),
        (entry("keys = [\"none.pub\"]"), "none.pub"),
        (entry("key = \"key.pub\""), "unknown field `key`"),
        (entry(&format!("{key}require = \"accept\"")), "keys and certificates are for"),
        (entry(&format!("{key}identity = \"UPPER\"")), "read identity"),
        (entry(&format!("{key}identity = \"exact\"\nsigned_prefix = \"q.io\"")), "signed_prefix"),
        (entry("require = \"accept\"\nidentity = \"exact\""), "identity is for keys"),
        (entry("require = \"accept\"\nsigners = [\"C=US\"]"), "signers and revocations"),
        (entry("certificates = [\"key.pub\"]"), "it has no BEGIN CERTIFICATE"),
        (
            format!("{}\n[[rule]]\nscope = \"h.io/a\"\nrequire = \"accept\"", entry(key)),
            "another rule",
        ),
        (entry(key).replace("h.io/a", ""), "it is empty"),
        (entry(key).replace("h.io/a", "h.io/A"), "is no host"),
        (entry(key).replace("h.io/a", "*"), "is no host"),
        (entry(key).replace("h.io/a", "h.io/"), "is no host"),
        (entry(key).replace("h.io/a", "oci:rel"), "a path begins with /"),
        (entry(key).replace("h.io/a", "redis"), "begins with no host"),
        (entry(key).replace("h.io/a", "library/redis"), "begins with no host"),
        (entry(key).replace("h.io/a", "H.io:1"), "begins with no host"),
        (entry(key).replace("h.io/a", "oci:/x"), "say under which name"),
        (format!("{}\n[programs]\ndirectory = \"/x\"\ntimeout = \"soon\"", entry(key)), "timeout"),
    ] {
        let error = read("policy.toml", &text).expect_err(words);
        assert_eq!(error.kind(), ErrorKind::Denied, "{text}");
        assert!(format!("{error:?}").contains(words), "no {words:?} in {error:?} of {text}");
    }
    let missing = Policy::read(&openssl.path("none.toml")).expect_err("no file");
    assert_eq!(missing.kind(), ErrorKind::Denied);
    Policy::read(openssl.dir()).expect_err("a directory");
}

#[test]
fn containers_policies_mean_here_what_they_mean_there() {
    let openssl = Openssl::new();
    openssl.pair("key", "p256");
    let key = openssl.path("key.pub").display().to_string();
    let data = base64(openssl.read("key.pub"));
    openssl.write(
        "policy.json",
        format!(
            r#"{{"default": [{{"type": "reject"}}], "transports": {{
            "docker": {{
                "docker.io": [{{"type": "insecureAcceptAnything"}}],
                "docker.io/library/redis": [{{"type": "sigstoreSigned", "keyPath": "{key}"}}],
                "*.example.com": [{{"type": "sigstoreSigned", "keyData": "{data}",
                    "signedIdentity": {{"type": "matchRepository"}}}}],
                "h.io/a": [{{"type": "sigstoreSigned", "keyPaths": ["{key}"],
                    "signedIdentity": {{"type": "remapIdentity", "prefix": "h.io", "signedPrefix": "q.io"}}}}],
                "h.io/b": [{{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/etc/pki/x"}}],
                "h.io/c": [{{"type": "sigstoreSigned", "fulcio": {{}}, "rekorPublicKeyPath": "x"}}],
                "h.io/d": [{{"type": "signedBaseLayer",
                    "baseLayerIdentity": {{"type": "exactReference", "dockerReference": "h.io/x:1"}}}}],
                "": [{{"type": "reject"}}]
            }},
            "docker-daemon": {{"": [{{"type": "insecureAcceptAnything"}}]}}
            }}}}"#
        ),
    );
    let policy = Policy::read(&openssl.path("policy.json")).expect("a policy");
    for (name, wanted) in [
        ("docker.io/x/y", "docker.io: accept".to_owned()),
        ("redis:7", format!("docker.io/library/redis: a signature by {key} that names the image")),
        (
            "a.example.com/x",
            "*.example.com: a signature by keyData that names the repository".into(),
        ),
        (
            "h.io/a:1",
            format!("h.io/a: a signature by {key} that names the image, with q.io for h.io"),
        ),
        ("h.io/b:1", "h.io/b: a GPG signature (signedBy)".into()),
        (
            "h.io/c:1",
            "h.io/c: a Sigstore signature by Fulcio, a PKI or with an entry in Rekor".into(),
        ),
        ("h.io/d:1", "h.io/d: a signed base layer (signedBaseLayer)".into()),
        ("other.io/x", ": reject".into()),
    ] {
        assert_eq!(rule(&policy, name), wanted, "{name}");
    }
    let (_, gpg) = policy.rule(&subject("h.io/b:1"));
    let error = gpg.check_possible().expect_err("GPG");
    assert!(error.to_string().contains("signedBy"), "{error}");
}

#[test]
fn containers_policies_are_read_strictly() {
    let openssl = Openssl::new();
    openssl.pair("key", "p256");
    let key = openssl.path("key.pub").display().to_string();
    let one = |entry: &str| format!(r#"{{"default": [{entry}]}}"#);
    let sigstore = |more: &str| one(&format!(r#"{{"type": "sigstoreSigned", {more}}}"#));
    let identity =
        |text: &str| sigstore(&format!(r#""keyPath": "{key}", "signedIdentity": {text}"#));
    for good in [
        one(r#"{"type": "reject"}"#),
        identity(r#"{"type": "matchExact"}"#),
        identity(r#"{"type": "exactReference", "dockerReference": "h.io/a:1"}"#),
        identity(r#"{"type": "exactRepository", "dockerRepository": "h.io/a"}"#),
    ] {
        openssl.write("policy.json", &good);
        Policy::read(&openssl.path("policy.json")).expect(&good);
    }
    for (text, words) in [
        (String::new(), "parse it"),
        ("{}".into(), "missing field `default`"),
        (r#"{"default": []}"#.into(), "it has no requirements"),
        (r#"{"default": [{"type": "reject"}], "x": 1}"#.into(), "unknown field `x`"),
        (
            r#"{"default": [{"type": "reject"}], "default": [{"type": "insecureAcceptAnything"}]}"#.into(),
            "key \"default\" comes twice",
        ),
        (one(r#"{"type": "reject", "x": 1}"#), "unknown field `x`"),
        (one(r#"{"type": "accept"}"#), "unknown variant `accept`"),
        (one("{}"), "missing field `type`"),
        (sigstore(r#""keyPath": "/none""#), "/none"),
        (sigstore(r#""keyData": "!""#), "read keyData"),
        (sigstore(r#""keyPaths": []"#), "has no key"),
        (sigstore(r#""keyPath": "a", "keyData": "b""#), "exactly one of"),
        (sigstore(r#""rekorPublicKeyPath": "b""#), "exactly one of"),
        (sigstore(r#""keypath": "b""#), "unknown field `keypath`"),
        (identity(r#"{"type": "matchAll"}"#), "unknown variant `matchAll`"),
        (identity(r#"{"type": "matchExact", "prefix": "x"}"#), "unknown field `prefix`"),
        (identity(r#"{"type": "exactReference", "dockerReference": "h.io/a"}"#), "neither tag"),
        (identity(r#"{"type": "remapIdentity", "prefix": "h.io"}"#), "missing field"),
        (
            r#"{"default": [{"type": "reject"}], "transports": {"docker": {"h.io/A": [{"type": "reject"}]}}}"#.into(),
            "is no host",
        ),
    ] {
        openssl.write("policy.json", &text);
        let error = Policy::read(&openssl.path("policy.json")).expect_err(words);
        assert_eq!(error.kind(), ErrorKind::Denied, "{text}");
        assert!(format!("{error:?}").contains(words), "no {words:?} in {error:?} of {text}");
    }
}
