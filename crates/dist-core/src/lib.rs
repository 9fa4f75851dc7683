//! The vocabulary of `dist`: the types and traits that two other crates name.
//!
//! Nothing here does I/O of its own and nothing needs a runtime. Content is
//! named by [`Digest`], described by [`Descriptor`], read through [`Provider`],
//! written through [`Ingester`], found by a [`Resolver`], walked by a
//! [`Handler`], and turned into file systems by [`Applier`] and
//! [`Snapshotter`].

#![forbid(unsafe_code)]

mod container;
mod content;
mod descriptor;
mod diff;
mod digest;
mod error;
mod extents;
pub mod filter;
mod handler;
mod image;
mod labels;
mod lease;
mod manifest;
mod media_type;
mod mount;
mod name;
mod outline;
mod platform;
mod progress;
mod reference;
mod remote;
mod small_file;
mod snapshot;
mod stage;
mod text;

pub use container::{Any, Container, ContainerId, Exit, Task};
pub use content::{
    Blob, BreakOff, Committed, Expected, Info, Ingest, IngestKey, IngestStatus, Ingester, Parts,
    Provider, Writer,
};
pub use descriptor::Descriptor;
pub use diff::{Applied, Applier, Diffed, Differ, Warning};
pub use digest::{ChainId, DiffId, Digest, DigestError, Hasher, chain_ids};
pub use error::{
    ContentMismatch, Context, DamagedStore, Error, ErrorKind, Limit, Result, ResultExt,
};
pub use extents::Extents;
pub use filter::{Fields, Filter};
pub use handler::{
    Handler, MAX_DEPTH, Visit, children, dispatch, read_verified, select_platform, walk,
};
pub use image::{Image, ImageName, Namespace};
pub use labels::{
    DISCARDED, DISTRIBUTION_SOURCE, GC_EXPIRE, GC_REF_CONTENT, GC_REF_SNAPSHOT, GC_ROOT,
    LabelChange, Labels, SNAPSHOT_REF, UNCOMPRESSED, check_labels,
};
pub use lease::{Lease, LeaseId, Resource};
pub use manifest::{Document, ImageConfig, Index, MAX_DOCUMENT_BYTES, Manifest};
pub use media_type::{Compression, MediaType};
pub use mount::Mount;
pub use name::NameError;
pub use outline::Outline;
pub use platform::{Platform, PlatformError};
pub use progress::{Cancel, CancelGuard, Event, Progress};
pub use reference::{Reference, ReferenceError};
pub use remote::{ByteStream, Fetcher, Pushed, Pusher, Referrer, Resolved, Resolver, scheme};
pub use small_file::{MOST_OF_A_FILE, read_small, read_small_text};
pub use snapshot::{LayerForm, SnapshotInfo, SnapshotKey, SnapshotKind, Snapshotter, Usage};
pub use stage::{Entered, Meter, Running, Stage, Timings, enter};
pub use text::on_line;
