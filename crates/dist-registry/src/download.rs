//! Content on its way, as a stream that mends itself.
//!
//! A body that ends or breaks too early is asked for again from where it ended, with the condition
//! that it is still the same version where that counts. A server that ignores `Range`, or answers
//! another one than was asked for, is read from the beginning and what is there already is skipped.
//! Nothing beyond the size that is known is ever passed on: the first byte too many is an error, and
//! the connection is closed.

use std::sync::Arc;

use bytes::Bytes;
use dist_core::{ByteStream, ContentMismatch, Digest, ErrorKind, Result};
use http::header::{CONTENT_LENGTH, CONTENT_RANGE};

use crate::body::Body;
use crate::escape;
use crate::failure::{Again, Failed};
use crate::part::Origins;
use crate::registry::Ask;
use crate::retry::Tries;
use crate::route::Turns;
use crate::transport::Answer;
use crate::version::Version;

/// How much must come before earlier failures are forgotten.
pub(crate) const PROGRESS: u64 = 64 << 10;

/// Content on its way, over as many requests as it takes.
pub(crate) struct Download {
    turns: Turns,
    /// Where it is remembered who answered for which blob.
    pub(crate) origins: Option<(Arc<Origins>, Digest)>,
    pub(crate) ask: Ask,
    /// Of all of it.
    size: u64,
    /// The next byte to pass on.
    pub(crate) at: u64,
    /// The byte to end before.
    pub(crate) end: u64,
    /// Which version it is, where that counts.
    pub(crate) version: Option<Version>,
    /// How much of the body comes before that byte.
    skip: u64,
    /// Whether the server may be asked for ranges.
    ranges: bool,
    /// What was passed on since the last failure.
    gained: u64,
    tries: Tries,
    pub(crate) body: Option<Body>,
    /// What is done, for errors.
    pub(crate) what: String,
}

impl Download {
    /// All of what `ask` is about, `size` bytes. Asks nobody yet.
    pub(crate) fn new(turns: Turns, ask: Ask, size: u64) -> Self {
        Self {
            origins: None,
            ask,
            size,
            at: 0,
            end: size,
            version: None,
            skip: 0,
            ranges: true,
            gained: 0,
            tries: turns.stop.registry.tries(),
            turns,
            body: None,
            what: String::new(),
        }
    }

    /// The bytes that are left.
    pub(crate) fn stream(self) -> ByteStream {
        Box::pin(futures_util::stream::try_unfold(self, |mut download| async move {
            Ok(download.next().await?.map(|bytes| (bytes, download)))
        }))
    }

    /// Asks for the rest until there is an answer, or trying again cannot help.
    pub(crate) async fn open(&mut self) -> Result<(), Box<Failed>> {
        loop {
            match self.open_once().await {
                Ok(body) => {
                    self.body = Some(body);
                    return Ok(());
                }
                Err(failed) if self.turns.is_last() => {
                    if let Err(failed) = self.tries.pause(failed).await {
                        self.go_on(failed)?;
                    }
                }
                Err(failed) => self.go_on(failed)?,
            }
        }
    }

    /// Leaves the host for the next one, where there is one.
    fn go_on(&mut self, failed: Box<Failed>) -> Result<(), Box<Failed>> {
        self.turns.after(failed)?;
        self.tries = self.turns.stop.registry.tries_after(&self.tries);
        self.ranges = true;
        Ok(())
    }

    async fn open_once(&mut self) -> Result<Body, Box<Failed>> {
        let place = self.turns.stop.registry.place().await;
        loop {
            self.ask.from = if self.ranges { self.at } else { 0 };
            self.ask.to = Some(self.end).filter(|_| self.ranges && self.end < self.size);
            let is_part = self.ask.from > 0 || self.ask.to.is_some();
            let version = self.version.as_ref().filter(|_| is_part);
            self.ask.if_range = version.and_then(Version::condition);
            self.ask.repository.clone_from(&self.turns.stop.repository);
            let answer =
                match self.turns.stop.registry.ask_once(&self.ask, self.tries.deadline()).await {
                    Err(failed) if failed.failure.status == Some(416) && is_part => {
                        self.ranges = false;
                        continue;
                    }
                    answer => answer?,
                };
            self.check_version(&answer)?;
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
                    _ if is_part => {
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
            let whole = answer.status().as_u16() == 200;
            let expected =
                if whole { self.size } else { self.ask.to.unwrap_or(self.size) - begins };
            if let Some(length) = length
                && (length > expected || (length < expected && whole))
            {
                let source = ContentMismatch::Size { expected, got: length };
                let problem = "the content has not the size that its descriptor says";
                return Err(answer.failed(ErrorKind::Corrupt, problem).because(source));
            }
            self.skip = self.at - begins;
            let registry = &self.turns.stop.registry;
            if let Some((origins, digest)) = &self.origins {
                origins.note(digest, &self.turns.stop, None, &answer);
            }
            tracing::debug!(url = %escape::url(&answer.url), at = self.at, "fetching");
            registry.note_served();
            return Ok(answer.into_body(registry.stall()).among(registry.heard()).holding(place));
        }
    }

    /// Checks that an answer is of the version that came before, and not encoded for the way.
    fn check_version(&mut self, answer: &Answer) -> Result<(), Box<Failed>> {
        let now = Version::of(answer);
        match &mut self.version {
            Some(version) => version.check(&now, answer),
            None => now.check_plain(answer),
        }
    }

    /// The next bytes; `None` once all of them were passed on.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let Some(body) = &mut self.body else {
                if self.at == self.end {
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
                    let left = self.end - self.at;
                    if chunk.len() as u64 > left && self.end < self.size {
                        chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
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
                    if self.at == self.end && self.end < self.size {
                        self.body = None;
                    }
                    return Ok(Some(chunk));
                }
                // What comes after the last byte, other than more bytes, does not matter.
                _ if self.at == self.end => {
                    self.body = None;
                    return Ok(None);
                }
                Ok(None) => {
                    let problem = format!("the body ended at byte {} of {}", self.at, self.end);
                    body.failed(problem).again(Again::Later)
                }
                Err(failed) => failed,
            };
            self.body = None;
            if let Err(failed) = self.tries.pause(failed).await
                && let Err(failed) = self.go_on(failed)
            {
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
