//! Keys, certificates and signatures by openssl.

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dist_core::{Descriptor, Digest, Error, MediaType, Reference};
use dist_policy::{Accepted, Envelope, Identity, Judged, PublicKey, Rule, Signature, Subject};
use jiff::Timestamp;
use tempfile::TempDir;

/// A directory in which openssl works.
pub(crate) struct Openssl(TempDir);

impl Openssl {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("make a directory"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn dir(&self) -> &Path {
        self.0.path()
    }

    /// Runs openssl with the words of `line` as its arguments; `~` stands for a space.
    #[track_caller]
    pub(crate) fn run(&self, line: &str) -> Vec<u8> {
        let args = line.split_whitespace().map(|word| word.replace('~', " "));
        let out = Command::new("openssl").args(args).current_dir(&self.0).output();
        let out = out.expect("run openssl");
        assert!(out.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs_err::write(self.path(name), bytes).expect("write a file");
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs_err::read(self.path(name)).expect("read a file")
    }

    /// Makes a pair of keys, `name.key` and `name.pub`.
    pub(crate) fn pair(&self, name: &str, kind: &str) {
        let options = match kind {
            "p256" => "-algorithm EC -pkeyopt ec_paramgen_curve:P-256",
            "p384" => "-algorithm EC -pkeyopt ec_paramgen_curve:P-384",
            "p521" => "-algorithm EC -pkeyopt ec_paramgen_curve:P-521",
            "rsa" => "-algorithm RSA -pkeyopt rsa_keygen_bits:2048",
            "ed25519" => "-algorithm ED25519",
            other => panic!("no kind {other}"),
        };
        self.run(&format!("genpkey {options} -out {name}.key"));
        self.run(&format!("pkey -in {name}.key -pubout -out {name}.pub"));
    }

    /// A signature as openssl makes it: ECDSA in DER, RSA with PKCS #1.
    pub(crate) fn sign(&self, key: &str, message: &[u8]) -> Vec<u8> {
        self.write("message", message);
        self.run(&format!("dgst -sha256 -sign {key}.key message"))
    }

    pub(crate) fn public(&self, name: &str) -> PublicKey {
        PublicKey::from_pem(name, &self.read(&format!("{name}.pub"))).expect("a public key")
    }

    /// A rule by one key.
    pub(crate) fn by(&self, key: &str, identity: &str) -> Rule {
        Rule::by_keys(vec![self.public(key)], Identity::parse(identity).expect("an identity"))
    }
}

pub(crate) const DOCUMENT: &[u8] = b"{\"schemaVersion\":2}";

pub(crate) fn target() -> Descriptor {
    Descriptor::new(MediaType::Manifest, Digest::sha256(DOCUMENT), DOCUMENT.len() as u64)
}

pub(crate) fn base64(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

/// What `rule` says of `host.io/team/app:1` with one signature.
pub(crate) fn judge(rule: &Rule, envelope: Envelope) -> Result<Accepted, Error> {
    judge_at(rule, envelope, Timestamp::now())
}

pub(crate) fn judge_at(rule: &Rule, envelope: Envelope, now: Timestamp) -> Result<Accepted, Error> {
    let subject = Reference::parse("host.io/team/app:1").expect("a reference");
    rule.judge(&Judged {
        subject: &Subject::Registry(subject),
        target: &target(),
        document: Some(DOCUMENT),
        signatures: &[Signature { digest: Digest::sha256(b"it"), envelope }],
        now,
    })
}

/// Fails the test unless the image is refused with these words.
#[track_caller]
pub(crate) fn refused(judged: Result<Accepted, Error>, words: &str) {
    let error = judged.expect_err(words);
    assert_eq!(error.kind(), dist_core::ErrorKind::Denied);
    let said = format!("{error:?}");
    assert!(said.contains(words), "no {words:?} in {said}");
}
