//! Content from registries, as a stream that mends itself.
//!
//! ```text
//! GET /v2/<repository>/manifests/<digest>   manifests and indexes
//! GET /v2/<repository>/blobs/<digest>       everything else
//! Range: bytes=<offset>-                    where something is there already
//! ```
//!
//! A body that ends or breaks too early is asked for again from where it ended. A server that
//! ignores `Range`, or answers another one than was asked for, is read from the beginning and what
//! is there already is skipped. Nothing beyond the descriptor's size is ever passed on: the first
//! byte too many is an error, and the connection is closed.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dist_core::{
    ByteStream, ContentMismatch, Descriptor, Digest, Error, ErrorKind, Fetcher, Limit,
    MAX_DOCUMENT_BYTES, Reference, Result,
};
use http::Method;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE};

use crate::body::Body;
use crate::escape;
use crate::failure::{Again, Failed};
use crate::part::{self, Origins};
use crate::registry::{Ask, Registry};
use crate::retry::Tries;
use crate::transport::Answer;

/// How much must come before earlier failures are forgotten.
const PROGRESS: u64 = 64 << 10;

/// Fetches what belongs to one repository.
pub(crate) struct RegistryFetcher {
    registry: Arc<Registry>,
    repository: String,
    locator: String,
    origins: Arc<Origins>,
}

impl RegistryFetcher {
    pub(crate) fn new(registry: Arc<Registry>, reference: &Reference) -> Self {
        Self {
            registry,
            repository: reference.repository().to_owned(),
            locator: reference.locator(),
            origins: Arc::default(),
        }
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
            ..Ask::new(Method::GET, &self.repository, format!("{kind}/{}", desc.digest))
        };
        let mut download = Download {
            registry: self.registry.clone(),
            origins: self.origins.clone(),
            digest: desc.digest,
            ask: ask(if is_document { "manifests" } else { "blobs" }),
            size: desc.size,
            at: offset,
            skip: 0,
            ranges: true,
            gained: 0,
            tries: self.registry.tries(),
            body: None,
            what,
        };
        let opened = match download.open().await {
            // A manifest of a kind that is not known here is no blob to the registry.
            Err(failed)
                if failed.kind == ErrorKind::NotFound && desc.media_type.noun() == "unknown" =>
            {
                download.ask = ask("manifests");
                download.open().await.map_err(|_| failed)
            }
            opened => opened,
        };
        match opened {
            Ok(()) => {}
            Err(failed) if failed.kind == ErrorKind::NotFound && desc.media_type.is_foreign() => {
                let what = format!(
                    "{}: it is a foreign layer, and its URLs are never followed",
                    download.what
                );
                return Err(failed.into_error(what));
            }
            Err(failed) => return Err(failed.into_error(download.what)),
        }
        Ok(Box::pin(futures_util::stream::try_unfold(download, |mut download| async move {
            Ok(download.next().await?.map(|bytes| (bytes, download)))
        })))
    }

    fn host(&self) -> Option<&str> {
        Some(self.registry.name())
    }

    async fn fetch_part(&self, desc: &Descriptor, range: Range<u64>) -> Result<ByteStream> {
        let what = self.what(desc);
        if range.start >= range.end || range.end > desc.size {
            return Err(Error::new(
                ErrorKind::OutOfRange,
                format!("{what}: there is nothing at bytes {}-{}", range.start, range.end),
            ));
        }
        part::fetch(&self.registry, &self.repository, &self.origins, (desc, range), what).await
    }
}

/// One blob on its way, over as many requests as it takes.
struct Download {
    registry: Arc<Registry>,
    origins: Arc<Origins>,
    digest: Digest,
    ask: Ask,
    size: u64,
    /// The next byte to pass on.
    at: u64,
    /// How much of the body comes before that byte.
    skip: u64,
    /// Whether the server may be asked for ranges.
    ranges: bool,
    /// What was passed on since the last failure.
    gained: u64,
    tries: Tries,
    body: Option<Body>,
    what: String,
}

impl Download {
    /// Asks for the rest until there is an answer, or trying again cannot help.
    async fn open(&mut self) -> Result<(), Box<Failed>> {
        loop {
            match self.open_once().await {
                Ok(body) => {
                    self.body = Some(body);
                    return Ok(());
                }
                Err(failed) => self.tries.pause(failed).await?,
            }
        }
    }

    async fn open_once(&mut self) -> Result<Body, Box<Failed>> {
        loop {
            self.ask.from = if self.ranges { self.at } else { 0 };
            let answer = match self.registry.ask_once(&self.ask, self.tries.deadline()).await {
                Err(failed) if failed.failure.status == Some(416) && self.ask.from > 0 => {
                    self.ranges = false;
                    continue;
                }
                answer => answer?,
            };
            self.check_encoding(&answer)?;
            let length: Option<u64> =
                answer.header(CONTENT_LENGTH).and_then(|length| length.parse().ok());
            let begins = match answer.status().as_u16() {
                200 => 0,
                206 => match answer.header(CONTENT_RANGE).and_then(content_range) {
                    Some((begins, total))
                        if begins == self.ask.from
                            && total.is_none_or(|total| total == self.size) =>
                    {
                        begins
                    }
                    _ if self.ask.from > 0 => {
                        tracing::debug!(url = %escape::url(&answer.url), "answered another range");
                        self.ranges = false;
                        continue;
                    }
                    _ => {
                        let problem = "the answer is a part that was not asked for";
                        return Err(answer.failed(ErrorKind::Unavailable, problem));
                    }
                },
                _ => {
                    let problem = format!("unexpected status {}", answer.status());
                    return Err(answer.failed(ErrorKind::Unavailable, problem));
                }
            };
            // A part may end early: the next one follows. The whole may not.
            let expected = self.size - begins;
            let whole = answer.status().as_u16() == 200;
            if let Some(length) = length
                && (length > expected || (length < expected && whole))
            {
                let source = ContentMismatch::Size { expected, got: length };
                let problem = "the content has not the size that its descriptor says";
                return Err(answer.failed(ErrorKind::Corrupt, problem).because(source));
            }
            self.skip = self.at - begins;
            self.origins.note(&self.digest, None, &answer);
            return Ok(answer.into_body(self.registry.stall()));
        }
    }

    fn check_encoding(&self, answer: &Answer) -> Result<(), Box<Failed>> {
        match answer.header(CONTENT_ENCODING).map(str::trim) {
            Some(encoding) if !encoding.eq_ignore_ascii_case("identity") => {
                let problem = format!(
                    "the answer is encoded as {:?}, which was not asked for",
                    escape::text(encoding)
                );
                Err(answer.failed(ErrorKind::Corrupt, problem))
            }
            _ => Ok(()),
        }
    }

    /// The next bytes; `None` once all of them were passed on.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let Some(body) = &mut self.body else {
                if self.at == self.size {
                    return Ok(None);
                }
                if let Err(failed) = self.open().await {
                    return Err(failed.into_error(self.what.clone()));
                }
                continue;
            };
            let failed = match body.next().await {
                Ok(Some(mut chunk)) => {
                    let skipped = self.skip.min(chunk.len() as u64);
                    self.skip -= skipped;
                    let _ = chunk.split_to(usize::try_from(skipped).unwrap_or(chunk.len()));
                    if chunk.is_empty() {
                        continue;
                    }
                    let got = self.at + chunk.len() as u64;
                    if got > self.size {
                        let problem =
                            "the content goes on beyond the size that its descriptor says";
                        let mut failed = body.failed(problem);
                        failed.kind = ErrorKind::Corrupt;
                        self.body = None; // closes the connection
                        let source = ContentMismatch::Size { expected: self.size, got };
                        return Err(failed.because(source).into_error(self.what.clone()));
                    }
                    self.at = got;
                    self.gained += chunk.len() as u64;
                    if self.gained >= PROGRESS {
                        self.tries.progressed();
                        self.gained = 0;
                    }
                    return Ok(Some(chunk));
                }
                // What comes after the last byte, other than more bytes, does not matter.
                _ if self.at == self.size => {
                    self.body = None;
                    return Ok(None);
                }
                Ok(None) => {
                    let problem = format!("the body ended at byte {} of {}", self.at, self.size);
                    body.failed(problem).again(Again::Later)
                }
                Err(failed) => failed,
            };
            self.body = None;
            if let Err(failed) = self.tries.pause(failed).await {
                return Err(failed.into_error(self.what.clone()));
            }
        }
    }
}

/// Reads `bytes first-last/total` into first and total; a total of `*` is none.
pub(crate) fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let total = match total {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    (first <= last && total.is_none_or(|total| last < total)).then_some((first, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for text in [
            "",
            "bytes 5-9",
            "bytes 9-5/10",
            "bytes 5-10/10",
            "bytes */10",
            "5-9/10",
            "bytes -1-2/3",
        ] {
            assert_eq!(content_range(text), None, "{text}");
        }
    }
}
