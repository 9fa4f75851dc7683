//! Where content came from: the repositories of a registry that are known to have it.
//!
//! A label for each registry, `containerd.io/distribution.source.<host>`, holds the repositories
//! with commas between them.

use dist_core::{DISTRIBUTION_SOURCE, Digest, ErrorKind, Result};
use dist_store::ContentStore;

/// The repositories of `host` that `digest` is known to be in, none where it is not in the store.
pub(crate) fn known(content: &ContentStore, digest: &Digest, host: &str) -> Result<Vec<String>> {
    let info = match content.info(digest) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        info => info?,
    };
    let listed = info.labels.get(&format!("{DISTRIBUTION_SOURCE}{host}"));
    Ok(listed
        .map(|listed| {
            listed.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
        })
        .unwrap_or_default())
}
