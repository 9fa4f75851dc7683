//! `Read`: a blob, or a part of it, in messages of at most 256 KiB.
//!
//! A part is read when the one before was taken: a client that does not take what it asked for costs
//! no thread, and the memory of one part beside what its connection has queued.

use std::fs::File;
use std::io::IoSliceMut;
use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use dist_core::{Context as _, Digest, Error, ErrorKind, Provider as _, Result};
use dist_store::ContentStore;
use futures_util::stream;
use rustix::fs::{Advice, fadvise};
use rustix::io::ReadWriteFlags;
use tonic::Status;
use tonic::codegen::BoxStream;

use crate::api::containerd::services::content::v1::{ReadContentRequest, ReadContentResponse};
use crate::daemon::blocking;
use crate::translate::status;

/// Bytes in one message.
const PART: u64 = 256 << 10;

/// Bytes after a part that came from the disk which the kernel is asked to read too.
const AHEAD: u64 = 1 << 20;

/// What is left to send of a blob.
struct Rest {
    file: Arc<File>,
    digest: Digest,
    range: Range<u64>,
    /// The bytes of the last part, whose memory takes the next one.
    last: Bytes,
}

/// Opens what a request asks for.
pub(super) async fn read(
    content: ContentStore,
    digest: Digest,
    request: ReadContentRequest,
) -> Result<BoxStream<ReadContentResponse>> {
    let opened = blocking(move || {
        let blob = content.open(&digest)?;
        let range = range(&request, blob.size)?;
        Ok(Rest { file: Arc::new(blob.file), digest, range, last: Bytes::new() })
    });
    Ok(Box::pin(stream::try_unfold(opened.await?, async |mut rest| {
        if rest.range.is_empty() {
            return Ok(None);
        }
        let part = rest.next().await.map_err(|error| status(&error))?;
        Ok::<_, Status>(Some((part, rest)))
    })))
}

impl Rest {
    /// Memory for the next part.
    fn buffer(&mut self) -> BytesMut {
        let length =
            usize::try_from((self.range.end - self.range.start).min(PART)).unwrap_or(usize::MAX);
        let mut buffer = std::mem::take(&mut self.last).try_into_mut().unwrap_or_default();
        buffer.resize(length, 0);
        buffer
    }

    /// Reads the next part: here where it is in memory, and on a thread that may block where it has
    /// to come from the disk.
    async fn next(&mut self) -> Result<ReadContentResponse> {
        let mut buffer = self.buffer();
        let have = self.cached(&mut buffer);
        if have < buffer.len() {
            let (file, digest, range) = (Arc::clone(&self.file), self.digest, self.range.clone());
            buffer = blocking(move || {
                fill(&file, digest, range.clone(), &mut buffer, have)?;
                // The disk goes on while this part is sent; it is no matter where it cannot.
                let after = range.start.saturating_add(PART);
                let _ = fadvise(&*file, after, NonZeroU64::new(AHEAD), Advice::WillNeed);
                Ok(buffer)
            })
            .await?;
        }
        let offset = i64::try_from(self.range.start).unwrap_or(i64::MAX);
        self.range.start += buffer.len() as u64;
        let data = buffer.freeze();
        self.last = data.clone();
        Ok(ReadContentResponse { offset, data })
    }

    /// Reads what it can of the next part without waiting for the disk, and says how much that is.
    /// An error is left to the read that may wait.
    fn cached(&self, buffer: &mut [u8]) -> usize {
        let mut have = 0;
        while have < buffer.len() {
            let at = self.range.start + have as u64;
            let mut slices = [IoSliceMut::new(&mut buffer[have..])];
            match rustix::io::preadv2(&*self.file, &mut slices, at, ReadWriteFlags::NOWAIT) {
                Ok(0) | Err(_) => break,
                Ok(count) => have += count,
            }
        }
        have
    }
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

/// Reads a part, of which `have` bytes are there.
fn fill(
    file: &File,
    digest: Digest,
    range: Range<u64>,
    buffer: &mut [u8],
    mut have: usize,
) -> Result<()> {
    while have < buffer.len() {
        let at = range.start + have as u64;
        let read = rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut buffer[have..], at));
        let count = read.context(ErrorKind::Storage, || format!("read blob {digest}"))?;
        if count == 0 {
            let message = format!("read blob {digest}: its file became shorter");
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        have += count;
    }
    Ok(())
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
