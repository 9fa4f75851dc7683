//! An image from a remote to where a store keeps it: as a pull leaves it, but for the snapshots.

use std::sync::Arc;

use dist_core::{
    Descriptor, Error, ErrorKind, ImageName, Progress, Reference, Resolver as _, Result,
};

use super::documents::Documents;
use super::{Copied, CopyOptions, tell_of_part};
use crate::fetch::{FetchOptions, Platforms, Wanted, bring, resolve};
use crate::{Operations, Remotes};

/// Copies what `source` stands for at `from` to where `on` keeps images, under the name `image`, and
/// unpacks nothing. What is there is not fetched, and what an earlier process left is gone on with.
///
/// The policy of `from` is asked, as for a pull. What refers to the image does not come along. Blobs,
/// labels and the name are as durable as after [`crate::fetch`].
///
/// # Errors
/// Those of the remote and of the store; `Denied`; `NotFound` for a platform that the index has
/// nothing for; `Corrupt` for content that is not what it should be. The name stands for what it stood
/// for then.
pub async fn copy_into_store(
    (from, source): (&Remotes, &str),
    (on, image): (&dyn Operations, &ImageName),
    options: &CopyOptions,
    progress: Arc<dyn Progress>,
) -> Result<Copied> {
    let (resolved, approval) = resolve(from, source, &*progress).await?;
    let documents = Arc::new(Documents::new(from.fetcher(&resolved.name)?));
    let root = documents.choose(&resolved.target, &options.platforms).await?;
    check_pinned(image, &root)?;
    documents.tell_other(&resolved, &options.platforms, &*progress).await?;
    tell_of_part(&resolved, &root, &*progress);
    let wanted = Wanted {
        fetcher: documents,
        target: root.clone(),
        options: FetchOptions { platforms: Platforms::All, jobs: options.jobs },
    };
    let named = (image.clone(), root.clone(), approval.labels());
    bring(on, wanted, progress, move |found| {
        let mut registration = found.registration(Some(&resolved.name));
        registration.images.push(named);
        registration
    })
    .await?;
    Ok(Copied { name: image.to_string(), target: root, referrers: 0, changed: true })
}

/// Fails for a name with the digest of something else: it would never stand for what it says.
///
/// # Errors
/// `InvalidArgument`.
pub fn check_pinned(name: &ImageName, target: &Descriptor) -> Result<()> {
    let pinned = Reference::parse_familiar(name.as_str()).ok();
    match pinned.as_ref().and_then(Reference::digest) {
        Some(digest) if *digest != target.digest => {
            let message =
                format!("name {} {name}: that is the name of other content", target.digest);
            Err(Error::new(ErrorKind::InvalidArgument, message))
        }
        _ => Ok(()),
    }
}
