//! Containers: an image's config becomes an OCI runtime spec, a bundle, and processes of a runtime.
//!
//! [`convert`] is the pure part: OCI image-spec, conversion.md, with defaults of the field (system
//! calls, capabilities, masked paths, mounts). What must be looked up in the image's own files goes
//! through [`Rootfs`], which no symlink of the image leaves.

#![forbid(unsafe_code)]

mod bundle;
mod capability;
mod convert;
mod host;
mod image;
mod rootfs;
mod seccomp;
mod spec;
mod user;

pub use bundle::{Bundle, ROOTFS};
pub use capability::Capability;
pub use convert::{Converted, Network, Resources, SpecOptions, convert};
pub use host::HostFacts;
pub use image::{ImageSettings, Settings};
pub use rootfs::Rootfs;
pub use spec::{Mount, Spec, User};
pub use user::{UserSpec, resolve_user};
