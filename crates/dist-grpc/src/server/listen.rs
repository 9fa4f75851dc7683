//! Sockets: made with their rights before anybody can connect, taken over where they are stale.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use dist_core::{Context as _, Error, ErrorKind, Result, ResultExt as _};
use rustix::fs::{FlockOperation, Gid, Mode, Uid};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::Access;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Where a socket is and who may connect to it.
#[derive(Clone, Debug)]
pub struct SocketOptions {
    /// Its path.
    pub path: PathBuf,
    /// Its permissions.
    pub mode: u32,
    /// Its owner; `None` leaves this process's user.
    pub owner: Option<u32>,
    /// Its group; `None` leaves this process's group.
    pub group: Option<u32>,
}

/// A listening socket and who is answered on it.
#[derive(Debug)]
pub struct Socket {
    pub(super) listener: UnixListener,
    pub(super) access: Access,
    pub(super) made: Option<Made>,
}

/// What is removed when it is dropped: the path, if it still leads to what was made there.
#[derive(Debug)]
pub(super) struct Made {
    path: PathBuf,
    device: u64,
    inode: u64,
    mode: u32,
}

impl Drop for Made {
    fn drop(&mut self) {
        let Self { path, device, inode, .. } = self;
        let ours = std::fs::symlink_metadata(&*path)
            .is_ok_and(|there| (there.dev(), there.ino()) == (*device, *inode));
        if ours && let Err(error) = std::fs::remove_file(&*path) {
            tracing::warn!(%error, path = %path.display(), "cannot remove the socket");
        }
    }
}

impl Socket {
    /// Makes a socket, and its directory (0711) where that is missing.
    ///
    /// A socket that nobody listens on any more is replaced. Nobody can connect before owner and
    /// permissions are set. Members of the socket's group are answered as well as those of `access`.
    ///
    /// # Errors
    /// `Busy` where somebody listens there; `FailedPrecondition` where something else is there;
    /// `InvalidArgument` for a path that is too long for a socket; `Storage`.
    pub fn bind(options: &SocketOptions, mut access: Access) -> Result<Self> {
        let path = std::path::absolute(&options.path)
            .context(ErrorKind::InvalidArgument, || at("make socket", &options.path))?;
        let address = SocketAddrUnix::new(&path)
            .context(ErrorKind::InvalidArgument, || at("make socket", &path))?;
        let dir = path.parent().unwrap_or(Path::new("/"));
        make_dir(dir)?;
        let gate = File::open(dir).context(ErrorKind::Storage, || at("open", dir))?;
        // Held until the socket listens: of two daemons that start at once, one finds the other.
        rustix::io::retry_on_intr(|| rustix::fs::flock(&gate, FlockOperation::LockExclusive))
            .context(ErrorKind::Storage, || at("lock", dir))?;
        remove_stale(&path, &address)?;
        let socket = stream_socket().during(|| at("make socket", &path))?;
        rustix::net::bind(&socket, &address)
            .context(ErrorKind::Storage, || at("make socket", &path))?;
        allow(options, &path)?;
        rustix::net::listen(&socket, BACKLOG)
            .context(ErrorKind::Storage, || at("listen on", &path))?;
        let there =
            std::fs::symlink_metadata(&path).context(ErrorKind::Storage, || at("stat", &path))?;
        access.add_group(there.gid());
        let made = Made { device: there.dev(), inode: there.ino(), mode: options.mode, path };
        Ok(Self { listener: UnixListener::from(socket), access, made: Some(made) })
    }

    /// Tells the log that clients are answered.
    pub(super) fn announce(&self) {
        if let Some(Made { path, mode, .. }) = &self.made {
            tracing::info!(path = %path.display(), mode = %format_args!("{mode:04o}"), "listening");
        }
    }

    /// Takes a listening socket that somebody else made and will remove, such as systemd.
    ///
    /// Members of the socket's group are answered as well as those of `access`.
    ///
    /// # Errors
    /// `InvalidArgument` where it is no socket of this kind.
    pub fn passed(listener: UnixListener, mut access: Access) -> Result<Self> {
        let what = || "take over the socket that was passed".to_owned();
        let address = listener.local_addr().context(ErrorKind::InvalidArgument, what)?;
        listener.set_nonblocking(true).context(ErrorKind::InvalidArgument, what)?;
        if let Some(path) = address.as_pathname() {
            let there = std::fs::symlink_metadata(path)
                .context(ErrorKind::InvalidArgument, || at("stat", path))?;
            access.add_group(there.gid());
        }
        tracing::info!(address = ?address, "listening on a socket that was passed");
        Ok(Self { listener, access, made: None })
    }
}

fn make_dir(dir: &Path) -> Result<()> {
    const SEARCH_ONLY: u32 = 0o711;
    if dir.is_dir() {
        return Ok(());
    }
    let what = || at("make directory", dir);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(SEARCH_ONLY)
        .create(dir)
        .context(ErrorKind::Storage, what)?;
    rustix::fs::chmod(dir, Mode::from_raw_mode(SEARCH_ONLY)).context(ErrorKind::Storage, what)
}

/// Removes the socket of a process that is gone.
fn remove_stale(path: &Path, address: &SocketAddrUnix) -> Result<()> {
    let there = match std::fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).context(ErrorKind::Storage, || at("stat", path)),
    };
    if !there.file_type().is_socket() {
        let message = format!("make socket {}: something else is there", path.display());
        return Err(Error::new(ErrorKind::FailedPrecondition, message));
    }
    // Not waiting: a live one whose queue is full says so.
    let probe = stream_socket()?;
    match rustix::net::connect(&probe, address) {
        Err(Errno::CONNREFUSED) => {
            tracing::info!(path = %path.display(), "replacing the socket of a process that is gone");
            std::fs::remove_file(path).context(ErrorKind::Storage, || at("remove", path))
        }
        Err(Errno::NOENT) => Ok(()),
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => {
            let message = format!("make socket {}: another process listens there", path.display());
            Err(Error::new(ErrorKind::Busy, message))
        }
        Err(error) => Err(error).context(ErrorKind::Storage, || at("try", path)),
    }
}

fn stream_socket() -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .context(ErrorKind::Storage, || "open a socket".into())
}

/// Sets owner and permissions.
fn allow(options: &SocketOptions, path: &Path) -> Result<()> {
    let (owner, group) = (options.owner.map(Uid::from_raw), options.group.map(Gid::from_raw));
    if owner.is_some() || group.is_some() {
        rustix::fs::chown(path, owner, group).context(ErrorKind::Storage, || at("chown", path))?;
    }
    rustix::fs::chmod(path, Mode::from_raw_mode(options.mode))
        .context(ErrorKind::Storage, || at("chmod", path))
}

fn at(what: &str, path: &Path) -> String {
    format!("{what} {}", path.display())
}
