//! `ROOT/uuid`: what tells this store from all others, written once.

use std::fs::File;
use std::io::Write as _;

use dist_core::{Context as _, Error, ErrorKind, Result};

use crate::Store;
use crate::fsio::{self, at};

/// No identity is longer.
const LIMIT: u64 = 256;

impl Store {
    /// The store's identity, a UUID; one that has none yet gets a random one, durably.
    ///
    /// Of several processes that ask at once all get the same.
    ///
    /// # Errors
    /// `Storage`, also where there is none and nothing can be written.
    pub fn identity(&self) -> Result<String> {
        let path = self.root().join("uuid");
        for _ in 0..2 {
            if let Some(bytes) = fsio::read_small(&path, LIMIT)? {
                return String::from_utf8(bytes)
                    .map(|text| text.trim().to_owned())
                    .ok()
                    .filter(|text| !text.is_empty())
                    .ok_or_else(|| Error::new(ErrorKind::Storage, at("read damaged", &path)));
            }
            self.check_writable()?;
            // Not in the trash: a collection could take it from there before it has its name.
            let ours = self.root().join(fsio::unique("uuid"));
            let write = || {
                let mut file = File::create(&ours)?;
                writeln!(file, "{}", uuid::Uuid::new_v4())?;
                file.sync_all()?;
                // Fails where somebody else was faster; then theirs is read.
                match std::fs::hard_link(&ours, &path) {
                    Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
                    _ => std::fs::remove_file(&ours),
                }
            };
            write().context(ErrorKind::Storage, || at("write", &path))?;
            fsio::sync_dir(self.root())?;
        }
        Err(Error::new(ErrorKind::Storage, at("read", &path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StoreOptions;

    #[test]
    fn the_first_identity_stays() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let store = Store::open(&root, StoreOptions::default()).unwrap();
        let first = store.identity().unwrap();
        first.parse::<uuid::Uuid>().unwrap();
        assert_eq!(store.identity().unwrap(), first);
        drop(store);
        let store = Store::open(&root, StoreOptions::default()).unwrap();
        assert_eq!(store.identity().unwrap(), first);
        std::fs::write(root.join("uuid"), "").unwrap();
        assert_eq!(store.identity().unwrap_err().kind(), ErrorKind::Storage);
    }
}
