//! Which runtime, and which shim drives it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use dist_core::{Any, Error, ErrorKind, Result};
use prost::Message as _;

use crate::proto::RuncOptions;

/// The shim of runtimes that have `runc`'s command line.
const RUNC_V2: &str = "io.containerd.runc.v2";

const OPTIONS: &str = "containerd.runc.v1.Options";

/// Runtimes that are taken where none is named, the first one that is there: crun takes a fraction of
/// runc's time and memory to make and to end a container.
const USUAL: [&str; 2] = ["crun", "runc"];

/// A runtime, as a container's record has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// The name of the shim's runtime.
    pub name: String,
    /// What the shim is told.
    pub options: Option<Any>,
}

impl Runtime {
    /// Whether its shim can be started before there is a spec: it only looks there for whom to share
    /// a process with, and those of one container each share none.
    pub(crate) fn starts_without_spec(&self) -> bool {
        self.name == RUNC_V2
    }

    /// Finds a runtime: a program with `runc`'s command line by its name or path, or a shim by the
    /// name of its runtime, as `io.containerd.runsc.v1`. `state` is where such a program keeps what
    /// it knows; `path` is where programs are looked for.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn find(asked: Option<&str>, state: &Path, path: Option<&OsStr>) -> Result<Self> {
        if let Some(name) = asked
            && name.starts_with("io.containerd.")
            && name != RUNC_V2
        {
            return Ok(Self { name: name.to_owned(), options: None });
        }
        let asked = asked.filter(|name| *name != RUNC_V2);
        let names = match asked {
            Some(name) => vec![name],
            None if both_kinds_of_cgroups() => USUAL.into_iter().rev().collect(),
            None => USUAL.to_vec(),
        };
        let Some(binary) = names.iter().find_map(|name| find_program(name, path)) else {
            let message = format!("find runtime {}: there is no such program", names.join(" or "));
            return Err(Error::new(ErrorKind::NotFound, message));
        };
        let options = RuncOptions {
            binary_name: binary.to_string_lossy().into_owned(),
            root: state.to_string_lossy().into_owned(),
        };
        let options = Any { type_url: OPTIONS.to_owned(), value: options.encode_to_vec() };
        Ok(Self { name: RUNC_V2.to_owned(), options: Some(options) })
    }
}

/// Whether controllers are spread over both versions of cgroups, which crun refuses to work with.
fn both_kinds_of_cgroups() -> bool {
    let controllers = std::fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers");
    controllers.is_ok_and(|controllers| !controllers.trim().is_empty())
}

/// What a shim of [`RUNC_V2`] is told: `options`, with `state` for the place where the runtime keeps
/// what it knows, where they name none. Those of other shims are as they are.
pub(crate) fn options_at(runtime: &str, options: Option<&Any>, state: &Path) -> Option<Any> {
    if runtime != RUNC_V2 || options.is_some_and(|any| any.type_url != OPTIONS) {
        return options.cloned();
    }
    let mut value = options.map(|any| any.value.clone()).unwrap_or_default();
    if RuncOptions::decode(&*value).is_ok_and(|options| options.root.is_empty()) {
        let root = state.to_string_lossy().into_owned();
        // Messages one behind the other are one message, whatever else is in the first.
        value.extend(RuncOptions { root, ..RuncOptions::default() }.encode_to_vec());
    }
    Some(Any { type_url: OPTIONS.to_owned(), value })
}

/// The program of the shim for a runtime: of `io.containerd.NAME.VERSION` it is
/// `containerd-shim-NAME-VERSION`; a path is its own.
///
/// # Errors
/// `InvalidArgument` for another kind of name; `NotFound`.
pub(crate) fn find_shim(runtime: &str, path: Option<&OsStr>) -> Result<PathBuf> {
    if runtime.starts_with('/') {
        let message = || format!("find shim {runtime}: there is no such program");
        let found = find_program(runtime, None);
        return found.ok_or_else(|| Error::new(ErrorKind::NotFound, message()));
    }
    let mut parts = runtime.rsplit('.');
    let (Some(version), Some(name), Some(_)) = (parts.next(), parts.next(), parts.next()) else {
        let message = format!("find the shim of runtime {runtime:?}: that is no name of one");
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    };
    let program = format!("containerd-shim-{name}-{version}");
    find_program(&program, path).ok_or_else(|| {
        let message = format!("find shim {program}: there is no such program");
        Error::new(ErrorKind::NotFound, message)
    })
}

/// A program by its path, or by its name in the directories of `path` and in those of
/// administrators.
fn find_program(name: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let is_program = |path: &Path| {
        std::fs::metadata(path)
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if name.contains('/') {
        return std::path::absolute(name).ok().filter(|path| is_program(path));
    }
    let dirs = path.map(std::env::split_paths).into_iter().flatten();
    let more = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    dirs.chain(more).map(|dir| dir.join(name)).find(|path| path.is_absolute() && is_program(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_by_name() {
        let path = Some(OsStr::new("/usr/bin:/bin"));
        let find = |name| Runtime::find(name, Path::new("/state"), path);
        let shell = find(Some("sh")).unwrap();
        assert_eq!(shell.name, RUNC_V2);
        let options = RuncOptions::decode(&*shell.options.unwrap().value).unwrap();
        assert_eq!(
            (options.root.as_str(), options.binary_name.as_str()),
            ("/state", "/usr/bin/sh")
        );
        assert!(find(Some("/bin/sh")).is_ok());
        let other = find(Some("io.containerd.runsc.v1")).unwrap();
        assert_eq!((other.name.as_str(), other.options), ("io.containerd.runsc.v1", None));
        for name in ["no-such-runtime", "/etc/passwd", "/nowhere/runc"] {
            assert_eq!(find(Some(name)).unwrap_err().kind(), ErrorKind::NotFound, "{name}");
        }
        for (runtime, options, root) in [
            (RUNC_V2, None, "/state"),
            (
                RUNC_V2,
                Some(RuncOptions { binary_name: "crun".into(), root: String::new() }),
                "/state",
            ),
            (
                RUNC_V2,
                Some(RuncOptions { binary_name: "crun".into(), root: "/own".into() }),
                "/own",
            ),
        ] {
            let any = options.as_ref().map(|options| Any {
                type_url: OPTIONS.into(),
                value: [&options.encode_to_vec()[..], b"\x48\x01"].concat(),
            });
            let told = options_at(runtime, any.as_ref(), Path::new("/state")).unwrap();
            assert_eq!(told.value.windows(2).any(|two| two == b"\x48\x01"), any.is_some());
            let told = RuncOptions::decode(&*told.value).unwrap();
            let binary = options.map(|options| options.binary_name).unwrap_or_default();
            assert_eq!((told.root.as_str(), told.binary_name), (root, binary));
        }
        let other = Some(Any { type_url: "other".into(), value: vec![1] });
        for runtime in [RUNC_V2, "io.containerd.runsc.v1"] {
            assert_eq!(options_at(runtime, other.as_ref(), Path::new("/state")), other);
        }
        assert_eq!(options_at("io.containerd.runsc.v1", None, Path::new("/state")), None);
        assert_eq!(find_shim("/bin/sh", None).unwrap(), Path::new("/bin/sh"));
        assert_eq!(find_shim("/no/shim", None).unwrap_err().kind(), ErrorKind::NotFound);
        let error = find_shim("io.containerd.none.v9", path).unwrap_err();
        assert!(error.to_string().contains("containerd-shim-none-v9"), "{error}");
        assert_eq!(find_shim("runc", path).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}
