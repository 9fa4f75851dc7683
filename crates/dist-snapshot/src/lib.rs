//! Snapshotters: stacks of layers as directories and mounts.
//!
//! `overlayfs` keeps each layer in a directory of its own and lets the kernel stack them; `erofs` does
//! the same with images; `native` keeps whole copies. All share the records of [`dist_store::SnapshotStore`] and the layout
//!
//! ```text
//! ROOT/snapshots/<snapshotter>/<id>/fs
//! ```
//!
//! but for what `erofs` has committed: that is one file, `<id>.erofs`.
//!
//! Whoever dies at any point leaks at most a directory, which [`purge`] removes, or a row whose
//! snapshot was never whole, which the next `prepare` of that key or a `remove` takes away.

#![forbid(unsafe_code)]

mod attributes;
mod check;
mod copy;
mod dirs;
mod driver;
mod erofs;
mod layout;
pub mod mount;
mod mounted;
mod native;
mod open;
mod overlay;
mod purge;
mod snapshots;
mod tree;
mod usage;

pub use check::{check, rebuild, remove_unfinished, tree_dir};
pub use copy::copy_dir;
pub use dirs::remove_tree;
pub use open::{
    NAMES, all, can_rebase, default_name, image_dirs, image_form, is_allowed, known, layer_dirs,
    open,
};
pub use purge::{
    Leftover, directory_bytes, disk_bytes, empty_trash, leftovers, purge, purge_measured,
};
