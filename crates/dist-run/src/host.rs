//! What a spec depends on beside the image: the kernel and the limits of this machine.

use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::Capability;
use crate::spec::Device;

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
            devices: devices(),
        }
    }
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

/// The devices of this machine, but for those that every container has its own of.
fn devices() -> Vec<Device> {
    const OWN: [&str; 10] =
        ["pts", "shm", "fd", "mqueue", "console", "ptmx", "stdin", "stdout", "stderr", ".udev"];
    const USUAL: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
    let mut found = Vec::new();
    let mut todo = vec![PathBuf::from("/dev")];
    while let Some(dir) = todo.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let is = |names: &[&str]| names.iter().any(|known| name == *known);
            let Ok(meta) = entry.metadata() else { continue };
            if is(&OWN) || dir == Path::new("/dev") && is(&USUAL) {
                continue;
            }
            let kind = meta.file_type();
            if kind.is_dir() {
                todo.push(entry.path());
            } else if kind.is_char_device() || kind.is_block_device() {
                found.push(Device {
                    path: entry.path(),
                    kind: if kind.is_char_device() { 'c' } else { 'b' },
                    major: rustix::fs::major(meta.rdev()),
                    minor: rustix::fs::minor(meta.rdev()),
                    file_mode: meta.mode() & 0o7777,
                    uid: meta.uid(),
                    gid: meta.gid(),
                });
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
    fn the_bounding_set_is_a_mask() {
        let set = bounding("Name:\tx\nCapEff:\tffff\nCapBnd:\t0000000000000401\n");
        assert_eq!(set.iter().map(|c| c.name()).collect::<Vec<_>>(), ["CHOWN", "NET_BIND_SERVICE"]);
        assert!(bounding("").is_empty());
    }
}
