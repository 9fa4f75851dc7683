//! How much of an image is in the store.

use dist_core::{
    Descriptor, Error, ErrorKind, MAX_DEPTH, Platform, Provider, Resolver as _, Result, children,
};

use crate::Remotes;
use crate::fetch::Platforms;

/// What of an image can be handed on: all of it, where each of its manifests is there, else the
/// manifest for this machine.
///
/// # Errors
/// `Corrupt` for documents that can't be read; those of `provider`, but `NotFound`.
pub fn platforms_there(provider: &dyn Provider, target: &Descriptor) -> Result<Platforms> {
    let mut missing = Vec::new();
    find_missing(provider, target, 0, &mut missing)?;
    match missing.is_empty() {
        true => Ok(Platforms::All),
        false => Ok(Platforms::One(Platform::host())),
    }
}

/// Whether the place of `name` has all manifests below `target` that are not in `provider`: then the index
/// can be pushed there whole.
///
/// # Errors
/// Those of the remote, and those of [`platforms_there`].
pub async fn has_rest(
    remotes: &Remotes,
    name: &str,
    provider: &dyn Provider,
    target: &Descriptor,
) -> Result<bool> {
    let pusher = remotes.pusher(name, &target.digest)?;
    let mut missing = Vec::new();
    find_missing(provider, target, 0, &mut missing)?;
    for desc in missing {
        if desc.digest == target.digest || !pusher.has(&desc).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Lists the documents at and below `desc` that are not there.
fn find_missing(
    provider: &dyn Provider,
    desc: &Descriptor,
    depth: usize,
    missing: &mut Vec<Descriptor>,
) -> Result<()> {
    if !desc.media_type.is_index() && !desc.media_type.is_manifest() {
        return Ok(());
    }
    if depth == MAX_DEPTH {
        let message = format!("walk {}: indexes are nested too deep", desc.digest);
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    match children(provider, desc) {
        Err(error) if error.kind() == ErrorKind::NotFound => missing.push(desc.clone()),
        below => {
            for child in &below? {
                find_missing(provider, child, depth + 1, missing)?;
            }
        }
    }
    Ok(())
}
