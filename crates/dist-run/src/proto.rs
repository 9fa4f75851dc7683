//! The messages of `proto/task.proto`.
#![expect(unreachable_pub, reason = "generated")]

include!(concat!(env!("OUT_DIR"), "/task.rs"));
