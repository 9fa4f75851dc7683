//! Mount options as the kernel's calls want them.

use rustix::mount::{MountAttrFlags, MountFlags};

/// What `mount(2)` takes: a page with the zero at its end.
pub(crate) const MAX_OPTION_BYTES: usize = 4095;

/// The options of one mount, sorted by who reads them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options<'a> {
    /// For the mount itself, in the words of `mount(2)`.
    pub(crate) flags: Vec<Flag>,
    /// `bind` or `rbind`, with whether it takes the mounts below along.
    pub(crate) bind: Option<bool>,
    /// For the file system, in their order.
    pub(crate) data: Vec<(&'a str, Option<&'a str>)>,
}

/// A property of a mount that is not its file system's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flag {
    ReadOnly,
    NoSuid,
    NoDev,
    NoExec,
    NoAtime,
    NoDirAtime,
    RelAtime,
    StrictAtime,
}

impl Flag {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "ro" => Self::ReadOnly,
            "nosuid" => Self::NoSuid,
            "nodev" => Self::NoDev,
            "noexec" => Self::NoExec,
            "noatime" => Self::NoAtime,
            "nodiratime" => Self::NoDirAtime,
            "relatime" => Self::RelAtime,
            "strictatime" => Self::StrictAtime,
            _ => return None,
        })
    }

    fn for_mount(self) -> MountFlags {
        match self {
            Self::ReadOnly => MountFlags::RDONLY,
            Self::NoSuid => MountFlags::NOSUID,
            Self::NoDev => MountFlags::NODEV,
            Self::NoExec => MountFlags::NOEXEC,
            Self::NoAtime => MountFlags::NOATIME,
            Self::NoDirAtime => MountFlags::NODIRATIME,
            Self::RelAtime => MountFlags::RELATIME,
            Self::StrictAtime => MountFlags::STRICTATIME,
        }
    }

    fn for_fsmount(self) -> MountAttrFlags {
        match self {
            Self::ReadOnly => MountAttrFlags::MOUNT_ATTR_RDONLY,
            Self::NoSuid => MountAttrFlags::MOUNT_ATTR_NOSUID,
            Self::NoDev => MountAttrFlags::MOUNT_ATTR_NODEV,
            Self::NoExec => MountAttrFlags::MOUNT_ATTR_NOEXEC,
            Self::NoAtime => MountAttrFlags::MOUNT_ATTR_NOATIME,
            Self::NoDirAtime => MountAttrFlags::MOUNT_ATTR_NODIRATIME,
            Self::RelAtime => MountAttrFlags::MOUNT_ATTR_RELATIME,
            Self::StrictAtime => MountAttrFlags::MOUNT_ATTR_STRICTATIME,
        }
    }
}

impl<'a> Options<'a> {
    pub(crate) fn parse(words: &'a [String]) -> Self {
        let mut options = Self::default();
        for word in words {
            match word.as_str() {
                "" | "rw" | "defaults" => (),
                "bind" => options.bind = options.bind.or(Some(false)),
                "rbind" => options.bind = Some(true),
                word => match (Flag::parse(word), word.split_once('=')) {
                    (Some(flag), _) => options.flags.push(flag),
                    (None, Some((name, value))) => options.data.push((name, Some(value))),
                    (None, None) => options.data.push((word, None)),
                },
            }
        }
        options
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.flags.contains(&Flag::ReadOnly)
    }

    pub(crate) fn old_flags(&self) -> MountFlags {
        self.flags.iter().fold(MountFlags::empty(), |all, flag| all | flag.for_mount())
    }

    pub(crate) fn new_flags(&self) -> MountAttrFlags {
        self.flags.iter().fold(MountAttrFlags::empty(), |all, flag| all | flag.for_fsmount())
    }

    /// The file system's options as one string.
    pub(crate) fn joined(&self) -> String {
        let words = self.data.iter().map(|(name, value)| match value {
            Some(value) => format!("{name}={value}"),
            None => (*name).to_owned(),
        });
        words.collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_sorted() {
        let words = ["ro", "rbind", "nodev", "lowerdir=/a:/b", "userxattr"].map(String::from);
        let options = Options::parse(&words);
        assert_eq!(options.bind, Some(true));
        assert!(options.is_read_only());
        assert_eq!(options.old_flags(), MountFlags::RDONLY | MountFlags::NODEV);
        assert_eq!(options.joined(), "lowerdir=/a:/b,userxattr");
    }
}
