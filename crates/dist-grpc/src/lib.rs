//! containerd's public gRPC API, v1, over the engine.
//!
//! Messages, field numbers and names are containerd's, so that its clients can't tell. [`Daemon`]
//! is what all services share, [`services::routes`] puts them together.

#![forbid(unsafe_code)]

pub mod api;
mod backend;
mod bus;
mod context;
mod daemon;
mod filters;
mod gc;
pub mod services;
mod translate;

pub use context::{LEASE_HEADER, NAMESPACE_HEADER};
pub use daemon::Daemon;
