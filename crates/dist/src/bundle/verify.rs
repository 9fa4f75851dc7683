//! Whether a bundle is whole.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dist_core::{
    ContentMismatch, Descriptor, Document, Error, ErrorKind, Event, Fetcher as _, Progress, Result,
    ResultExt as _,
};
use futures_util::StreamExt as _;

use super::{Bundle, LeftOut};
use crate::archives::read::Archive;
use crate::blocking::blocking;
use crate::plain::fetch_document;

/// What a look at a bundle found.
#[derive(Clone, Debug)]
pub struct CheckedBundle {
    /// The names of its images.
    pub images: Vec<String>,
    /// How many blobs are in it.
    pub blobs: usize,
    /// How many bytes they have.
    pub bytes: u64,
    /// How many blobs are left out, and in a former bundle where one was given.
    pub left_out: usize,
}

/// Reads a whole bundle and checks that each blob is what it is called, and that all that its names
/// lead to is there, or is said to be left out; then it must be in one of the bundles `since`, where
/// there are any.
///
/// # Errors
/// `Corrupt`, with what is wrong; `NotFound` for no file; `Storage`.
pub async fn verify_bundle(
    path: &Path,
    since: &[PathBuf],
    progress: Arc<dyn Progress>,
) -> Result<CheckedBundle> {
    let (file, since) = (path.to_owned(), since.to_owned());
    let (bundle, former) = blocking(move || {
        let former: Vec<Bundle> =
            since.iter().map(|path| Bundle::open(path)).collect::<Result<_>>()?;
        Ok((Bundle::open(&file)?, former))
    })
    .await?;
    let images = bundle.images();
    let Bundle { archive, left_out } = bundle;
    for blob in &left_out {
        let has = |old: &Bundle| {
            old.archive.places().contains_key(&blob.digest)
                || old.left_out.iter().any(|other| other.digest == blob.digest)
        };
        if !former.is_empty() && !former.iter().any(has) {
            let message = format!("find {}, which was left out, in a former bundle", blob.digest);
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
    }
    let (mut blobs, mut bytes) = (0, 0);
    for (digest, (_, size)) in archive.places() {
        let media_type = dist_core::MediaType::parse("application/octet-stream");
        let desc = Descriptor::new(media_type, *digest, *size);
        progress.event(Event::Started { desc: &desc, offset: 0 });
        let mut stream = archive.fetch(&desc, 0).await?;
        let (mut hasher, mut got) = (digest.hasher(), 0);
        while let Some(chunk) = stream.next().await.transpose()? {
            hasher.update(&chunk);
            got += chunk.len() as u64;
            progress.event(Event::Advanced { digest: *digest, bytes: chunk.len() as u64 });
        }
        desc.verify(got, hasher.finish())
            .during(|| format!("verify blob {digest} of {}", path.display()))?;
        progress.event(Event::Committed { digest: *digest });
        blobs += 1;
        bytes += size;
    }
    follow(&archive, &left_out).await?;
    Ok(CheckedBundle { images, blobs, bytes, left_out: left_out.len() })
}

/// Follows all names down to the blobs.
async fn follow(archive: &Archive, left_out: &[LeftOut]) -> Result<()> {
    let mut seen = HashSet::new();
    let mut waiting: Vec<Descriptor> = archive.images().to_vec();
    while let Some(desc) = waiting.pop() {
        if !seen.insert(desc.digest) {
            continue;
        }
        let is_document = desc.media_type.is_manifest() || desc.media_type.is_index();
        match archive.places().get(&desc.digest) {
            Some((_, size)) if *size != desc.size => {
                let source = ContentMismatch::Size { expected: desc.size, got: *size };
                let message = format!("follow {}", desc.digest);
                return Err(Error::new(ErrorKind::Corrupt, message).with_source(source));
            }
            Some(_) if is_document => {
                let bytes = fetch_document(archive, &desc).await?;
                waiting.extend(Document::parse(&desc.media_type, &bytes)?.children());
            }
            Some(_) => {}
            None if desc.media_type.is_foreign() => {}
            None if left_out.iter().any(|blob| blob.digest == desc.digest) => {}
            None => {
                let noun = desc.media_type.noun();
                let message = format!("find {noun} {} in the bundle", desc.digest);
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
        }
    }
    Ok(())
}
