//! The part of the OCI runtime spec that we write (runtime-spec 1.0.2, config.md and
//! config-linux.md). Whoever changes somebody else's spec works on its JSON instead.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use crate::Capability;

/// The version of the runtime spec that is written.
pub(crate) const VERSION: &str = "1.0.2";

/// `config.json` of a bundle.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are those of the runtime spec")]
pub struct Spec {
    pub oci_version: &'static str,
    pub process: Process,
    pub root: Root,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    pub mounts: Vec<Mount>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    pub linux: Linux,
}

/// `process`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub terminal: bool,
    pub user: User,
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub cwd: String,
    pub capabilities: Capabilities,
    pub rlimits: Vec<Rlimit>,
    pub no_new_privileges: bool,
}

/// `process.user`: numbers, as the kernel has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// More groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub additional_gids: Vec<u32>,
}

/// `process.capabilities`.
#[derive(Clone, Debug, Serialize)]
pub struct Capabilities {
    pub bounding: Vec<Capability>,
    pub effective: Vec<Capability>,
    pub permitted: Vec<Capability>,
}

/// An element of `process.rlimits`.
#[derive(Clone, Debug, Serialize)]
pub struct Rlimit {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub soft: u64,
    pub hard: u64,
}

/// `root`.
#[derive(Clone, Debug, Serialize)]
pub struct Root {
    pub path: PathBuf,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub readonly: bool,
}

/// An element of `mounts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Where in the container.
    pub destination: String,
    /// The file system; `bind` for a bind mount.
    #[serde(rename = "type")]
    pub kind: String,
    /// What is mounted. The source of a bind mount is relative to the bundle where it is relative.
    pub source: PathBuf,
    /// Options, as `mount -o` takes them.
    pub options: Vec<String>,
}

impl Mount {
    /// A bind mount.
    #[must_use]
    pub fn bind(source: impl Into<PathBuf>, destination: &str, read_only: bool) -> Self {
        let options = ["rbind", "rprivate", if read_only { "ro" } else { "rw" }];
        let (destination, source) = (destination.to_owned(), source.into());
        Self { destination, kind: "bind".into(), source, options: options.map(Into::into).into() }
    }

    pub(crate) fn new(destination: &str, kind: &str, source: &str, options: &[&str]) -> Self {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Self { destination: destination.into(), kind: kind.into(), source: source.into(), options }
    }
}

/// `linux`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Linux {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroups_path: Option<String>,
    pub resources: LinuxResources,
    pub namespaces: Vec<Namespace>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<Seccomp>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub masked_paths: Vec<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub readonly_paths: Vec<&'static str>,
}

/// `linux.resources`.
#[derive(Clone, Debug, Serialize)]
pub struct LinuxResources {
    pub devices: Vec<DeviceRule>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<Pids>,
}

/// An element of `linux.resources.devices`.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceRule {
    pub allow: bool,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<char>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub major: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minor: Option<u32>,
    pub access: String,
}

/// `linux.resources.memory`.
#[derive(Clone, Debug, Serialize)]
pub struct Memory {
    pub limit: u64,
}

/// `linux.resources.cpu`.
#[derive(Clone, Debug, Serialize)]
pub struct Cpu {
    pub quota: i64,
    pub period: u64,
}

/// `linux.resources.pids`.
#[derive(Clone, Debug, Serialize)]
pub struct Pids {
    pub limit: i64,
}

/// An element of `linux.namespaces`: a new one, or the one at a path.
#[derive(Clone, Debug, Serialize)]
pub struct Namespace {
    #[serde(rename = "type")]
    pub kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
}

/// An element of `linux.devices`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// Where in the container.
    pub path: PathBuf,
    /// `c` or `b`.
    #[serde(rename = "type")]
    pub kind: char,
    /// Its number.
    pub major: u32,
    /// Its number.
    pub minor: u32,
    /// Its permissions.
    pub file_mode: u32,
    /// Whose it is.
    pub uid: u32,
    /// Whose it is.
    pub gid: u32,
}

/// `linux.seccomp`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Seccomp {
    pub default_action: &'static str,
    pub default_errno_ret: u32,
    pub architectures: &'static [&'static str],
    pub syscalls: Vec<Syscall>,
}

/// An element of `linux.seccomp.syscalls`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Syscall {
    pub names: Vec<&'static str>,
    pub action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno_ret: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<SyscallArg>,
}

/// An element of `linux.seccomp.syscalls[].args`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SyscallArg {
    pub index: u32,
    pub value: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_two: Option<u64>,
    pub op: &'static str,
}
