//! The engine of `dist`: resolve, fetch, unpack and register images over one root directory.
//!
//! ```no_run
//! # async fn f(config: dist::EngineConfig) -> dist_core::Result<()> {
//! let engine = dist::Engine::open(config)?;
//! let pulled =
//!     dist::pull(&engine, "docker.io/library/redis:7", &Default::default(), std::sync::Arc::new(())).await?;
//! println!("{}@{}", pulled.image.name, pulled.image.target.digest);
//! # Ok(()) }
//! ```

#![forbid(unsafe_code)]

mod blocking;
mod collect;
mod created;
mod diff;
mod discard;
mod engine;
mod export;
mod fetch;
mod flow;
mod fsck;
mod host;
mod import;
mod ingest;
mod layers;
mod operation;
mod parts;
mod plain;
mod present;
mod pull;
mod push;
mod references;
mod remotes;
mod restore;
mod servers;
mod session;
mod sources;
mod survey;
mod unpack;

pub use collect::collect;
pub use diff::{ApplyBlob, DiffBlob, UNCOMPRESSED_LABEL, apply_blob, diff_blob, write_diff};
pub use engine::{Engine, EngineConfig};
pub use export::{ExportOptions, export};
pub use fetch::{FetchOptions, Platforms, default_jobs, fetch, fetch_blob};
pub use fsck::{FsckOptions, Fscked, Outcome, fsck};
pub use host::{Contents, Host, Images, Local, Puller};
pub use import::{DigestNames, ImportOptions, Naming, import};
pub use layers::{Layer, Plan, read_document};
pub use operation::{Operation, Operations};
pub use plain::{fetch_document, unpack_stored_to_directory, unpack_to_directory};
pub use pull::{PullOptions, Pulled, Unpacking, Wanted, describe, pull, pull_as, unpack_manifest};
pub use push::{PushOptions, push};
pub use remotes::Remotes;
pub use restore::{Restored, restore, restore_images};
pub use session::{failed_lease_labels, lease_labels, root_label};
pub use survey::{Held, Survey};
