//! Where content came from: the repositories of a registry that are known to have it.
//!
//! A label for each registry, `containerd.io/distribution.source.<host>`, holds the repositories
//! with commas between them.

use dist_core::{DISTRIBUTION_SOURCE, Digest, ErrorKind, Labels, Result};

use crate::Engine;

/// The repositories of `host` that `digest` is known to be in, none where nothing is known of it.
pub(crate) fn known(engine: &Engine, digest: &Digest, host: &str) -> Result<Vec<String>> {
    let labels = match engine.content().info(digest) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let discarded = engine.store().discarded(engine.namespace(), digest)?;
            discarded.into_iter().next().map(|discarded| discarded.sources).unwrap_or_default()
        }
        info => info?.labels,
    };
    let wanted = format!("{DISTRIBUTION_SOURCE}{host}");
    let found = repositories(&labels).filter(|(key, _)| *key == wanted);
    Ok(found.map(|(_, repository)| repository.to_owned()).collect())
}

/// The references by which the registries that labels name may have `digest`.
pub(crate) fn references(labels: &Labels, digest: &Digest) -> Vec<String> {
    let reference = |(key, repository): (&str, &str)| {
        let host = key.strip_prefix(DISTRIBUTION_SOURCE)?;
        Some(format!("{host}/{repository}@{digest}"))
    };
    repositories(labels).filter_map(reference).collect()
}

/// The repositories that labels name, each with its label's key.
fn repositories(labels: &Labels) -> impl Iterator<Item = (&str, &str)> {
    let sources = labels.iter().filter(|(key, _)| key.starts_with(DISTRIBUTION_SOURCE));
    sources.flat_map(|(key, listed)| {
        let names = listed.split(',').filter(|name| !name.is_empty());
        names.map(move |name| (key.as_str(), name))
    })
}
