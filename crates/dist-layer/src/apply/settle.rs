//! The last step: modes and times of directories.

use dist_core::{Result, Usage};
use rustix::fs::AtFlags;

use super::attributes::{Host, set_owner, timestamps};
use super::{count, open_for_attributes, set_mode, set_times};
use crate::beneath::{Tree, failed};
use crate::ledger::{Final, Finals};
use crate::name::split;
use crate::tar::{Entry, Time};
use crate::warnings::Warnings;

/// The mode of a directory that has no entry.
pub(crate) const IMPLICIT_MODE: u32 = 0o755;

/// Brings every directory to its final state, children before parents, and adds it to `usage`.
pub(crate) fn settle(
    tree: &mut Tree,
    finals: &Finals,
    host: &Host,
    warnings: &mut Warnings,
    usage: &mut Option<Usage>,
) -> Result<()> {
    for (path, end) in finals.iter().rev() {
        let (mode, mtime, always) = match end {
            Final::Explicit { mode, mtime, reused } => (mode, mtime, reused),
            Final::Implicit => (IMPLICIT_MODE, Time::default(), path.is_empty()),
            Final::Kept { mode, mtime } => (mode, mtime, false),
        };
        let kept = matches!(end, Final::Kept { .. });
        let change_mode = always
            || if kept { !host.privileged && mode & 0o700 != 0o700 } else { host.unsettled(mode) };
        let (parent, name) = split(path);
        let Some(dir) = tree.existing(parent)? else { continue };
        if end == Final::Implicit && host.privileged && host.differs(0, 0) {
            let entry = Entry { path: path.to_vec(), ..Entry::default() };
            set_owner(tree, &dir, name, &entry, warnings)?;
        }
        let shown = || tree.show(parent, name);
        if path.is_empty() {
            if change_mode {
                set_mode(&dir.fd, mode, shown)?;
            }
            set_times(&dir.fd, mtime, shown)?;
        } else if change_mode {
            let fd = open_for_attributes(tree, &dir, name)?;
            set_mode(&fd, mode, shown)?;
            set_times(&fd, mtime, shown)?;
        } else {
            let times = timestamps(mtime);
            rustix::fs::utimensat(&dir.fd, name, &times, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|errno| failed(errno, format!("set times of {}", shown())))?;
        }
        if let Some(usage) = usage {
            let stat =
                if path.is_empty() { tree.stat(&dir, b".")? } else { tree.stat(&dir, name)? };
            count(usage, &stat);
        }
    }
    tree.forget();
    Ok(())
}
