//! Content from registries, as a stream that mends itself.
//!
//! ```text
//! GET /v2/<repository>/manifests/<digest>   manifests and indexes
//! GET /v2/<repository>/blobs/<digest>       everything else
//! Range: bytes=<offset>-                    where something is there already
//! ```
//!
//! Bodies mend themselves (`download.rs`).

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use dist_core::{
    ByteStream, Descriptor, Digest, Error, ErrorKind, Fetcher, Limit, MAX_DOCUMENT_BYTES,
    Reference, Referrer, Result, ResultExt as _,
};
use http::Method;

use crate::download::Download;
use crate::part::{self, Origins};
use crate::referrers;
use crate::registry::Ask;
use crate::route::{Stop, Turns};

/// Fetches what belongs to one repository.
pub(crate) struct RegistryFetcher {
    /// In the order in which they are asked.
    stops: Vec<Stop>,
    /// The first of them that answers.
    first: Stop,
    /// Those that tell what refers to a manifest.
    referring: Vec<Stop>,
    locator: String,
    origins: Arc<Origins>,
    /// How many of the hosts are not asked for a blob, because one of them sent another.
    doubted: Mutex<HashMap<Digest, usize>>,
}

impl RegistryFetcher {
    /// `None` where there are no hosts.
    pub(crate) fn new(
        stops: Vec<Stop>,
        referring: Vec<Stop>,
        reference: &Reference,
    ) -> Option<Self> {
        let first = Turns::new(stops.clone())?.stop;
        Some(Self {
            stops,
            first,
            referring,
            locator: reference.locator(),
            origins: Arc::default(),
            doubted: Mutex::default(),
        })
    }

    /// The hosts that may be asked for some content.
    fn stops(&self, digest: &Digest) -> &[Stop] {
        let doubted = self.doubted.lock().unwrap_or_else(PoisonError::into_inner);
        &self.stops[doubted.get(digest).copied().unwrap_or_default()..]
    }

    fn what(&self, desc: &Descriptor) -> String {
        format!("fetch {} {} from {}", desc.media_type.noun(), desc.digest, self.locator)
    }
}

#[async_trait]
impl Fetcher for RegistryFetcher {
    async fn fetch(&self, desc: &Descriptor, offset: u64) -> Result<ByteStream> {
        let what = self.what(desc);
        if offset > desc.size {
            return Err(Error::new(
                ErrorKind::OutOfRange,
                format!("{what}: there is nothing at byte {offset} of {}", desc.size),
            ));
        }
        let is_document = desc.media_type.is_manifest() || desc.media_type.is_index();
        if is_document && desc.size > MAX_DOCUMENT_BYTES {
            return Err(Error::new(ErrorKind::ResourceExhausted, what)
                .with_source(Limit { name: "manifest-size", limit: MAX_DOCUMENT_BYTES }));
        }
        if offset == desc.size && offset > 0 {
            return Ok(Box::pin(futures_util::stream::empty()));
        }
        let ask = |kind: &str| Ask {
            accept: Some(format!("{}, */*;q=0.5", desc.media_type)),
            ..Ask::new(Method::GET, &self.first.repository, format!("{kind}/{}", desc.digest))
        };
        let Some(turns) = Turns::new(self.stops(&desc.digest).to_vec()) else {
            unreachable!("there is a host")
        };
        let ask_first = ask(if is_document { "manifests" } else { "blobs" });
        let origins = Some((self.origins.clone(), desc.digest));
        let mut download = Download::new(turns, ask_first, desc.size);
        (download.origins, download.at) = (origins, offset);
        let opened = match download.open().await {
            // A manifest of a kind that is not known here is no blob to the registry.
            Err(failed)
                if failed.kind == ErrorKind::NotFound && desc.media_type.noun() == "blob" =>
            {
                download.ask = ask("manifests");
                download.open().await.map_err(|_| failed)
            }
            opened => opened,
        };
        match opened {
            Ok(()) => {}
            Err(failed) if failed.kind == ErrorKind::NotFound && desc.media_type.is_foreign() => {
                let what =
                    format!("{what}: it is a foreign layer, and its URLs are never followed");
                return Err(failed.into_error(what));
            }
            Err(failed) => return Err(failed.into_error(what)),
        }
        download.what = what;
        Ok(download.stream())
    }

    fn doubt(&self, desc: &Descriptor) -> bool {
        let sent = self.origins.forget(&desc.digest);
        let sent = sent.as_ref().unwrap_or(&self.first);
        let at = self.stops.iter().position(|stop| Arc::ptr_eq(&stop.registry, &sent.registry));
        let mut doubted = self.doubted.lock().unwrap_or_else(PoisonError::into_inner);
        let before = doubted.entry(desc.digest).or_default();
        // Each host is doubted once: who asks again and again comes to an end.
        let is_next = |next: &usize| *next > *before && *next < self.stops.len();
        let Some(next) = at.map(|at| at + 1).filter(is_next) else { return false };
        let host = sent.registry.name();
        tracing::warn!(host, digest = %desc.digest, "it sent other content; asking the next host");
        *before = next;
        true
    }

    fn host(&self) -> Option<&str> {
        Some(self.first.registry.name())
    }

    async fn fetch_part(&self, desc: &Descriptor, range: Range<u64>) -> Result<ByteStream> {
        let what = self.what(desc);
        if range.start >= range.end || range.end > desc.size {
            return Err(Error::new(
                ErrorKind::OutOfRange,
                format!("{what}: there is nothing at bytes {}-{}", range.start, range.end),
            ));
        }
        let turns = Turns::new(self.stops(&desc.digest).to_vec());
        let first = turns.as_ref().map_or(&self.first, |turns| &turns.stop);
        part::fetch(first, &self.origins, (desc, range), what).await
    }

    async fn referrers(&self, subject: &Digest) -> Result<Option<Vec<Referrer>>> {
        let mut listed = Ok(None);
        for stop in &self.referring {
            listed = referrers::list(&stop.registry, &stop.repository, subject).await;
            if matches!(listed, Ok(Some(_))) {
                break;
            }
        }
        listed.during(|| format!("look at {}", self.locator))
    }
}
