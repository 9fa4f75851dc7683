//! Default ACLs of directories. What is made in a directory inherits them, so they are set when all
//! entries are made.

use std::collections::BTreeMap;

use dist_core::Result;

use crate::acl::DEFAULT;
use crate::apply::attributes::set_xattrs;
use crate::beneath::Tree;
use crate::limits::exceeded;
use crate::tar::Entry;
use crate::warnings::Warnings;

/// Bytes that they and their paths may take.
const LIMIT: usize = 16 << 20;

/// By the path of their directory.
#[derive(Default)]
pub(super) struct Defaults {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    used: usize,
}

impl Defaults {
    /// Takes the one of the directory at `path` off its entry.
    ///
    /// # Errors
    /// `ResourceExhausted`.
    pub(super) fn keep(&mut self, path: &[u8], entry: &mut Entry) -> Result<()> {
        let Some(at) = entry.xattrs.iter().position(|(key, _)| key == DEFAULT) else {
            return Ok(());
        };
        let (_, value) = entry.xattrs.swap_remove(at);
        self.used += path.len() + value.len();
        if self.used > LIMIT {
            let message = "unpack layer: it has too many default ACLs".to_owned();
            return Err(exceeded("default-acls", LIMIT as u64, message));
        }
        self.values.insert(path.to_vec(), value);
        Ok(())
    }

    /// Forgets those of a directory that is removed, and of all below it.
    pub(super) fn gone(&mut self, path: &[u8]) {
        if self.values.is_empty() {
            return;
        }
        self.values.remove(path);
        let (start, end) = ([path, b"/"].concat(), [path, b"0"].concat());
        let below: Vec<_> = self.values.range(start..end).map(|(path, _)| path.clone()).collect();
        below.iter().for_each(|path| drop(self.values.remove(path)));
    }

    /// Sets all of them.
    ///
    /// # Errors
    /// `Storage`.
    pub(super) fn set(self, tree: &mut Tree, warnings: &mut Warnings) -> Result<()> {
        for (path, value) in self.values {
            let Some(dir) = tree.existing(&path)? else { continue };
            let xattrs = vec![(DEFAULT.to_vec(), value)];
            let entry = Entry { path, xattrs, ..Entry::default() };
            set_xattrs(&dir.fd, &entry, warnings, || tree.show(&dir.path, &[]))?;
        }
        Ok(())
    }
}
