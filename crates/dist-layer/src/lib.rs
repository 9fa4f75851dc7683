//! Layers as bytes and layers as trees.
//!
//! A layer is a tar, perhaps compressed (OCI image-spec, layer.md). [`LayerApplier`] unpacks it
//! while its bytes arrive: [`decompress`] inflates and counts them, the tar reader refuses every
//! malformed one with its offset, and the unpacker makes each entry beneath one directory that
//! nothing in the layer can leave. One pass, no threads (but one for inflating,
//! while one of [`ApplyOptions::cores`] is idle), and memory that does not grow with the layer's size
//! (only with its number of directories).
//!
//! [`LayerDiffer`] goes the other way: it compares two trees and writes what differs as a tar, and
//! [`Compressor`] compresses that.

#![forbid(unsafe_code)]

mod acl;
mod apply;
mod archive;
mod audit;
mod beneath;
mod compression;
mod confined;
mod cores;
mod diff;
mod erofs;
mod inherit;
mod ledger;
mod limits;
mod listing;
mod look;
mod merge;
mod name;
mod tar;
mod warnings;
mod whiteout;
mod xattrs;

pub use apply::LayerApplier;
pub use archive::{ArchiveEntry, ArchiveEntryKind, ArchiveReader, link_in_archive};
pub use audit::{LayerFlaw, Severity, audit_layer};
pub use compression::{Compressor, Recipe, decompress, detect};
pub use confined::Confined;
pub use cores::Cores;
pub use diff::{DiffOptions, LayerDiffer, first_difference};
pub use erofs::{
    ErofsOptions, erofs_tar, final_image_path, image_path, inherit_erofs_dirs, new_image_path,
    open_erofs, write_erofs, write_erofs_dir,
};
pub use inherit::inherit_dirs;
pub use limits::{ApplyOptions, Limits};
pub use listing::{LayerListing, Node, NodeKind, list_layer};
pub use look::{Said, Spool, look_up};
