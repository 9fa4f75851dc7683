//! Content on its way from where it is to where it is pushed.
//!
//! It is read once where nothing breaks, hashed as it passes, and its last bytes are given only when
//! all of it is what its digest says: what a remote gets of anything else has no end.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use dist_core::{
    ByteStream, ContentMismatch, Descriptor, Error, ErrorKind, Fetcher, Hasher, Result,
    ResultExt as _,
};
use futures_util::StreamExt as _;

/// How far apart states of the hash are kept, to go on from after a break.
const MARKS: u64 = 8 << 20;

/// One blob, to be read from any offset on.
pub(crate) struct Feed {
    desc: Descriptor,
    content: Arc<dyn Fetcher>,
    reading: tokio::sync::Mutex<Reading>,
    trouble: Mutex<Option<Error>>,
}

struct Reading {
    stream: Option<ByteStream>,
    /// What came and was not asked for yet.
    rest: Bytes,
    /// The next byte, and the hash of all before it.
    at: u64,
    hasher: Hasher,
    marks: Vec<(u64, Hasher)>,
}

impl Feed {
    pub(crate) fn new(desc: &Descriptor, content: Arc<dyn Fetcher>) -> Self {
        let reading = Reading {
            stream: None,
            rest: Bytes::new(),
            at: 0,
            hasher: desc.digest.hasher(),
            marks: Vec::new(),
        };
        let (desc, reading) = (desc.clone(), tokio::sync::Mutex::new(reading));
        Self { desc, content, reading, trouble: Mutex::default() }
    }

    pub(crate) fn desc(&self) -> &Descriptor {
        &self.desc
    }

    /// Makes sure that there is something to be read from `at` on.
    pub(crate) async fn open(&self, at: u64) -> Result<()> {
        let mut reading = self.reading.lock().await;
        reading.go_to(self, at).await?;
        if reading.stream.is_none() {
            reading.stream = Some(self.content.fetch(&self.desc, at).await?);
        }
        if self.desc.size == 0 { self.verify(reading.hasher.clone()) } else { Ok(()) }
    }

    /// Takes the hash of all before `at` from somebody who read it, so that reading can begin there.
    pub(crate) async fn trust(&self, (at, hasher): (u64, Hasher)) {
        let mut reading = self.reading.lock().await;
        if reading.marks.last().is_none_or(|(mark, _)| *mark < at) {
            reading.marks.push((at, hasher));
        }
    }

    /// The hash of all before `at`, where that is known just now.
    pub(crate) async fn hash_before(&self, at: u64) -> Option<(u64, Hasher)> {
        let reading = self.reading.lock().await;
        (reading.at == at).then(|| (at, reading.hasher.clone()))
    }

    /// The bytes from `at` on: some, none of them behind `end`.
    pub(crate) async fn next(&self, at: u64, end: u64) -> Result<Bytes> {
        let mut reading = self.reading.lock().await;
        reading.go_to(self, at).await?;
        let bytes = reading.read(self, end).await?;
        if reading.at == self.desc.size
            && let Err(error) = self.verify(reading.hasher.clone())
        {
            reading.restart(0, self.desc.digest.hasher());
            reading.marks.clear();
            return Err(error);
        }
        Ok(bytes)
    }

    /// Keeps why nothing more can be read.
    pub(crate) fn fail(&self, error: Error) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    /// Why nothing more could be read, where that is so.
    pub(crate) fn take_trouble(&self) -> Option<Error> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn verify(&self, hasher: Hasher) -> Result<()> {
        self.desc.verify(self.desc.size, hasher.finish())
    }
}

impl Reading {
    /// Goes on from `at`: from the state of the hash before it that is nearest.
    async fn go_to(&mut self, feed: &Feed, at: u64) -> Result<()> {
        if self.at == at {
            return Ok(());
        }
        let mark = self.marks.iter().rev().find(|(mark, _)| *mark <= at).cloned();
        let (from, hasher) = mark.unwrap_or_else(|| (0, feed.desc.digest.hasher()));
        self.restart(from, hasher);
        while self.at < at {
            self.read(feed, at).await?;
        }
        Ok(())
    }

    fn restart(&mut self, at: u64, hasher: Hasher) {
        (self.stream, self.rest) = (None, Bytes::new());
        (self.at, self.hasher) = (at, hasher);
        self.marks.retain(|(mark, _)| *mark <= at);
    }

    async fn read(&mut self, feed: &Feed, end: u64) -> Result<Bytes> {
        let desc = &feed.desc;
        while self.rest.is_empty() {
            let stream = match &mut self.stream {
                Some(stream) => stream,
                none => none.insert(feed.content.fetch(desc, self.at).await?),
            };
            let Some(chunk) = stream.next().await else {
                let source = ContentMismatch::Size { expected: desc.size, got: self.at };
                return Err(
                    Error::new(ErrorKind::Corrupt, "it ended too early").with_source(source)
                )
                .during(|| format!("read {} {}", desc.media_type.noun(), desc.digest));
            };
            self.rest = chunk?;
        }
        let most = usize::try_from(end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let bytes = self.rest.split_to(self.rest.len().min(most));
        self.hasher.update(&bytes);
        self.at += bytes.len() as u64;
        if self.at >= self.marks.last().map_or(0, |(mark, _)| *mark) + MARKS {
            self.marks.push((self.at, self.hasher.clone()));
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use dist_core::{Digest, MediaType};
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Bytes in pieces of a megabyte; counts how many it gave.
    #[derive(Clone)]
    struct Pieces(Arc<(Vec<u8>, AtomicU64)>);

    impl Pieces {
        fn given(&self) -> u64 {
            self.0.1.swap(0, Ordering::SeqCst)
        }
    }

    #[async_trait]
    impl Fetcher for Pieces {
        async fn fetch(&self, _desc: &Descriptor, offset: u64) -> Result<ByteStream> {
            let this = self.clone();
            let end = this.0.0.len();
            let starts = (offset as usize..end).step_by(1 << 20);
            Ok(Box::pin(futures_util::stream::iter(starts).map(move |at| {
                let piece = &this.0.0[at..end.min(at + (1 << 20))];
                this.0.1.fetch_add(piece.len() as u64, Ordering::SeqCst);
                Ok(Bytes::copy_from_slice(piece))
            })))
        }
    }

    fn feed(bytes: &[u8], digest: Digest) -> (Feed, Pieces) {
        let pieces = Pieces(Arc::new((bytes.to_vec(), AtomicU64::new(0))));
        let media_type = MediaType::parse("application/octet-stream");
        let desc = Descriptor::new(media_type, digest, bytes.len() as u64);
        (Feed::new(&desc, Arc::new(pieces.clone())), pieces)
    }

    async fn rest(feed: &Feed, mut at: u64) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        while at < feed.desc().size {
            let bytes = feed.next(at, feed.desc().size).await?;
            at += bytes.len() as u64;
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn going_back_reads_little_again() {
        let size = 20 << 20;
        let bytes: Vec<u8> = (0..size).map(|at: u32| (at / 1000) as u8).collect();
        let (feed, pieces) = feed(&bytes, Digest::sha256(&bytes));
        assert_eq!(rest(&feed, 0).await.unwrap(), bytes);
        assert_eq!(pieces.given(), u64::from(size));
        let from = 17 << 20;
        assert_eq!(rest(&feed, from).await.unwrap(), bytes[from as usize..]);
        let given = pieces.given();
        assert!(given <= 5 << 20, "{given}");
        assert_eq!(feed.next(5, 9).await.unwrap(), bytes[5..9]);
        assert_eq!(rest(&feed, 9).await.unwrap(), bytes[9..]);
    }

    #[tokio::test]
    async fn what_is_wrong_has_no_end() {
        let bytes = vec![7; 3 << 20];
        let (feed, _) = feed(&bytes, Digest::sha256(b"other"));
        assert_eq!(feed.next(0, 10).await.unwrap().len(), 10);
        let error = rest(&feed, 10).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
        let error = rest(&feed, 0).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    }
}
