//! One blob into a registry, over as many requests as it takes.
//!
//! A large one is sent in parts, each of which a registry keeps, in one request where the registry
//! wants no parts, and in smaller ones where even a part is more than it, or a proxy before it, takes at
//! once (413). When an upload breaks, the registry is asked how much of it came; where it can't say, or
//! has forgotten the upload, that blob begins anew, with the question whether it is there: the registry
//! may have got all of it. Where the upload is, is also kept for the next process (`left.rs`).

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dist_core::{Context as _, Descriptor, ErrorKind, Event, Fetcher, Progress, Pushed};
use http::Method;
use http::header::RANGE;
use url::Url;

use crate::failure::{Again, Failed, Problem};
use crate::feed::Feed;
use crate::held::blocking;
use crate::left::Left;
use crate::payload::{self, Payload};
use crate::pusher::{RegistryPusher, check};
use crate::registry::{Access, Ask};
use crate::resolver::DIGEST_HEADER;
use crate::retry::Tries;
use crate::transport::{self, Answer};

/// How long, after a break, a body waits whether the header is refused.
const HOLD: Duration = Duration::from_millis(500);

/// The most bytes that a request carries.
pub(crate) struct Parts(AtomicU64);

impl Default for Parts {
    fn default() -> Self {
        Self(AtomicU64::new(Self::USUAL))
    }
}

impl Parts {
    /// Below what proxies usually take, and whole parts of 10 MiB, as registries put them into S3.
    const USUAL: u64 = 80 << 20;
    /// What is tried where more is too much, the largest first.
    const SIZES: [u64; 3] = [64 << 20, 8 << 20, 1 << 20];

    fn size(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Notes that a part was refused as one; whether all at once is yet to be tried.
    fn join(&self) -> bool {
        let (usual, all) = (Self::USUAL, u64::MAX);
        self.0.compare_exchange(usual, all, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Notes that `bytes` were too many; whether there is less to try.
    fn shrink(&self, bytes: u64) -> bool {
        match Self::SIZES.into_iter().find(|size| *size < bytes) {
            Some(size) => {
                self.0.fetch_min(size, Ordering::Relaxed);
                true
            }
            None => false,
        }
    }
}

/// What came of asking for a place to send a blob to.
enum Session {
    /// None is needed.
    Mounted,
    Opened(Url),
}

/// A blob on its way.
pub(crate) struct Upload<'a> {
    pusher: &'a RegistryPusher,
    desc: &'a Descriptor,
    feed: Arc<Feed>,
    /// Another repository of the registry that may have it.
    source: Option<&'a String>,
    progress: &'a Arc<dyn Progress>,
    /// Where it was being sent when it broke.
    broken: Option<Url>,
    /// Where it is noted for another process; `None` until that was looked for.
    left: Option<Option<Left>>,
}

impl<'a> Upload<'a> {
    pub(crate) fn new(
        pusher: &'a RegistryPusher,
        (desc, content): (&'a Descriptor, Arc<dyn Fetcher>),
        source: Option<&'a String>,
        progress: &'a Arc<dyn Progress>,
    ) -> Self {
        let feed = Arc::new(Feed::new(desc, content));
        Self { pusher, desc, feed, source, progress, broken: None, left: None }
    }

    /// Tries once.
    pub(crate) async fn go(&mut self, tries: &mut Tries) -> Result<Pushed, Problem> {
        let broken = self.broken.take();
        let hold = if broken.is_some() { HOLD } else { Duration::ZERO };
        let standing = match &broken {
            Some(location) => self.standing(location, tries).await?,
            None => None,
        };
        let (location, at) = match standing {
            Some(standing) => standing,
            None => {
                if self.pusher.find(self.desc, tries.deadline()).await?.is_some() {
                    self.arrived().await;
                    return Ok(Pushed::Existed);
                }
                match self.taken_up(tries).await {
                    Some(standing) => standing,
                    None => match self.session(tries).await? {
                        Session::Mounted => {
                            self.forget();
                            return Ok(Pushed::Mounted);
                        }
                        Session::Opened(location) => (location, 0),
                    },
                }
            }
        };
        self.feed.open(at).await?;
        self.note(&location, at).await;
        self.progress.event(Event::Started { desc: self.desc, offset: at });
        self.send((location, at), hold, tries).await
    }

    async fn send(
        &mut self,
        (mut location, mut at): (Url, u64),
        mut hold: Duration,
        tries: &mut Tries,
    ) -> Result<Pushed, Problem> {
        let size = self.desc.size;
        loop {
            let end = at.saturating_add(self.pusher.parts.size()).min(size);
            let last = end == size;
            let method = if last { Method::PUT } else { Method::PATCH };
            let mut ask = self.pusher.ask(method, String::new());
            ask.at = Some(location.clone());
            if last {
                ask.query.push(("digest", self.desc.digest.to_string()));
            }
            let body = Arc::clone(self.progress);
            let body = payload::Upload::new(Arc::clone(&self.feed), at..end, body).held(hold);
            ask.payload = Payload::Upload(body);
            match self.pusher.registry.ask_once(&ask, tries.deadline()).await {
                Ok(answer) if last => {
                    self.forget();
                    check(self.desc, &answer)?;
                    return Ok(Pushed::Uploaded);
                }
                Ok(answer) => {
                    if let Some(Ok(next)) = transport::location(&answer.response, &answer.url) {
                        location = next;
                    }
                    (at, hold) = (end, Duration::ZERO);
                    self.note(&location, at).await;
                    tries.progressed();
                }
                Err(failed) => {
                    return Err(match self.feed.take_trouble() {
                        Some(error) => {
                            if error.kind() == ErrorKind::Corrupt {
                                self.forget();
                            }
                            error.into()
                        }
                        None => self.refused(failed, location, at..end).into(),
                    });
                }
            }
        }
    }

    /// What a failure with a range of bytes to `location` means for the next try.
    fn refused(&mut self, mut failed: Box<Failed>, location: Url, sent: Range<u64>) -> Box<Failed> {
        let is_part = sent.start > 0 || sent.end < self.desc.size;
        match failed.failure.status {
            // It takes no parts, or no second one.
            Some(400 | 404 | 405 | 411 | 415 | 416 | 501)
                if is_part && self.pusher.parts.join() =>
            {
                failed.again = Again::Later;
            }
            // It has forgotten the upload, was restarted, or is several; or has another idea of where
            // the upload is.
            Some(404 | 416) => failed.again = Again::Later,
            Some(413) if self.pusher.parts.shrink(sent.end - sent.start) => {
                self.broken = (sent.start > 0).then_some(location);
                failed.again = Again::After(Duration::ZERO);
            }
            None | Some(500..) if failed.again != Again::Never => self.broken = Some(location),
            _ => {}
        }
        if failed.failure.code.as_deref() == Some("DIGEST_INVALID") {
            self.forget();
            failed.kind = ErrorKind::Corrupt; // on the way, as it was right here: once more will tell
            failed.again = Again::Once;
        }
        failed
    }

    /// How much came of an upload that broke, and where the rest goes; `None` where it can't go on.
    ///
    /// Who may not ask was perhaps refused before, by an answer that was lost with the connection.
    async fn standing(&self, location: &Url, tries: &Tries) -> Result<Option<(Url, u64)>, Problem> {
        let mut ask = self.pusher.ask(Method::GET, String::new());
        ask.at = Some(location.clone());
        let answer = match self.pusher.registry.ask_once(&ask, tries.deadline()).await {
            Ok(answer) => answer,
            Err(failed) if matches!(failed.failure.status, Some(401 | 403)) => {
                return Err(failed.into());
            }
            Err(_) => return Ok(None),
        };
        let came = answer.header(RANGE).and_then(came).filter(|came| *came <= self.desc.size);
        let Some(came) = came else { return Ok(None) };
        let next = transport::location(&answer.response, &answer.url);
        let location = next.and_then(Result::ok).unwrap_or_else(|| location.clone());
        tracing::debug!(digest = %self.desc.digest, came, "going on with an upload");
        Ok(Some((location, came)))
    }

    /// What another process left of this upload, where the registry goes on with it.
    async fn taken_up(&mut self, tries: &Tries) -> Option<(Url, u64)> {
        if self.left.is_some() {
            return None;
        }
        let opened = self.noted(Left::open).await.flatten();
        let (left, state) = opened?;
        self.left = Some(Some(left));
        let state = state?;
        // Whoever can't ask now begins anew, and hears why there.
        let standing = self.standing(&state.location, tries).await.ok().flatten()?;
        if let Some(hashed) = state.hashed {
            self.feed.trust(hashed).await;
        }
        Some(standing)
    }

    /// Works on the directory of notes; `None` without one, and where that failed.
    async fn noted<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path, (&str, &str), &Descriptor) -> io::Result<T> + Send + 'static,
    ) -> Option<T> {
        let dir = self.pusher.registry.uploads_dir()?.to_owned();
        let registry = self.pusher.registry.name().to_owned();
        let (repository, desc) = (self.pusher.repository.clone(), self.desc.clone());
        let worked = blocking(move || {
            work(&dir, (&registry, &repository), &desc)
                .context(ErrorKind::Storage, || format!("note uploads in {}", dir.display()))
                .map(Some)
        });
        worked.await.unwrap_or_else(not_noted)
    }

    /// The blob is there: what this or another process noted of it goes.
    async fn arrived(&mut self) {
        match &self.left {
            Some(_) => self.forget(),
            None => drop(self.noted(Left::remove).await),
        }
    }

    /// Notes where the upload is, with all before `at` sent.
    async fn note(&mut self, location: &Url, at: u64) {
        let Some(mut left) = self.left.take().flatten() else {
            self.left = Some(None);
            return;
        };
        let (location, hashed) = (location.clone(), self.feed.hash_before(at).await);
        let noted = blocking(move || {
            left.note(&location, hashed.as_ref().filter(|(at, _)| *at > 0))
                .context(ErrorKind::Storage, || "note where an upload is".into())?;
            Ok(Some(left))
        });
        self.left = Some(noted.await.unwrap_or_else(not_noted));
    }

    /// There is nothing left to go on with.
    fn forget(&mut self) {
        if let Some(left) = self.left.replace(None).flatten() {
            left.end();
        }
    }

    async fn session(&self, tries: &Tries) -> Result<Session, Problem> {
        let mut ask = self.pusher.ask(Method::POST, "blobs/uploads/".to_owned());
        ask.payload = Payload::Empty;
        if let Some(source) = self.source {
            let mut mount = Ask { access: Access::Mount(source.clone()), ..ask.clone() };
            mount.query.push(("mount", self.desc.digest.to_string()));
            mount.query.push(("from", source.clone()));
            match self.pusher.registry.ask_once(&mount, tries.deadline()).await {
                Ok(answer) => return self.mounted(&answer, tries).await,
                // Not from there, then: no such repository, or nothing for this user.
                Err(failed) if matches!(failed.failure.status, Some(400..=405)) => {}
                Err(failed) => return Err(failed.into()),
            }
        }
        let answer = self.pusher.registry.ask_once(&ask, tries.deadline()).await?;
        self.opened(&answer)
    }

    /// Judges the answer to a mount. One that is not told as a blob of that digest is looked for.
    async fn mounted(&self, answer: &Answer, tries: &Tries) -> Result<Session, Problem> {
        if answer.status().as_u16() != 201 {
            return self.opened(answer);
        }
        let digest = self.desc.digest.to_string();
        let location = transport::location(&answer.response, &answer.url).and_then(Result::ok);
        let is_told = answer.header(DIGEST_HEADER).is_some_and(|told| told.trim() == digest)
            || location.is_some_and(|location| location.path().ends_with(&digest));
        if is_told || self.pusher.find(self.desc, tries.deadline()).await?.is_some() {
            return Ok(Session::Mounted);
        }
        let problem = "the registry says that it took the blob over, and does not have it";
        Err(answer.failed(ErrorKind::Unavailable, problem).into())
    }

    fn opened(&self, answer: &Answer) -> Result<Session, Problem> {
        match transport::location(&answer.response, &answer.url) {
            Some(Ok(location)) => Ok(Session::Opened(location)),
            _ => {
                let problem = "the registry does not say where to send the content";
                Err(answer.failed(ErrorKind::Unavailable, problem).into())
            }
        }
    }
}

/// A note that can't be written or read costs bytes that are sent again, no more.
fn not_noted<T>(error: dist_core::Error) -> Option<T> {
    tracing::debug!(?error, "where the upload is, is not noted");
    None
}

/// Reads how many bytes `0-<last>` is. What may be the first byte alone is more often none.
fn came(range: &str) -> Option<u64> {
    let range = range.trim();
    let last = range.strip_prefix("bytes=").unwrap_or(range).strip_prefix("0-")?;
    let last: u64 = last.parse().ok()?;
    (last > 0).then(|| last.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_of_an_upload() {
        for (range, bytes) in [
            ("0-9", Some(10)),
            ("bytes=0-1023", Some(1024)),
            ("0-0", None),
            ("5-9", None),
            ("0--1", None),
            ("", None),
        ] {
            assert_eq!(came(range), bytes, "{range}");
        }
    }

    #[test]
    fn parts_get_smaller_until_there_is_nothing_to_try() {
        let parts = Parts::default();
        assert!(parts.join(), "parts are refused");
        assert!(!parts.join());
        assert_eq!(parts.size(), u64::MAX);
        assert!(parts.shrink(100 << 20));
        assert_eq!(parts.size(), 64 << 20);
        assert!(parts.shrink(9 << 20));
        assert_eq!(parts.size(), 8 << 20);
        assert!(parts.shrink(8 << 20));
        assert_eq!(parts.size(), 1 << 20);
        assert!(!parts.shrink(1 << 20));
        assert!(!parts.join());
    }
}
