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

mod addresses;
mod archives;
mod artifacts;
mod blocking;
mod bundle;
mod collect;
mod compare;
mod copy;
mod created;
mod diff;
mod directories;
mod discard;
mod engine;
mod export;
mod fetch;
mod file;
mod flow;
mod fsck;
mod host;
mod import;
mod ingest;
mod input;
mod layers;
mod operation;
mod parts;
mod plain;
mod policy;
mod present;
mod pull;
mod push;
mod references;
mod remotes;
mod restore;
mod servers;
mod session;
mod sources;
mod stored;
mod streams;
mod survey;
mod sync;
mod there;
mod unpack;
mod validate;
mod whole_file;

pub use addresses::read_address;
pub use archives::write::ReaderGone;
pub use artifacts::{Artifact, Attachment, attach, referrers};
pub use bundle::{
    BundleOptions, Bundled, CheckedBundle, Loaded, ToBundle, load_bundle, missing_of_bundle,
    open_bundle, verify_bundle, write_bundle,
};
pub use collect::collect;
pub use compare::{
    CompareOptions, Comparison, FieldChange, FileChange, FileStatus, LayerChanges, Side, compare,
    shared_layers,
};
pub use copy::{Copied, CopyOptions, ReferrersUnknown, check_pinned, copy, copy_into_store};
pub use diff::{ApplyBlob, DiffBlob, UNCOMPRESSED_LABEL, apply_blob, diff_blob, write_diff};
pub use engine::{Engine, EngineConfig};
pub use export::{ExportOptions, Exported, export};
pub use fetch::{FetchOptions, Platforms, default_jobs, fetch, fetch_blob};
pub use file::read_file;
pub use fsck::{FsckOptions, Fscked, Outcome, fsck};
pub use host::{Contents, Host, Images, Local, Puller};
pub use import::{DigestNames, ImportOptions, Naming, import};
pub use layers::{Layer, Plan, find_manifest, read_document};
pub use operation::{Operation, Operations};
pub use plain::{
    fetch_document, fetch_manifest, stored_fetcher, unpack_stored_to_directory, unpack_to_directory,
};
pub use policy::{Approval, POLICY_LABEL, PolicyFile, SignForm, SignOptions, count_programs, sign};
pub use pull::{PullOptions, Pulled, Unpacking, Wanted, describe, pull, pull_as, unpack_manifest};
pub use push::{PushOptions, push, pushed};
pub use remotes::{Remotes, Scheme};
pub use restore::{Restored, restore, restore_images};
pub use session::{failed_lease_labels, lease_labels, root_label};
pub use stored::StoredImages;
pub use survey::{Held, Survey};
pub use sync::{SyncItem, SyncOptions, SyncOutcome, Synced, TagFilter, TagRules, sync};
pub use there::{has_rest, platforms_there};
pub use validate::{Flaw, ValidateOptions, Validated, describe_blob, validate};
pub use whole_file::WholeFile;
