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
mod containers;
mod convert;
mod host;
mod image;
mod pidfd;
mod proto;
mod rootfs;
mod runtime;
mod seccomp;
mod shim;
mod spec;
mod streams;
mod ttrpc;
mod user;

pub use bundle::{Bundle, ROOTFS};
pub use capability::Capability;
pub use containers::{
    ATTACHED, AUTO_REMOVE, Containers, NewContainer, Observed, STOP_SIGNAL, STOP_TIMEOUT,
};
pub use convert::{Converted, Network, Resources, SpecOptions, convert};
pub use host::HostFacts;
pub use image::{ImageSettings, Settings};
pub use rootfs::Rootfs;
pub use runtime::Runtime;
pub use shim::{ProcessId, State, Stdio, TaskClient};
pub use spec::{Mount, Spec, User};
pub use streams::{Copying, Streams};
pub use user::{UserSpec, resolve_user};
