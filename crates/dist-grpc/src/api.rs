//! The messages, servers and clients that `proto/` describes, one module a protobuf package.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::nursery,
    reason = "generated from proto/"
)]

tonic::include_proto!("api");

/// The descriptors of all files in `proto/`, encoded, for server reflection.
pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("descriptors");
