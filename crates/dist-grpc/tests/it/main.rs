//! The API over unix sockets, asked with the generated clients.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod archives;
mod backend;
mod containers;
mod content;
#[cfg(ctr2)]
mod ctr2;
mod diff;
mod gc;
mod health;
mod hostile;
mod metadata;
mod requests;
mod snapshots;
mod streams;
mod support;
mod transfers;
