//! What the tests share: real servers, faults in front of them, images, trees
//! and the binary under test.
//!
//! Everything started here is ended by the guard that started it, on a panic
//! too: child processes die with the thread that made them, mounts are undone
//! by `Drop`. Nothing here knows the inside of the product; the binary is run
//! as a user would run it and its answers are read from outside.

#![forbid(unsafe_code)]

mod certificates;
mod cli;
mod containerd;
mod fault_proxy;
mod filesystem;
mod fixtures;
mod http;
mod process;
mod registry;
mod served;
mod store;
mod suite;
mod tree;
mod web;

pub use certificates::Certificates;
pub use cli::{Dist, Ran, Running};
pub use containerd::Containerd;
pub use fault_proxy::{Fault, FaultProxy, Gate, Rates, Request, Rule};
pub use filesystem::{Bound, Filesystem};
pub use fixtures::{Blob, Entry, Form, Image, ImageOptions, Layer, Layout, index_of};
pub use http::{Response, request};
pub use process::{Daemon, Scratch, require, run, scratch};
pub use registry::{Auth, ReferrersRegistry, Registry, RegistryOptions, TokenServer};
pub use served::Served;
pub use store::{blobs_on_disk, verify_blobs, verify_database};
pub use suite::{Timed, timed, torture};
pub use tree::{Node, Tree};
pub use web::WebServer;
