//! Containers: an image's config becomes an OCI runtime spec, a bundle, and processes of a runtime.
//!
//! [`convert`] is the pure part: OCI image-spec, conversion.md, with defaults of the field (system
//! calls, capabilities, masked paths, mounts). What must be looked up in the image's own files goes
//! through [`Rootfs`], which no symlink of the image leaves.
//!
//! [`Containers`] makes containers of a store and runs them through containerd's shims, which speak
//! ttrpc and outlive whoever started them: [`TaskClient`] is one container's task.

#![forbid(unsafe_code)]

mod bundle;
mod capability;
mod cgroup;
mod cni;
mod containers;
mod convert;
mod disposition;
mod events;
mod host;
mod image;
mod pidfd;
mod proto;
mod rootfs;
pub mod rootless;
mod runtime;
mod seccomp;
mod shim;
mod spec;
mod stats;
mod streams;
mod ttrpc;
mod user;
mod user_namespace;

pub use bundle::{Bundle, ROOTFS};
pub use capability::Capability;
pub use cni::{Cni, NetworkConfig};
pub use containers::{
    ATTACHED, AUTO_REMOVE, Containers, Made, NewContainer, NewTask, Observed, STOP_SIGNAL,
    STOP_TIMEOUT, Starting, TaskNow, Tree,
};
pub use convert::{Converted, Network, Resources, SpecOptions, convert};
pub use disposition::heeds;
pub use events::{EventSocket, ShimEvent};
pub use host::{HostFacts, devices_at};
pub use image::{ImageSettings, Settings};
pub use rootfs::Rootfs;
pub use runtime::Runtime;
pub use shim::{Ended, ProcessId, Seen, SeenPid, State, Stdio, TaskClient};
pub use spec::{Device, Mount, Spec, User};
pub use stats::Stats;
pub use streams::{Copying, Streams};
pub use ttrpc::ShimStatus;
pub use user::{UserSpec, resolve_user};
pub use user_namespace::UserNamespace;
