//! One suite for every snapshotter: what containerd's clients count on, and what a crash may leave.
//!
//! Really mounts, so it needs root; what it mounts it unmounts, on a panic too.

#![expect(clippy::unwrap_used, reason = "a test says why by panicking")]

mod boots;
mod commands;
mod copy;
mod images;
mod kill;
mod layers;
mod namespaces;
mod records;
mod support;
mod threads;
mod trees;
