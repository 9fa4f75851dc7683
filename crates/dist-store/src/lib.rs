//! One root directory that holds everything `dist` keeps.
//!
//! ```text
//! ROOT/                         mode 0700
//!   format                      version and feature flags
//!   uuid                        what tells this store from others, once somebody has asked
//!   meta.db meta.lock           rows: images, labels, snapshot records, leases, which namespace has a blob
//!   content/blobs/<alg>/<hex>   committed blobs, 0444, complete from the moment they have a name
//!   content/ingest/<sha256 of namespace NUL key>/{ref,namespace,data,total,expected,...}
//!   snapshots/                  the directories of snapshots
//!   locks/ quarantine/ trash/
//!   reserve                     space that is given away when the disk is full
//! ```
//!
//! Any number of threads and processes use one root at the same time. A [`Store`] is opened once
//! and cloned; it gives out a [`ContentStore`], an [`ImageStore`] and the like for a [`Scope`]: a
//! namespace, and the lease into which goes what is made. Blobs are shared by all namespaces, rows
//! say which of them has which.
//!
//! A blob that has a row is on the disk, synced, before the call that made the row returns (unless
//! the store was opened with [`Durability::None`]). Snapshot records are settled later, see
//! [`Store::settle`].
//!
//! ```
//! use std::io::{Read as _, Write as _};
//!
//! use dist_core::{Cancel, Digest, Expected, Ingest, Ingester as _, Namespace, Provider as _};
//! use dist_store::{Store, StoreOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let root = dir.path().join("root");
//! let content = Store::open(&root, StoreOptions::default())?.content(Namespace::default());
//! let bytes = b"some content";
//! let digest = Digest::sha256(bytes);
//! let expected = Expected { digest: Some(digest), size: Some(bytes.len() as u64) };
//! match content.ingest(&"some key".parse()?, expected, &Cancel::default())? {
//!     Ingest::Exists(_) => (),
//!     Ingest::Writer(mut writer) => {
//!         let written = usize::try_from(writer.offset())?; // by a process that was killed
//!         writer.write_all(&bytes[written..])?;
//!         writer.commit(expected)?;
//!     }
//! }
//! let mut read = Vec::new();
//! content.open(&digest)?.file.read_to_end(&mut read)?;
//! assert_eq!(read, bytes);
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod blobs;
mod check;
mod containers;
mod db;
mod discard;
mod documents;
mod durability;
mod format;
mod fsio;
mod gc;
mod identity;
mod images;
mod ingest;
mod labels;
mod leases;
mod locks;
mod namespaces;
mod quarantine;
mod registration;
mod reserve;
mod rows;
mod schema;
mod scope;
mod snapshots;
mod store;
mod trash;

pub use blobs::ContentStore;
pub use check::{
    BlobOwner, Checked, DamagedDatabase, Finding, Problem, SnapshotRow, Subject,
    is_database_damaged,
};
pub use containers::ContainerStore;
pub use db::Db;
pub use discard::{Discarded, FETCHED, NamedBy, OPERATION, UnpackedLayer, discarded_label};
pub use documents::{Known, Outlined};
pub use durability::{Durability, SETTLE_DIRTY_BYTES, SettleMode, Settled};
pub use format::Feature;
pub use gc::{Collected, Explanation, GcOptions, Leak, Object, Reason, Removed, Step, Why};
pub use images::{ImageChange, ImageStore};
pub use ingest::{INGEST_LIFETIME, IngestEntry, IngestWriter, Sharing};
pub use leases::LeaseStore;
pub use locks::LockGuard;
pub use namespaces::NamespaceStore;
pub use quarantine::{QUARANTINE_LIFETIME, Quarantined};
pub use registration::Registration;
pub use scope::Scope;
pub use snapshots::{SnapshotId, SnapshotRecord, SnapshotStore};
pub use store::{OpenMode, Store, StoreOptions};
pub use trash::{Emptier, Removal};
