//! A scheme of one's own: `shelf:NAME`, images that live in this process for as long as it does.
//!
//! `cargo run -p dist --example scheme -- SOURCE DESTINATION` copies SOURCE onto a shelf, and from
//! there to DESTINATION, each a name that `dist copy` knows (`oci:PATH:TAG`, a registry's). The page
//! about it is docs/schemes.md.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use dist::{Copied, CopyOptions, Remotes, Scheme};
use dist_core::{
    ByteStream, Descriptor, Digest, Error, ErrorKind, Event, Fetcher, Progress, Pushed, Pusher,
    Resolved, Resolver, Result,
};
use futures_util::StreamExt as _;

/// What names begin with.
const SHELF: &str = "shelf";

/// All that lies there: blobs once, whatever is called how.
#[derive(Clone, Default)]
pub struct Shelf(Arc<Mutex<Contents>>);

#[derive(Default)]
struct Contents {
    blobs: HashMap<Digest, Bytes>,
    names: HashMap<String, Descriptor>,
}

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names are given with the scheme, `shelf:app:1`, and resolved to names that have it.
#[async_trait]
impl Resolver for Shelf {
    async fn resolve(&self, name: &str) -> Result<Resolved> {
        let target = self.lock().names.get(name).cloned().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("resolve {name}: there is no such name"))
        })?;
        Ok(Resolved { name: name.to_owned(), target })
    }

    fn fetcher(&self, _name: &str) -> Result<Arc<dyn Fetcher>> {
        Ok(Arc::new(self.clone()))
    }

    fn pusher(&self, name: &str, root: &Digest) -> Result<Arc<dyn Pusher>> {
        Ok(Arc::new(Place { shelf: self.clone(), name: name.to_owned(), root: *root }))
    }
}

impl Scheme for Shelf {
    fn beside(&self, name: &str, tag: &str) -> Result<String> {
        // What refers to `shelf:app:1` lies at `shelf:app:sha256-...`.
        let (_, place) = name.split_once(':').unwrap_or_default();
        let repository = place.split(':').next().unwrap_or_default();
        Ok(format!("{SHELF}:{repository}:{tag}"))
    }
}

/// Content comes in chunks, from any byte on. Whoever keeps it verifies it.
#[async_trait]
impl Fetcher for Shelf {
    async fn fetch(&self, desc: &Descriptor, offset: u64) -> Result<ByteStream> {
        self.fetch_part(desc, offset..desc.size).await
    }

    async fn fetch_part(&self, desc: &Descriptor, range: Range<u64>) -> Result<ByteStream> {
        let blob = self.lock().blobs.get(&desc.digest).cloned().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("fetch {}: it is not there", desc.digest))
        })?;
        let at = |byte: u64| usize::try_from(byte).unwrap_or(usize::MAX).min(blob.len());
        let bytes = blob.slice(at(range.start)..at(range.end));
        Ok(Box::pin(futures_util::stream::iter([Ok(bytes)])))
    }
}

/// One name on the shelf, for what shall belong to it.
struct Place {
    shelf: Shelf,
    name: String,
    root: Digest,
}

#[async_trait]
impl Pusher for Place {
    async fn push(
        &self,
        desc: &Descriptor,
        content: Arc<dyn Fetcher>,
        _sources: &[String],
        progress: Arc<dyn Progress>,
    ) -> Result<Pushed> {
        let there = self.shelf.lock().blobs.contains_key(&desc.digest);
        if there {
            progress.event(Event::Existed { desc });
        } else {
            progress.event(Event::Started { desc, offset: 0 });
            let (mut stream, mut bytes) = (content.fetch(desc, 0).await?, Vec::new());
            while let Some(chunk) = stream.next().await.transpose()? {
                progress.event(Event::Advanced { digest: desc.digest, bytes: chunk.len() as u64 });
                bytes.extend_from_slice(&chunk);
            }
            // Nothing is kept that is not what its descriptor says.
            let mut hasher = desc.digest.hasher();
            hasher.update(&bytes);
            desc.verify(bytes.len() as u64, hasher.finish())?;
            self.shelf.lock().blobs.insert(desc.digest, bytes.into());
            progress.event(Event::Committed { digest: desc.digest });
        }
        // The root comes last, so that a name always stands for something whole.
        if desc.digest == self.root {
            self.shelf.lock().names.insert(self.name.clone(), desc.clone());
        }
        Ok(if there { Pushed::Existed } else { Pushed::Uploaded })
    }

    async fn has(&self, desc: &Descriptor) -> Result<bool> {
        let contents = self.shelf.lock();
        let named = contents.names.get(&self.name).is_some_and(|named| named.digest == desc.digest);
        Ok(contents.blobs.contains_key(&desc.digest) && (desc.digest != self.root || named))
    }
}

/// Copies onto a shelf and from there on.
async fn by_way_of_a_shelf(source: &str, destination: &str) -> Result<Copied> {
    let shelf = Arc::new(Shelf::default());
    let remotes = Remotes::new(Default::default()).with_scheme(SHELF, shelf);
    let (options, middle) = (CopyOptions::default(), "shelf:app:1");
    dist::copy((&remotes, source), (&remotes, middle), &options, Arc::new(())).await?;
    dist::copy((&remotes, middle), (&remotes, destination), &options, Arc::new(())).await
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(source), Some(destination)) = (args.next(), args.next()) else {
        return Err(Error::new(ErrorKind::InvalidArgument, "name a source and a destination"));
    };
    let copied = by_way_of_a_shelf(&source, &destination).await?;
    tracing::info!(name = copied.name, digest = %copied.target.digest, "copied");
    Ok(())
}

#[cfg(test)]
mod tests {
    use dist_testutil::{Image, index_of};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn an_image_goes_onto_the_shelf_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let image = index_of(&[
            ("amd64", None, Image::random(1, &[300_000, 20])),
            ("arm64", Some("v8"), Image::random(2, &[1000])),
        ]);
        let source = image.write_layout(&dir.path().join("from"), "1").reference("1");
        let to = dir.path().join("to");
        let copied = by_way_of_a_shelf(&source, &format!("oci:{}:2", to.display())).await.unwrap();
        assert_eq!(copied.target.digest.to_string(), image.digest());
        for blob in image.blobs.iter().chain(&image.children).chain([&image.manifest]) {
            let path = to.join("blobs/sha256").join(blob.digest.hex());
            assert!(std::fs::read(path).unwrap() == blob.bytes, "{}", blob.digest);
        }
        let missing = by_way_of_a_shelf("shelf:none", &source).await.unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    }
}
