//! What a container uses, from what its shim tells of its cgroups, in either version.

use dist_core::{Any, Context as _, Error, ErrorKind, Result};
use prost::Message as _;

use crate::proto::metrics::{Metrics1, Metrics2};

/// What a container uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Processor time since it was started, in nanoseconds.
    pub cpu_ns: u64,
    /// Bytes of memory, without files that were not read for a while.
    pub memory: u64,
    /// Most bytes of memory, where there is a limit.
    pub memory_limit: Option<u64>,
    /// Processes and threads.
    pub pids: u64,
    /// Most of them, where there is a limit.
    pub pids_limit: Option<u64>,
    /// Bytes read from block devices.
    pub read_bytes: u64,
    /// Bytes written to them.
    pub written_bytes: u64,
}

impl Stats {
    /// Reads what [`TaskClient::stats`](crate::TaskClient::stats) has told.
    ///
    /// # Errors
    /// `Unsupported` for something else than metrics of cgroups.
    pub fn read(any: &Any) -> Result<Self> {
        let what = || "read what the shim tells of the cgroups".into();
        let bytes = any.value.as_slice();
        match any.type_url.rsplit('/').next().unwrap_or_default() {
            "io.containerd.cgroups.v1.Metrics" => Metrics1::decode(bytes)
                .context(ErrorKind::Unsupported, what)
                .map(Self::of_version_1),
            "io.containerd.cgroups.v2.Metrics" => Metrics2::decode(bytes)
                .context(ErrorKind::Unsupported, what)
                .map(Self::of_version_2),
            other => {
                let message = format!("read what the shim tells: {other:?} is not known");
                Err(Error::new(ErrorKind::Unsupported, message))
            }
        }
    }

    fn of_version_1(told: Metrics1) -> Self {
        let pids = told.pids.unwrap_or_default();
        let memory = told.memory.unwrap_or_default();
        let usage = memory.usage.unwrap_or_default();
        let blkio = told.blkio.unwrap_or_default().io_service_bytes_recursive;
        let bytes = |name: &str| {
            let entries = blkio.iter().filter(|entry| entry.op.eq_ignore_ascii_case(name));
            entries.map(|entry| entry.value).sum()
        };
        Self {
            cpu_ns: told.cpu.and_then(|cpu| cpu.usage).unwrap_or_default().total,
            memory: usage.usage.saturating_sub(memory.total_inactive_file),
            memory_limit: limit(usage.limit),
            pids: pids.current,
            pids_limit: limit(pids.limit),
            read_bytes: bytes("read"),
            written_bytes: bytes("write"),
        }
    }

    fn of_version_2(told: Metrics2) -> Self {
        let pids = told.pids.unwrap_or_default();
        let memory = told.memory.unwrap_or_default();
        let io = told.io.unwrap_or_default().usage;
        Self {
            cpu_ns: told.cpu.unwrap_or_default().usage.saturating_mul(1000),
            memory: memory.usage.saturating_sub(memory.inactive_file),
            memory_limit: limit(memory.usage_limit),
            pids: pids.current,
            pids_limit: limit(pids.limit),
            read_bytes: io.iter().map(|entry| entry.rbytes).sum(),
            written_bytes: io.iter().map(|entry| entry.wbytes).sum(),
        }
    }
}

/// A limit; what is none is told as 0 or as the largest number there is, in pages.
fn limit(value: u64) -> Option<u64> {
    const NONE: u64 = 1 << 62;
    (1..NONE).contains(&value).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::metrics::{
        Blkio1, BlkioEntry1, Cpu1, Cpu2, Io2, IoEntry2, Memory1, Memory2, MemoryEntry1, Pids,
        Usage1,
    };

    fn told(version: &str, value: Vec<u8>) -> Any {
        Any { type_url: format!("io.containerd.cgroups.{version}.Metrics"), value }
    }

    #[test]
    fn both_versions_tell_the_same() {
        let entry = |op: &str, value| BlkioEntry1 { op: op.into(), value };
        let one = Metrics1 {
            pids: Some(Pids { current: 3, limit: 20 }),
            cpu: Some(Cpu1 { usage: Some(Usage1 { total: 5_000_000 }) }),
            memory: Some(Memory1 {
                total_inactive_file: 96,
                usage: Some(MemoryEntry1 { limit: 1 << 20, usage: 4192 }),
            }),
            blkio: Some(Blkio1 {
                io_service_bytes_recursive: vec![
                    entry("Read", 7),
                    entry("Write", 8),
                    entry("Total", 15),
                    entry("read", 1),
                ],
            }),
        };
        let two = Metrics2 {
            pids: Some(Pids { current: 3, limit: 20 }),
            cpu: Some(Cpu2 { usage: 5000 }),
            memory: Some(Memory2 { inactive_file: 96, usage: 4192, usage_limit: 1 << 20 }),
            io: Some(Io2 { usage: vec![IoEntry2 { rbytes: 8, wbytes: 8 }] }),
        };
        let wanted = Stats {
            cpu_ns: 5_000_000,
            memory: 4096,
            memory_limit: Some(1 << 20),
            pids: 3,
            pids_limit: Some(20),
            read_bytes: 8,
            written_bytes: 8,
        };
        assert_eq!(Stats::read(&told("v1", one.encode_to_vec())).unwrap(), wanted);
        assert_eq!(Stats::read(&told("v2", two.encode_to_vec())).unwrap(), wanted);
    }

    #[test]
    fn no_limit_is_none() {
        assert_eq!(Stats::read(&told("v1", Vec::new())).unwrap(), Stats::default());
        for none in [0, u64::MAX, 0x7fff_ffff_ffff_f000] {
            assert_eq!(limit(none), None, "{none}");
        }
        let error = Stats::read(&told("v9", Vec::new())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}
