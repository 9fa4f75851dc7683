//! containerd's public gRPC API, v1, over the engine.
//!
//! Messages, field numbers and names are containerd's, so that its clients can't tell. [`Daemon`]
//! is what all services share, [`server::serve`] listens for requests.

#![forbid(unsafe_code)]

mod answer;
pub mod api;
mod backend;
mod bus;
pub mod client;
mod context;
mod daemon;
mod filters;
mod gc;
mod mask;
mod metrics;
mod plugins;
pub mod server;
mod services;
mod settle;
mod shims;
mod streams;
mod translate;
mod trash;
mod typed;

pub use context::{LEASE_HEADER, NAMESPACE_HEADER};
pub use daemon::{Daemon, DaemonOptions};
pub use gc::GcSchedule;
