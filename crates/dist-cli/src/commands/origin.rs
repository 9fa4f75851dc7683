//! Images to look at, wherever they are.

use std::collections::HashSet;
use std::path::Path;

use dist::Remotes;
use dist_core::{Descriptor, Digest, Error, ErrorKind, Resolved, Resolver as _, Result};

use super::copy::{self, SCHEMES};
use super::documents::Source;
use super::inspect::find_local;
use crate::config::Config;
use crate::reference;

/// The scheme of bundles.
const BUNDLE: &str = "bundle";

/// What a name stands for, and where it is.
pub(crate) struct Origin {
    /// The full name.
    pub(crate) name: String,
    /// One, but of a bundle.
    pub(crate) targets: Vec<Descriptor>,
    pub(crate) source: Source,
    /// Whether what an index names may be missing.
    pub(crate) partial: bool,
    /// What a bundle leaves out.
    pub(crate) left_out: HashSet<Digest>,
}

impl Origin {
    fn new(name: String, target: Descriptor, source: Source) -> Self {
        let partial = matches!(source, Source::Local(_));
        Self { name, targets: vec![target], source, partial, left_out: HashSet::new() }
    }
}

/// Finds what a name stands for: a digest in the store, a bundle, something with a scheme, an image in
/// the store (unless `remote`), or one in a registry.
pub(crate) async fn find(config: &Config, text: &str, remote: bool) -> Result<Origin> {
    if let Ok(digest) = text.parse::<Digest>() {
        let Some(host) = config.host_to_read()? else {
            let message = format!("find {digest}: there is no store");
            return Err(Error::new(ErrorKind::NotFound, message));
        };
        let content = host.contents();
        let target = dist::describe_blob(&*content, &digest)?;
        return Ok(Origin::new(text.to_owned(), target, Source::Local(content)));
    }
    if let Some((_, path)) = dist_core::scheme(text, &[BUNDLE]) {
        let (fetcher, targets, left_out) =
            dist::open_bundle(Path::new(path), &config.remotes()?).await?;
        let (name, source) = (text.to_owned(), Source::Remote(fetcher));
        return Ok(Origin { name, targets, source, partial: false, left_out });
    }
    if let Some((resolved, source)) = stored(config, text, remote)? {
        return Ok(Origin::new(resolved.name, resolved.target, source));
    }
    let (remotes, name) = elsewhere(config, text)?;
    let resolved = remotes.resolve(&name).await?;
    let source = Source::Remote(remotes.fetcher(&name)?);
    Ok(Origin::new(resolved.name, resolved.target, source))
}

/// Finds an image in the store, by its name (unless `remote`) or by `store:` and its name, or a manifest
/// there by its digest.
pub(super) fn stored(
    config: &Config,
    text: &str,
    remote: bool,
) -> Result<Option<(Resolved, Source)>> {
    match dist_core::scheme(text, SCHEMES) {
        Some((copy::STORE, name)) => match find_local(config, name)? {
            None => {
                let message = format!("find image {name}: it is not in the store");
                Err(Error::new(ErrorKind::NotFound, message))
            }
            found => Ok(found),
        },
        // A pulled layout or address is registered under that name.
        Some((scheme, _)) if !reference::SCHEMES.contains(&scheme) => Ok(None),
        _ if remote => Ok(None),
        _ => find_local(config, text),
    }
}

/// The remotes that a name is in, of whatever kind, and the whole name.
pub(super) fn elsewhere(config: &Config, text: &str) -> Result<(Remotes, String)> {
    let name = match dist_core::scheme(text, SCHEMES) {
        Some(_) => text.to_owned(),
        None => reference::one(config, text)?,
    };
    let remotes = copy::with_stores(config, config.remotes()?.with_archives(), &name)?;
    Ok((remotes, name))
}
