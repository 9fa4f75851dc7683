//! The messages of `proto/task.proto` and `proto/metrics.proto`.
#![expect(unreachable_pub, reason = "generated")]

include!(concat!(env!("OUT_DIR"), "/task.rs"));

/// What a shim tells of cgroups.
pub(crate) mod metrics {
    include!(concat!(env!("OUT_DIR"), "/metrics.rs"));
}
