//! `Read`: a blob, or a part of it, in messages of at most 1 MiB.
//!
//! The next part is read while one is sent, and no further: a client that does not take what it
//! asked for costs two parts of memory and no thread.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use dist_core::{Context as _, Digest, Error, ErrorKind, Provider as _, Result};
use dist_store::ContentStore;
use futures_util::{StreamExt as _, stream};
use rustix::buffer::spare_capacity;
use tonic::Status;
use tonic::codegen::BoxStream;

use crate::api::containerd::services::content::v1::{ReadContentRequest, ReadContentResponse};
use crate::daemon::blocking;
use crate::translate::status;

/// Bytes in one message.
const PART: u64 = 1 << 20;

/// Parts that are read before the client took those before them.
const AHEAD: usize = 2;

/// Opens what a request asks for and reads its first part.
pub(super) async fn read(
    content: ContentStore,
    digest: Digest,
    request: ReadContentRequest,
) -> Result<BoxStream<ReadContentResponse>> {
    let opened = blocking(move || {
        let blob = content.open(&digest)?;
        let range = range(&request, blob.size)?;
        let first = part(&blob.file, digest, range.clone())?;
        Ok((Arc::new(blob.file), range, first))
    });
    let (file, range, first) = opened.await?;
    if range.is_empty() {
        return Ok(Box::pin(stream::empty()));
    }
    let (start, end) = (range.start.saturating_add(PART), range.end);
    let rest = (0_u64..)
        .map(move |n| start.saturating_add(n.saturating_mul(PART))..end)
        .take_while(|range| !range.is_empty());
    let rest = stream::iter(rest)
        .map(move |range| {
            let file = Arc::clone(&file);
            blocking(move || part(&file, digest, range))
        })
        .buffered(AHEAD)
        .map(|part| part.map_err(|error| status(&error)));
    Ok(Box::pin(stream::once(async { Ok::<_, Status>(first) }).chain(rest)))
}

/// The bytes that a request asks for. A negative offset counts as 0, a size that is not positive or
/// reaches too far as all that is left.
fn range(request: &ReadContentRequest, length: u64) -> Result<Range<u64>> {
    let start = u64::try_from(request.offset).unwrap_or(0);
    if start > length {
        let message = format!("read past object length {length} bytes");
        return Err(Error::new(ErrorKind::OutOfRange, message));
    }
    let end = match u64::try_from(request.size) {
        Err(_) | Ok(0) => length,
        Ok(size) => start.saturating_add(size).min(length),
    };
    Ok(start..end)
}

/// Reads the first part of a range.
fn part(file: &File, digest: Digest, range: Range<u64>) -> Result<ReadContentResponse> {
    let length = usize::try_from((range.end - range.start).min(PART)).unwrap_or(usize::MAX);
    let mut data = Vec::with_capacity(length);
    while data.len() < length {
        let at = range.start + data.len() as u64;
        let read =
            rustix::io::retry_on_intr(|| rustix::io::pread(file, spare_capacity(&mut data), at));
        let count = read.context(ErrorKind::Storage, || format!("read blob {digest}"))?;
        if count == 0 {
            let message = format!("read blob {digest}: its file became shorter");
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
    }
    data.truncate(length);
    let offset = i64::try_from(range.start).unwrap_or(i64::MAX);
    Ok(ReadContentResponse { offset, data: data.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_request_asks_for() {
        for (offset, size, expected) in [
            (0, 0, Some(0..10)),
            (0, 4, Some(0..4)),
            (3, 4, Some(3..7)),
            (3, 0, Some(3..10)),
            (3, -1, Some(3..10)),
            (3, 100, Some(3..10)),
            (3, i64::MAX, Some(3..10)),
            (-5, 4, Some(0..4)),
            (10, 0, Some(10..10)),
            (11, 0, None),
            (i64::MAX, i64::MAX, None),
        ] {
            let request = ReadContentRequest { digest: String::new(), offset, size };
            match (range(&request, 10), expected) {
                (Ok(range), Some(expected)) => assert_eq!(range, expected, "{offset} {size}"),
                (Err(error), None) => assert_eq!(error.kind(), ErrorKind::OutOfRange),
                (got, expected) => panic!("{offset} {size}: {got:?}, expected {expected:?}"),
            }
        }
    }
}
