//! Debian's lighttpd over a directory, on a port the kernel picks.

use std::ffi::OsStr;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::process::{Daemon, Scratch, scratch};

/// A running web server.
#[derive(Debug)]
pub struct WebServer {
    address: String,
    files: PathBuf,
    _daemon: Daemon,
    _dir: Scratch,
}

impl WebServer {
    /// Serves an empty directory, with ranges, and logs nothing.
    ///
    /// # Panics
    /// When lighttpd is missing or does not start.
    pub fn start() -> Self {
        Self::with("")
    }

    /// The same with more lines of its configuration.
    ///
    /// # Panics
    /// As [`WebServer::start`].
    pub fn with(more: &str) -> Self {
        let dir = scratch();
        let files = dir.path().join("files");
        fs_err::create_dir(&files).expect("make the directory");
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind the web server");
        let address = listener.local_addr().expect("its address").to_string();
        let config = dir.path().join("lighttpd.conf");
        let text = format!(
            "server.document-root = \"{}\"\n\
             server.bind = \"/dev/stdin\"\n\
             server.modules = (\"mod_auth\", \"mod_authn_file\", \"mod_redirect\")\n\
             index-file.names = (\"index.html\")\n\
             mimetype.assign = (\".html\" => \"text/html\", \".tar\" => \"application/x-tar\", \
             \"\" => \"application/octet-stream\")\n{more}\n",
            files.display()
        );
        fs_err::write(&config, text).expect("write its configuration");
        let args = [OsStr::new("-D"), OsStr::new("-f"), config.as_os_str()];
        let (daemon, ()) =
            Daemon::start_with("lighttpd", &args, OwnedFd::from(listener).into(), |line| {
                line.contains("server started").then_some(())
            });
        Self { address, files, _daemon: daemon, _dir: dir }
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What it serves.
    pub fn files(&self) -> &Path {
        &self.files
    }

    /// The address of a file.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }
}
