//! Capabilities by name (capabilities(7)).

use std::fmt;
use std::str::FromStr;

use dist_core::{Error, ErrorKind};
use serde::{Serialize, Serializer};

/// All of them, by number.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container has where nobody says otherwise.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// One capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Capability(&'static str);

impl Capability {
    /// Those that a kernel knows whose last one has the number `last`.
    pub fn up_to(last: usize) -> impl Iterator<Item = Self> {
        NAMES.into_iter().take(last.saturating_add(1)).map(Self)
    }

    /// Those that a container has where nobody says otherwise.
    pub fn defaults() -> impl Iterator<Item = Self> {
        DEFAULT.into_iter().map(Self)
    }

    /// Its name, without `CAP_`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0
    }
}

impl FromStr for Capability {
    type Err = Error;

    /// Reads a name, with or without `CAP_`, in capitals or not.
    fn from_str(text: &str) -> Result<Self, Error> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        NAMES.into_iter().find(|known| *known == name).map(Self).ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidArgument,
                format!("read capability {text:?}: there is none"),
            )
        })
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CAP_{}", self.0)
    }
}

impl Serialize for Capability {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for text in ["CAP_NET_ADMIN", "NET_ADMIN", "net_admin", "cap_net_admin"] {
            assert_eq!(text.parse::<Capability>().unwrap().to_string(), "CAP_NET_ADMIN");
        }
        assert!("NET".parse::<Capability>().is_err());
        assert_eq!(Capability::up_to(0).collect::<Vec<_>>(), [Capability("CHOWN")]);
        assert_eq!(Capability::up_to(99).count(), NAMES.len());
        assert!(Capability::defaults().all(|default| NAMES.contains(&default.name())));
    }
}
