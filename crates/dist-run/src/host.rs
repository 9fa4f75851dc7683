//! What a spec depends on beside the image: the kernel and the limits of this machine.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use dist_core::{Context as _, Error, ErrorKind, Result, ResultExt as _};

use crate::spec::Device;
use crate::{Capability, UserNamespace};

/// Facts about this machine, read once and passed on, so that a conversion depends on nothing else.
#[derive(Clone, Debug)]
pub struct HostFacts {
    /// The architecture, by Go's name.
    pub architecture: String,
    /// Whether there is nothing but version 2 of cgroups.
    pub cgroup2: bool,
    /// The capabilities that this process can give away.
    pub capabilities: BTreeSet<Capability>,
    /// How many open files a process may be allowed.
    pub most_files: u64,
    /// The user namespace, where it is not the machine's own.
    pub user_namespace: Option<UserNamespace>,
    /// Whether this process can make cgroups.
    pub cgroups: bool,
    /// Everything in `/dev` that a privileged container gets.
    pub devices: Vec<Device>,
}

impl HostFacts {
    /// Reads them. What can't be read is as on a small machine.
    #[must_use]
    pub fn read() -> Self {
        const CGROUP2: u64 = 0x6367_7270;
        let cgroup2 = rustix::fs::statfs("/sys/fs/cgroup")
            .is_ok_and(|stat| u64::try_from(stat.f_type) == Ok(CGROUP2));
        let user_namespace = UserNamespace::current();
        let most_files = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        Self {
            architecture: match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "x86" => "386",
                "aarch64" => "arm64",
                "powerpc64" => "ppc64le",
                other => other,
            }
            .to_owned(),
            cgroup2,
            capabilities: bounding(&read("/proc/self/status")),
            most_files: most_files.unwrap_or(1 << 20),
            cgroups: user_namespace.is_none() || can_make_cgroups(cgroup2),
            user_namespace,
            devices: devices(),
        }
    }
}

/// Whether the cgroups that there are were given to this process.
fn can_make_cgroups(cgroup2: bool) -> bool {
    let dir = if cgroup2 { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/memory" };
    rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The bounding set of a process, from its `/proc/PID/status`.
fn bounding(status: &str) -> BTreeSet<Capability> {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    Capability::up_to(63)
        .enumerate()
        .filter(|(number, _)| mask >> number & 1 == 1)
        .map(|(_, capability)| capability)
        .collect()
}

/// The device at `path`, or all devices below that directory.
///
/// # Errors
/// `InvalidArgument` where there is neither.
pub fn devices_at(path: &Path) -> Result<Vec<Device>> {
    let what = || format!("find device {}", path.display());
    let meta = std::fs::metadata(path).context(ErrorKind::InvalidArgument, what)?;
    let found =
        if meta.is_dir() { devices_below(path) } else { device(path, &meta).into_iter().collect() };
    if found.is_empty() {
        return Err(Error::new(ErrorKind::InvalidArgument, "it is none")).during(what);
    }
    Ok(found)
}

fn device(path: &Path, meta: &Metadata) -> Option<Device> {
    let kind = meta.file_type();
    (kind.is_char_device() || kind.is_block_device()).then(|| Device {
        path: path.to_owned(),
        kind: if kind.is_char_device() { 'c' } else { 'b' },
        major: rustix::fs::major(meta.rdev()),
        minor: rustix::fs::minor(meta.rdev()),
        file_mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
    })
}

/// The devices of this machine, but for those that every container has its own of.
fn devices() -> Vec<Device> {
    devices_below(Path::new("/dev"))
}

fn devices_below(dir: &Path) -> Vec<Device> {
    const OWN: [&str; 10] =
        ["pts", "shm", "fd", "mqueue", "console", "ptmx", "stdin", "stdout", "stderr", ".udev"];
    const USUAL: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let is = |names: &[&str]| names.iter().any(|known| name == *known);
            let Ok(meta) = entry.metadata() else { continue };
            if is(&OWN) || dir == Path::new("/dev") && is(&USUAL) {
                continue;
            }
            if meta.is_dir() {
                todo.push(entry.path());
            } else {
                found.extend(device(&entry.path(), &meta));
            }
        }
    }
    found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_by_their_paths() {
        let null = devices_at("/dev/null".as_ref()).unwrap();
        let told = null.iter().map(|device| (device.kind, device.major, device.minor));
        assert_eq!(told.collect::<Vec<_>>(), [('c', 1, 3)]);
        for none in ["/etc/passwd", "/no/such", "/proc/sys/vm"] {
            let error = devices_at(none.as_ref()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{none}");
        }
    }

    #[test]
    fn the_bounding_set_is_a_mask() {
        let set = bounding("Name:\tx\nCapEff:\tffff\nCapBnd:\t0000000000000401\n");
        assert_eq!(set.iter().map(|c| c.name()).collect::<Vec<_>>(), ["CHOWN", "NET_BIND_SERVICE"]);
        assert!(bounding("").is_empty());
    }
}
