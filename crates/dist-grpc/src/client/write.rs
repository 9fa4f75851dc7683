//! Writing content over a `Write` stream: `STAT` opens, `WRITE` appends, `COMMIT` ends.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use dist::Contents as _;
use dist_core::{
    Cancel, Committed, Digest, Error, ErrorKind, Expected, Ingest, IngestKey, Result, Writer,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::contents::{RemoteContents, service};
use super::error;
use crate::api::containerd::services::content::v1::{
    WriteAction, WriteContentRequest, WriteContentResponse,
};
use crate::translate;

/// Bytes that are sent at once.
const CHUNK: usize = 1 << 20;

/// Opens `key`, and waits while another writer has it, as long as that one writes.
///
/// # Errors
/// Those of [`dist_core::Ingester::ingest`]; `Busy` where the other writer writes nothing more.
pub(super) fn open(
    contents: &RemoteContents,
    key: &IngestKey,
    expected: Expected,
    cancel: &Cancel,
) -> Result<Ingest> {
    let mut turn = Turn::new(Instant::now());
    loop {
        cancel.check()?;
        match RemoteWriter::open(contents.clone(), key.clone(), expected) {
            Ok(writer) => return Ok(Ingest::Writer(Box::new(writer))),
            Err(error) => match (error.kind(), expected.digest) {
                (ErrorKind::AlreadyExists, Some(digest)) => {
                    let info = contents.info(&digest)?;
                    let info = contents.add_labels(info, &contents.labels)?;
                    return Ok(Ingest::Exists(Committed::Existed(info)));
                }
                (ErrorKind::Busy | ErrorKind::Unavailable, _)
                    if error.to_string().contains("locked") =>
                {
                    let written = contents.written(key)?;
                    let Some(pause) = turn.pause(written, Instant::now()) else {
                        let message = format!(
                            "open ingest {key}: another writer has it and wrote nothing for \
                             {PATIENCE:?}"
                        );
                        return Err(Error::new(ErrorKind::Busy, message));
                    };
                    std::thread::sleep(pause);
                }
                _ => return Err(error),
            },
        }
    }
}

/// How long another writer may write nothing while somebody waits for its key.
const PATIENCE: Duration = Duration::from_secs(60);

/// The first pause before a held key is asked for again; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Waits for a key that another writer has. The API has no call that waits.
struct Turn {
    pause: Duration,
    written: Option<u64>,
    /// When the other writer was last seen to have written.
    since: Instant,
}

impl Turn {
    fn new(now: Instant) -> Self {
        Self { pause: FIRST_PAUSE, written: None, since: now }
    }

    /// How long to wait now that so many bytes are written; `None` where waiting has no end.
    fn pause(&mut self, written: Option<u64>, now: Instant) -> Option<Duration> {
        if written != self.written {
            self.written = written;
            self.since = now;
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        (now.duration_since(self.since) < PATIENCE).then_some(pause)
    }
}

struct RemoteWriter {
    contents: RemoteContents,
    key: IngestKey,
    requests: mpsc::Sender<WriteContentRequest>,
    /// `None` only while a call waits for an answer, and after a failure.
    answers: Option<Streaming<WriteContentResponse>>,
    /// Bytes that the daemon has.
    written: u64,
    buffer: BytesMut,
}

impl RemoteWriter {
    fn open(contents: RemoteContents, key: IngestKey, expected: Expected) -> Result<Self> {
        let (requests, receiver) = mpsc::channel(1);
        let first = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: key.to_string(),
            total: expected.size.map_or(0, signed),
            expected: expected.digest.map_or_else(String::new, |digest| digest.to_string()),
            ..Default::default()
        };
        let request = contents.client.request(ReceiverStream::new(receiver));
        let mut service = service(contents.client.channel.clone());
        let sender = requests.clone();
        let (answers, answer) = contents.client.wait(async move {
            let closed = |_| Error::new(ErrorKind::Unavailable, "the daemon closed the stream");
            // The channel holds it until the stream is open.
            sender.send(first).await.map_err(closed)?;
            let answer = service.write(request).await.map_err(error)?;
            let mut answers = answer.into_inner();
            let answer = next(&mut answers).await?;
            Ok((answers, answer))
        })?;
        Ok(Self {
            contents,
            key,
            requests,
            answers: Some(answers),
            written: u64::try_from(answer.offset).unwrap_or(0),
            buffer: BytesMut::new(),
        })
    }

    /// Sends a request and waits for its answer.
    fn call(&mut self, request: WriteContentRequest) -> Result<WriteContentResponse> {
        let over = || Error::new(ErrorKind::Unavailable, "the stream to the daemon is closed");
        let mut answers = self.answers.take().ok_or_else(over)?;
        let requests = self.requests.clone();
        let (answers, answer) = self.contents.client.wait(async move {
            if requests.send(request).await.is_err() {
                // Why is said on the other half.
                next(&mut answers).await?;
                return Err(Error::new(ErrorKind::Unavailable, "the daemon closed the stream"));
            }
            let answer = next(&mut answers).await?;
            Ok((answers, answer))
        })?;
        self.answers = Some(answers);
        Ok(answer)
    }

    fn send(&mut self, data: Bytes) -> Result<()> {
        let offset = self.written;
        let length = data.len() as u64;
        let request = WriteContentRequest {
            action: WriteAction::Write.into(),
            offset: signed(offset),
            data,
            ..Default::default()
        };
        self.call(request)?;
        self.written = offset + length;
        Ok(())
    }

    fn flush_buffer(&mut self) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let data = self.buffer.split().freeze();
        self.send(data)
    }

    fn finish(&mut self, expected: Expected) -> Result<Committed> {
        self.flush_buffer()?;
        let request = WriteContentRequest {
            action: WriteAction::Commit.into(),
            offset: signed(self.written),
            total: expected.size.map_or(0, signed),
            expected: expected.digest.map_or_else(String::new, |digest| digest.to_string()),
            labels: translate::hash_map(&self.contents.labels),
            ..Default::default()
        };
        match self.call(request) {
            Ok(answer) => {
                let digest = answer.digest.parse().map_err(|source: dist_core::DigestError| {
                    let message = format!("read digest {:?} from the daemon", answer.digest);
                    Error::new(ErrorKind::Internal, message).with_source(source)
                })?;
                self.contents.info(&digest).map(Committed::New)
            }
            Err(error) => match (error.kind(), expected.digest.or_else(|| named(&error))) {
                (ErrorKind::AlreadyExists, Some(digest)) => {
                    let info = self.contents.info(&digest)?;
                    self.contents.add_labels(info, &self.contents.labels).map(Committed::Existed)
                }
                _ => Err(error),
            },
        }
    }
}

impl io::Write for RemoteWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let length = data.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&data[..length]);
        if self.buffer.len() == CHUNK {
            self.flush_buffer().map_err(Error::into_io)?;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flush_buffer().map_err(Error::into_io)
    }
}

impl Writer for RemoteWriter {
    fn offset(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    fn written(&self) -> Result<File> {
        let message =
            format!("read ingest {}: a daemon does not give out what is not committed", self.key);
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    fn reset(&mut self) -> Result<()> {
        self.buffer.clear();
        self.written = 0;
        self.send(Bytes::new())
    }

    fn commit(mut self: Box<Self>, expected: Expected) -> Result<Committed> {
        self.finish(expected)
    }

    fn commit_or_abort(mut self: Box<Self>, expected: Expected) -> Result<Committed> {
        match self.finish(expected) {
            Err(error) if error.kind() == ErrorKind::FailedPrecondition => {
                self.abort()?;
                Err(Error::new(ErrorKind::Corrupt, "commit the ingest").with_source(error))
            }
            result => result,
        }
    }

    fn abort(mut self: Box<Self>) -> Result<()> {
        self.buffer.clear();
        let Self { contents, key, requests, answers, .. } = *self;
        // The daemon unlocks the ingest when it sees the end of the stream.
        drop(requests);
        if let Some(mut answers) = answers {
            contents.client.wait(async move {
                while let Ok(Some(_)) = answers.message().await {}
                Ok(())
            })?;
        }
        contents.abort(&key)
    }
}

async fn next(answers: &mut Streaming<WriteContentResponse>) -> Result<WriteContentResponse> {
    let answer = answers.message().await.map_err(error)?;
    answer.ok_or_else(|| Error::new(ErrorKind::Unavailable, "the daemon closed the stream"))
}

/// The digest that an answer names: of content that is there already only its words say which.
fn named(error: &Error) -> Option<Digest> {
    error
        .to_string()
        .split([' ', ',', '"'])
        .find_map(|word| word.trim_end_matches(':').parse().ok())
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_comes_as_long_as_the_other_writes() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut turn = Turn::new(start);
        let milliseconds = |pause: Option<Duration>| pause.map(|pause| pause.as_millis());
        for expected in [10, 20, 40, 80, 160, 320, 500, 500] {
            assert_eq!(milliseconds(turn.pause(Some(0), at(1))), Some(expected));
        }
        for (written, seconds, expected) in [
            (Some(0), 60, Some(500)),
            (Some(1), 61, Some(500)),
            (Some(1), 120, Some(500)),
            // Gone: the key is about to be free.
            (None, 121, Some(500)),
            (None, 181, None),
        ] {
            let pause = turn.pause(written, at(seconds));
            assert_eq!(milliseconds(pause), expected, "{written:?} {seconds}");
        }
    }
}
