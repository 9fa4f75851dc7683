//! Parts of a blob, each over a connection of its own.
//!
//! ```text
//! GET /v2/<repository>/blobs/<digest>     or where the registry redirected to before
//! Range: bytes=<first>-<last>
//! ```
//!
//! Only an answer `206` to the very range, out of a whole of the right size and with the entity tag
//! that came before, is a part: bytes of two representations never meet in one blob. A redirect is
//! remembered, so that parts cost the registry nothing; where it has expired, the registry is asked
//! again. HTTP/2 would put all parts on one connection, so parts are asked for in HTTP/1.1.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dist_core::{ByteStream, Descriptor, Digest, ErrorKind, Result};
use http::Method;
use http::header::{CONTENT_ENCODING, CONTENT_RANGE, ETAG};
use url::Url;

use crate::body::Body;
use crate::download::content_range;
use crate::failure::Failed;
use crate::registry::Ask;
use crate::route::Stop;
use crate::transport::Answer;

/// Where each blob came from last.
#[derive(Default)]
pub(crate) struct Origins(Mutex<HashMap<Digest, Origin>>);

#[derive(Clone, Default)]
struct Origin {
    /// Where the registry redirected to.
    at: Option<Url>,
    tag: Option<String>,
    /// The host that was asked.
    host: Option<Stop>,
}

impl Origins {
    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Origin>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, digest: &Digest) -> Origin {
        self.lock().get(digest).cloned().unwrap_or_default()
    }

    /// Forgets where a blob came from; gives whom it was asked of.
    pub(crate) fn forget(&self, digest: &Digest) -> Option<Stop> {
        self.lock().remove(digest)?.host
    }

    /// Remembers who answered, where `asked` was asked instead of the registry.
    pub(crate) fn note(&self, digest: &Digest, host: &Stop, asked: Option<&Url>, answer: &Answer) {
        let at = (answer.redirected || asked.is_some()).then(|| answer.url.clone());
        let mut origins = self.lock();
        let origin = origins.entry(*digest).or_default();
        origin.at = at;
        origin.host = Some(host.clone());
        if let Some(tag) = answer.header(ETAG) {
            origin.tag = Some(tag.to_owned());
        }
    }
}

/// Asks for `range` of the blob `desc`.
pub(crate) async fn fetch(
    first: &Stop,
    origins: &Origins,
    (desc, range): (&Descriptor, Range<u64>),
    what: String,
) -> Result<ByteStream> {
    match open(first, origins, (desc, &range)).await {
        Ok(body) => Ok(stream(body, range, what)),
        Err(failed) => Err(failed.into_error(what)),
    }
}

async fn open(
    first: &Stop,
    origins: &Origins,
    (desc, range): (&Descriptor, &Range<u64>),
) -> Result<Body, Box<Failed>> {
    let origin = origins.find(&desc.digest);
    let stop = origin.host.as_ref().unwrap_or(first);
    let registry = &stop.registry;
    let place = registry.place().await;
    let deadline = registry.tries().deadline();
    let mut ask = Ask {
        accept: Some(format!("{}, */*;q=0.5", desc.media_type)),
        from: range.start,
        to: Some(range.end),
        apart: true,
        at: origin.at.clone(),
        ..Ask::new(Method::GET, &stop.repository, format!("blobs/{}", desc.digest))
    };
    let answer = match registry.ask_once(&ask, deadline).await {
        Err(failed) if ask.at.is_some() && is_expired(&failed) => {
            ask.at = None;
            registry.ask_once(&ask, deadline).await
        }
        answer => answer,
    };
    let answer = answer.map_err(|mut failed| {
        match failed.failure.status {
            Some(429 | 503) => failed.kind = ErrorKind::Busy,
            Some(416) => failed.kind = ErrorKind::Unsupported,
            _ => {}
        }
        failed
    })?;
    check(&answer, desc, range, origin.tag.as_deref())?;
    origins.note(&desc.digest, stop, ask.at.as_ref(), &answer);
    Ok(answer.into_body(registry.stall()).among(registry.heard()).holding(place))
}

/// Whether an address that was good before may have become stale.
fn is_expired(failed: &Failed) -> bool {
    matches!(failed.failure.status, Some(400 | 401 | 403 | 404 | 410))
}

/// Checks that an answer is the part that was asked for, of the same content as before.
fn check(
    answer: &Answer,
    desc: &Descriptor,
    range: &Range<u64>,
    tag: Option<&str>,
) -> Result<(), Box<Failed>> {
    let refuse = |problem: &str| Err(answer.failed(ErrorKind::Unsupported, problem));
    if answer.status().as_u16() != 206 {
        return refuse("the server does not answer with parts");
    }
    let encoding = answer.header(CONTENT_ENCODING).map(str::trim);
    if encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
        return refuse("the answer is encoded, which was not asked for");
    }
    match answer.header(CONTENT_RANGE).and_then(content_range) {
        Some((first, total))
            if first == range.start && total.is_none_or(|total| total == desc.size) => {}
        _ => return refuse("the answer is another part than was asked for"),
    }
    match (tag, answer.header(ETAG)) {
        (Some(before), Some(now)) if before != now => refuse("the answer has another entity tag"),
        _ => Ok(()),
    }
}

/// The bytes of a part, none beyond its end.
fn stream(body: Body, range: Range<u64>, what: String) -> ByteStream {
    let left = range.end - range.start;
    let state = (body, left, what);
    Box::pin(futures_util::stream::try_unfold(state, |(mut body, left, what)| async move {
        let chunk = match body.next().await {
            Ok(Some(chunk)) if left > 0 => chunk,
            Ok(_) => return Ok(None),
            // What comes after the last byte does not matter.
            Err(_) if left == 0 => return Ok(None),
            Err(failed) => return Err(failed.into_error(what)),
        };
        let length = usize::try_from(left).map_or(chunk.len(), |left| left.min(chunk.len()));
        Ok(Some((chunk.slice(..length), (body, left - length as u64, what))))
    }))
}
