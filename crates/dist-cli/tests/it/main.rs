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
mod archives;
mod artifacts;
mod attach;
mod auth;
mod backend;
mod bad_input;
mod budgets;
mod bundle;
mod bundles;
mod cat;
mod concurrency;
mod conformance;
mod containers;
mod copy;
mod copy_store;
mod ctr;
mod daemon;
mod daemon_access;
mod daemon_stop;
mod deaf;
mod diff;
mod differential;
mod discard;
mod durability;
mod faults;
mod fsck;
mod gc;
mod graph;
mod hosts;
mod kills;
mod layers;
mod leases;
mod listing;
mod load;
mod machine;
mod mirrors;
mod networks;
mod output;
mod parts;
mod pipelines;
mod policy;
mod policy_names;
mod power_cut;
mod proxies;
mod pull;
mod push;
mod registries_conf;
mod resume;
mod rootless;
mod rootless_containers;
mod round_trips;
mod run_images;
mod sweep;
mod sync;
mod systemd;
mod tags;
mod tasks;
mod tls;
mod trees;
mod unread;
mod upload_kills;
mod validate;
mod web;
mod wire;
