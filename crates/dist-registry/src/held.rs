//! Content in files, as a remote would bring it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dist_core::{
    ByteStream, ContentMismatch, Context as _, Descriptor, Error, ErrorKind, Fetcher, Provider,
    Result,
};

/// How much is read at once.
const CHUNK: u64 = 256 << 10;

/// Fetches from a provider: what is here, on its way to a remote.
pub struct HeldContent(Arc<dyn Provider>);

impl HeldContent {
    /// Fetches from `provider`, whose blobs must be files.
    #[must_use]
    pub fn new(provider: Arc<dyn Provider>) -> Self {
        Self(provider)
    }
}

#[async_trait]
impl Fetcher for HeldContent {
    async fn fetch(&self, desc: &Descriptor, offset: u64) -> Result<ByteStream> {
        let (content, digest, expected) = (Arc::clone(&self.0), desc.digest, desc.size);
        let blob = blocking(move || content.open(&digest)).await?;
        let what = format!("open {digest}");
        if blob.size != expected {
            let source = ContentMismatch::Size { expected, got: blob.size };
            return Err(Error::new(ErrorKind::Corrupt, what).with_source(source));
        }
        Ok(file_stream(blob.file, offset, expected, format!("read {digest}")))
    }
}

/// Runs file work where waiting for a disk holds nobody up.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .context(ErrorKind::Internal, || "work on files".into())?
}

/// The bytes of a file from `offset` to `end`; `what` is what fails where they can't be read.
///
/// # Errors
/// Of the stream: `Storage`; `Corrupt` where the file ends before that.
#[must_use]
pub fn file_stream(file: File, offset: u64, end: u64, what: String) -> ByteStream {
    let file = Arc::new(file);
    Box::pin(futures_util::stream::try_unfold(offset, move |at| {
        let (file, what) = (file.clone(), what.clone());
        async move {
            if at >= end {
                return Ok(None);
            }
            let chunk = blocking(move || read_at(&file, at, end, what)).await?;
            let next = at + chunk.len() as u64;
            Ok(Some((chunk, next)))
        }
    }))
}

/// Reads what comes next; the file having shrunk since it was opened is an error.
fn read_at(file: &File, at: u64, size: u64, what: String) -> Result<Bytes> {
    let length = usize::try_from(CHUNK.min(size - at)).unwrap_or(0);
    let mut bytes = vec![0; length];
    let got = loop {
        match file.read_at(&mut bytes, at) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            got => break got.context(ErrorKind::Storage, || what.clone())?,
        }
    };
    if got == 0 {
        let source = ContentMismatch::Size { expected: size, got: at };
        return Err(Error::new(ErrorKind::Corrupt, what).with_source(source));
    }
    bytes.truncate(got);
    Ok(bytes.into())
}
