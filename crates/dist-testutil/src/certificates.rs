//! Keys and certificates for one test, made by openssl.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::process::{Scratch, run, scratch};

/// An authority of its own and what it signs.
#[derive(Debug)]
pub struct Certificates {
    dir: Scratch,
}

impl Certificates {
    /// Makes the authority.
    ///
    /// # Panics
    /// When openssl fails.
    pub fn new() -> Self {
        let dir = scratch();
        let this = Self { dir };
        this.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
            "-days",
            "2",
            "-subj",
            "/CN=test authority",
        ]);
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn openssl(&self, args: &[&str]) {
        let script = format!("cd {} && openssl \"$@\"", self.dir.path().display());
        let mut all: Vec<&OsStr> = ["-c", &script, "openssl"].map(OsStr::new).to_vec();
        all.extend(args.iter().map(OsStr::new));
        run("sh", &all);
    }

    /// The authority's certificate.
    pub fn authority(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// A server certificate for `names` (`DNS:localhost`, `IP:127.0.0.1`) and its key.
    ///
    /// # Panics
    /// When openssl fails.
    pub fn server(&self, stem: &str, names: &str) -> (PathBuf, PathBuf) {
        let [key, request, cert, ext] =
            ["key", "csr", "pem", "ext"].map(|end| format!("{stem}.{end}"));
        fs_err::write(self.path(&ext), format!("subjectAltName={names}\n")).expect("write names");
        self.openssl(&[
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            &key,
            "-out",
            &request,
            "-subj",
            "/CN=test server",
        ]);
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            &ext,
            "-out",
            &cert,
        ]);
        (self.path(&cert), self.path(&key))
    }

    /// The authority's own pair, which also signs tokens.
    pub fn authority_pair(&self) -> (PathBuf, PathBuf) {
        (self.path("ca.pem"), self.path("ca.key"))
    }

    /// Where all of it lies.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Default for Certificates {
    fn default() -> Self {
        Self::new()
    }
}
