//! How much of an image is in the store.

use dist_core::{Descriptor, Error, ErrorKind, MAX_DEPTH, Platform, Provider, Result, children};

use crate::fetch::Platforms;

/// What of an image can be handed on: all of it, where each of its manifests is there, else the
/// manifest for this machine.
///
/// # Errors
/// `Corrupt` for documents that can't be read; those of `provider`, but `NotFound`.
pub fn platforms_there(provider: &dyn Provider, target: &Descriptor) -> Result<Platforms> {
    match is_whole(provider, target, 0)? {
        true => Ok(Platforms::All),
        false => Ok(Platforms::One(Platform::host())),
    }
}

/// Whether `desc` and all documents below it are there.
fn is_whole(provider: &dyn Provider, desc: &Descriptor, depth: usize) -> Result<bool> {
    if !desc.media_type.is_index() && !desc.media_type.is_manifest() {
        return Ok(true);
    }
    if depth == MAX_DEPTH {
        let message = format!("walk {}: indexes are nested too deep", desc.digest);
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    let below = match children(provider, desc) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        below => below?,
    };
    for child in &below {
        if !is_whole(provider, child, depth + 1)? {
            return Ok(false);
        }
    }
    Ok(true)
}
