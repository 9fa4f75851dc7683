//! What is looked up, and made, in the image's own tree.

use std::os::fd::AsRawFd as _;
use std::path::Path;

use dist_core::{Context as _, ErrorKind, Result};
use dist_layer::Confined;

use crate::{User, UserSpec, resolve_user};

/// Bytes that passwd and group may have.
const LIMIT: u64 = 16 << 20;

/// The tree of a container before it runs.
#[derive(Debug)]
pub struct Rootfs(Confined);

impl Rootfs {
    /// Opens the tree at `dir`.
    ///
    /// # Errors
    /// `Storage`.
    pub fn open(dir: &Path) -> Result<Self> {
        Confined::open(dir).map(Self)
    }

    /// Finds out who `spec` is here; see [`resolve_user`].
    ///
    /// # Errors
    /// `FailedPrecondition` for a name that is not there; `UnsafeLayer`; `ResourceExhausted`;
    /// `Storage`.
    pub fn user(&mut self, spec: Option<&UserSpec>) -> Result<User> {
        if spec.is_none() {
            return resolve_user(None, "", "");
        }
        let (passwd, group) = (self.text("/etc/passwd")?, self.text("/etc/group")?);
        resolve_user(spec, &passwd, &group)
    }

    /// Whether there is a directory at `path`.
    ///
    /// # Errors
    /// `UnsafeLayer`; `Storage`.
    pub fn has_dir(&mut self, path: &str) -> Result<bool> {
        self.0.open_dir(path).map(|dir| dir.is_some())
    }

    /// Makes the directory in which the command starts, where it is missing.
    ///
    /// # Errors
    /// `FailedPrecondition` where something else is in the way; `Storage`.
    pub fn make_working_dir(&mut self, path: &str) -> Result<()> {
        self.0.make_dir(path)
    }

    /// Makes the directory of a volume at `dir`: a copy of what the tree has at `path`, or an empty
    /// one.
    ///
    /// # Errors
    /// `Storage`.
    pub fn make_volume(&mut self, path: &str, dir: &Path) -> Result<()> {
        match self.0.open_dir(path)? {
            Some(source) => {
                // The dot makes it the directory, not the symlink to it.
                let source = format!("/proc/self/fd/{}/.", source.as_raw_fd());
                dist_snapshot::copy_dir(source.as_ref(), dir)
            }
            None => std::fs::create_dir(dir)
                .context(ErrorKind::Storage, || format!("make volume {}", dir.display())),
        }
    }

    /// Whether the program `name` is none that the kernel runs, as far as its first bytes tell: neither
    /// for this machine nor with `#!`. It is looked for as runtimes do, in the `PATH` of `env`.
    /// One that is not there is none of those.
    ///
    /// # Errors
    /// `UnsafeLayer`; `Storage`.
    pub fn is_no_program(&mut self, name: &str, env: &[&str], cwd: &str) -> Result<bool> {
        const HEADER: u64 = 20;
        let path = env.iter().find_map(|variable| variable.strip_prefix("PATH="));
        let places: Vec<String> = if name.contains('/') {
            let cwd = if name.starts_with('/') { "" } else { cwd };
            vec![format!("{cwd}/{name}")]
        } else {
            path.into_iter()
                .flat_map(|path| path.split(':'))
                .map(|dir| format!("{dir}/{name}"))
                .collect()
        };
        for place in places {
            if let Some(head) = self.0.read_head(&place, HEADER)? {
                return Ok(!may_run(&head) && !has_other_formats());
            }
        }
        Ok(false)
    }

    fn text(&mut self, path: &str) -> Result<String> {
        let bytes = self.0.read(path, LIMIT)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Whether the kernel itself may run what begins like that.
fn may_run(head: &[u8]) -> bool {
    // e_machine of ELF, for this machine in its ways of being one.
    let machines: &[u8] = match std::env::consts::ARCH {
        "x86_64" => &[62, 3],
        "aarch64" => &[183, 40],
        _ => &[],
    };
    match head {
        [b'#', b'!', ..] => true,
        [0x7f, b'E', b'L', b'F', _, _, _, _, _, _, _, _, _, _, _, _, _, _, machine, _] => {
            machines.is_empty() || machines.contains(machine)
        }
        _ => false,
    }
}

/// Whether somebody has told the kernel of more kinds of programs (binfmt_misc).
fn has_other_formats() -> bool {
    let entries = std::fs::read_dir("/proc/sys/fs/binfmt_misc").into_iter().flatten().flatten();
    let mut names = entries.map(|entry| entry.file_name());
    names.any(|name| name != "register" && name != "status")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_by_their_first_bytes() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(may_run(&own[..20]));
        let mut other = own[..20].to_vec();
        other[18] = 8; // MIPS
        for bad in [&b""[..], b"echo hello\n", b"\x7fELF", &other] {
            assert!(!may_run(bad), "{bad:?}");
        }
        assert!(may_run(b"#!/bin/sh\n"));
    }

    #[test]
    fn a_program_is_found_as_runtimes_find_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("bin")).unwrap();
        std::fs::write(dir.path().join("bin/text"), "words").unwrap();
        std::fs::write(dir.path().join("bin/script"), "#!/bin/sh").unwrap();
        let mut rootfs = Rootfs::open(dir.path()).unwrap();
        let env = ["A=b", "PATH=/none:/bin"];
        for (name, cwd, expected) in [
            ("text", "/", true),
            ("script", "/", false),
            ("none", "/", false),
            ("/bin/text", "/", true),
            ("./text", "/bin", true),
            ("./text", "/", false),
        ] {
            let expected = expected && !has_other_formats();
            assert_eq!(rootfs.is_no_program(name, &env, cwd).unwrap(), expected, "{name}");
        }
    }
}
