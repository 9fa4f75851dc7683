//! A bundle: what a runtime starts from (runtime-spec, bundle.md).
//!
//! ```text
//! BUNDLE/                  0711, so that a user of a container reaches what is mounted from it
//!   config.json            the spec, 0600
//!   rootfs/                the tree, or where it is mounted
//!   etc/{hosts,resolv.conf,hostname}   mounted over the image's
//!   volumes/<n>/           the image's volumes, in the order of the spec
//! ```

use std::fs::DirBuilder;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use dist_core::{Context as _, ErrorKind, Result};

use crate::cni::Joined;
use crate::{Converted, Network, Rootfs, Spec};

/// The name of the tree in a bundle.
pub const ROOTFS: &str = "rootfs";

/// Files that are mounted over the image's; in the bundle they have the same path.
pub(crate) const FILES: [&str; 3] = ["/etc/hosts", "/etc/resolv.conf", "/etc/hostname"];

/// The directory of the `n`th volume, relative to the bundle.
pub(crate) fn volume_source(n: usize) -> PathBuf {
    PathBuf::from("volumes").join(n.to_string())
}

/// A directory that is a bundle, or becomes one.
#[derive(Debug)]
pub struct Bundle<'a>(&'a Path);

impl<'a> Bundle<'a> {
    /// Makes the directory, where it is missing, and an empty `rootfs` in it.
    ///
    /// # Errors
    /// `Storage`.
    pub fn create(dir: &'a Path) -> Result<Self> {
        make_dir(dir)?;
        make_dir(&dir.join(ROOTFS))?;
        Ok(Self(dir))
    }

    /// Where its tree is, or is to be mounted.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.0.join(ROOTFS)
    }

    /// Writes the spec and all that it mounts from the bundle. `rootfs` is the tree that volumes begin
    /// with.
    ///
    /// # Errors
    /// `Storage`.
    pub fn write(
        &self,
        converted: &Converted,
        network: Network,
        rootfs: &mut Rootfs,
    ) -> Result<()> {
        let Converted { spec, volumes, .. } = converted;
        let hostname = spec.hostname.as_deref().unwrap_or_default();
        make_dir(&self.0.join("etc"))?;
        self.write_file("etc/hostname", 0o644, format!("{hostname}\n").as_bytes())?;
        self.write_file("etc/hosts", 0o644, hosts(network, hostname).as_bytes())?;
        // Where there is none, there is nobody to ask.
        let resolvers = std::fs::read("/etc/resolv.conf").unwrap_or_default();
        self.write_file("etc/resolv.conf", 0o644, &resolvers)?;
        if !volumes.is_empty() {
            make_dir(&self.0.join("volumes"))?;
        }
        for (n, path) in volumes.iter().enumerate() {
            rootfs.make_volume(path, &self.0.join(volume_source(n)))?;
        }
        self.write_spec(spec)
    }

    /// Writes `etc/hosts` and `etc/resolv.conf` for a container that has joined a network.
    pub(crate) fn write_network(&self, joined: &Joined, hostname: &str) -> Result<()> {
        let mut hosts = LOCAL.to_owned();
        for address in joined.addresses() {
            hosts.push_str(&format!("{address}\t{hostname}\n"));
        }
        self.write_file("etc/hosts", 0o644, hosts.as_bytes())?;
        let resolvers = joined.resolvers().unwrap_or_else(resolvers_from_elsewhere);
        self.write_file("etc/resolv.conf", 0o644, resolvers.as_bytes())
    }

    fn write_spec(&self, spec: &Spec) -> Result<()> {
        let json = serde_json::to_vec_pretty(spec)
            .context(ErrorKind::Internal, || "write a runtime spec".into())?;
        self.write_config(&json)
    }

    /// Writes the spec alone, as it is, in place of another, which somebody may just be reading.
    pub(crate) fn write_config(&self, json: &[u8]) -> Result<()> {
        const NEW: &str = "config.json.new";
        let path = self.0.join("config.json");
        self.write_file(NEW, 0o600, json)?;
        std::fs::rename(self.0.join(NEW), &path)
            .context(ErrorKind::Storage, || format!("write {}", path.display()))
    }

    /// Whether a bundle has what [`write`](Self::write) makes, which can't be made again of its spec.
    pub(crate) fn has_files(dir: &Path) -> bool {
        dir.join("etc").exists()
    }

    pub(crate) fn write_file(&self, name: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        let path = self.0.join(name);
        let write = || {
            let mut options = std::fs::OpenOptions::new();
            let options = options.write(true).create(true).truncate(true).mode(mode);
            options.open(&path)?.write_all(bytes)
        };
        write().context(ErrorKind::Storage, || format!("write {}", path.display()))
    }
}

const LOCAL: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

/// The name servers of this machine, for another network namespace: where the only one listens on the
/// loopback, those that it asks.
fn resolvers_from_elsewhere() -> String {
    const BEHIND: &str = "/run/systemd/resolve/resolv.conf";
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let mut servers = text.lines().filter_map(|line| line.strip_prefix("nameserver")).peekable();
    let is_local = |server: &str| {
        server.trim().parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
    };
    if servers.peek().is_some() && servers.all(is_local) {
        return std::fs::read_to_string(BEHIND).unwrap_or(text);
    }
    text
}

/// `/etc/hosts` for a container.
fn hosts(network: Network, hostname: &str) -> String {
    let theirs = match network {
        Network::Host => std::fs::read_to_string("/etc/hosts").ok(),
        Network::None | Network::Joined => None,
    };
    let mut text = theirs.unwrap_or_else(|| LOCAL.to_owned());
    if !hostname.is_empty() && !text.split_whitespace().any(|word| word == hostname) {
        if !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&format!("127.0.1.1\t{hostname}\n"));
    }
    text
}

fn make_dir(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .context(ErrorKind::Storage, || format!("make directory {}", path.display()))
}
