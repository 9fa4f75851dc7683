//! The binary, tested as users have it: real registries, real faults, real kills.
//!
//! One integration binary; each module is a suite and prints its seconds. What
//! needs root, an installed tool or the built images fails and says so.

#![forbid(unsafe_code)]

mod support;

mod address;
mod address_errors;
mod address_work;
mod adversarial;
mod auth;
mod backend;
mod bad_input;
mod bundle;
mod concurrency;
mod conformance;
mod containers;
mod ctr;
mod daemon;
mod daemon_access;
mod daemon_stop;
mod deaf;
mod differential;
mod discard;
mod durability;
mod faults;
mod fsck;
mod gc;
mod graph;
mod kills;
mod layers;
mod leases;
mod listing;
mod load;
mod output;
mod parts;
mod pipelines;
mod power_cut;
mod pull;
mod resume;
mod rootless;
mod sweep;
mod systemd;
mod tls;
mod trees;
mod wire;
