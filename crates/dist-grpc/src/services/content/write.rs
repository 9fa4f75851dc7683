//! `Write`: one stream writes one ingest.
//!
//! The first message names the key, each message is answered, `COMMIT` or the client's end ends the
//! stream. The key is free before the stream's last answer is sent, however it ends. Blocking work
//! runs to its end even if the client goes away meanwhile: then the ingest stays at its offset, or
//! is committed.

use dist_core::{
    Context as _, Digest, Error, ErrorKind, Expected, Info, IngestKey, Labels, Result, check_labels,
};
use dist_store::{ContentStore, IngestWriter, Sharing};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::Space;
use super::writers::{Demand, Held, Writers};
use crate::api::containerd::events::ContentCreate;
use crate::api::containerd::services::content::v1::{
    WriteAction, WriteContentRequest, WriteContentResponse,
};
use crate::daemon::blocking;
use crate::translate::{status, timestamp};

pub(super) type Answers = mpsc::Sender<Result<WriteContentResponse, Status>>;

/// One stream, from its first message to its end.
pub(super) async fn run(
    space: Space,
    writers: Writers,
    mut requests: Streaming<WriteContentRequest>,
    answers: Answers,
) {
    let ended = match requests.message().await {
        Ok(Some(first)) => converse(&space, &writers, first, &mut requests, &answers).await,
        Ok(None) => Err(status(&no_reference())),
        Err(_) => return, // the client went away
    };
    // Clients expect the last answer once more at the end.
    let last = match ended {
        Ok(None) => return,
        Ok(Some(answer)) => Ok(answer),
        Err(status) => Err(status),
    };
    // A client that does not listen any more has no use for it.
    drop(answers.send(last).await);
}

/// Holds the key as long as it runs; returns the last answer, or `None` where the client is gone.
async fn converse(
    space: &Space,
    writers: &Writers,
    first: WriteContentRequest,
    requests: &mut Streaming<WriteContentRequest>,
    answers: &Answers,
) -> Result<Option<WriteContentResponse>, Status> {
    let fail = |error: Error| status(&error);
    let key: IngestKey = match first.r#ref.as_str() {
        "" => return Err(fail(no_reference())),
        key => key
            .parse()
            .context(ErrorKind::InvalidArgument, || "read reference".into())
            .map_err(fail)?,
    };
    let Some(held) = writers.hold(space.content.namespace(), &key).await else {
        let message = format!("reference {key} is locked by another writer");
        return Err(fail(Error::new(ErrorKind::Busy, message)));
    };
    let (content, sharing) = (space.content.clone(), space.sharing);
    let opened = blocking(move || {
        let upload = Upload::open(content, key, &first, sharing)?;
        Ok((upload, first))
    });
    let (upload, first) = opened.await.map_err(fail)?;
    let mut stream = Stream { space, held, upload: Some(upload), answers };
    stream.converse(first, requests).await
}

fn no_reference() -> Error {
    Error::new(ErrorKind::InvalidArgument, "first message must have a reference")
}

/// The server's side of a stream that has its key.
struct Stream<'a> {
    space: &'a Space,
    answers: &'a Answers,
    /// Dropped before `held`: the ingest is closed before its key is free.
    upload: Option<Upload>,
    held: Held,
}

/// What a stream waited for.
enum Event {
    Message(Result<Option<WriteContentRequest>, Status>),
    Demand(Demand),
}

impl Stream<'_> {
    async fn converse(
        &mut self,
        first: WriteContentRequest,
        requests: &mut Streaming<WriteContentRequest>,
    ) -> Result<Option<WriteContentResponse>, Status> {
        let mut request = first;
        loop {
            let commits = request.action() == WriteAction::Commit;
            let answer = self.turn(request).await?;
            if !self.send(answer.clone()).await? {
                return Ok(None);
            }
            if commits {
                return Ok(Some(answer));
            }
            request = loop {
                let event = tokio::select! {
                    biased;
                    message = requests.message() => Event::Message(message),
                    demand = self.held.demand() => Event::Demand(demand),
                };
                match event {
                    Event::Message(Ok(Some(request))) => break request,
                    Event::Message(Ok(None)) => return Ok(Some(answer)),
                    Event::Message(Err(_)) => return Ok(None), // the client went away
                    Event::Demand(demand) => self.meet(demand).await?,
                }
            };
            while let Some(demand) = self.held.demanded() {
                self.meet(demand).await?;
            }
        }
    }

    /// Does what a message asks for. After a failure the ingest is closed.
    async fn turn(&mut self, request: WriteContentRequest) -> Result<WriteContentResponse, Status> {
        let Some(mut upload) = self.upload.take() else {
            return Err(status(&Error::new(ErrorKind::Internal, "the ingest is closed")));
        };
        let turn = blocking(move || {
            let (answer, committed) = upload.turn(request)?;
            Ok((upload, answer, committed))
        });
        let (upload, answer, committed) = turn.await.map_err(|error| status(&error))?;
        self.upload = Some(upload);
        if let Some(info) = committed {
            let size = i64::try_from(info.size).unwrap_or(i64::MAX);
            let event = ContentCreate { digest: info.digest.to_string(), size };
            self.space.changed("/content/create", &event, 0);
        }
        Ok(answer)
    }

    /// Sends an answer; `false` where nobody takes it any more. A client that reads no answers
    /// holds up nobody else.
    async fn send(&mut self, answer: WriteContentResponse) -> Result<bool, Status> {
        loop {
            let demand = tokio::select! {
                biased;
                sent = self.answers.reserve() => match sent {
                    Ok(place) => {
                        place.send(Ok(answer));
                        return Ok(true);
                    }
                    Err(_) => return Ok(false),
                },
                demand = self.held.demand() => demand,
            };
            self.meet(demand).await?;
        }
    }

    async fn meet(&mut self, demand: Demand) -> Result<(), Status> {
        match demand {
            // Nobody may be waiting for the answer any more.
            Demand::Alive(answer) => drop(answer.send(())),
            Demand::Abort(answer) => {
                let Some(upload) = self.upload.take() else { return Ok(()) };
                let key = upload.key.clone();
                drop(answer.send(blocking(move || upload.abort()).await));
                let message = format!("ingest {key} was removed while it was written");
                return Err(status(&Error::new(ErrorKind::Aborted, message)));
            }
        }
        Ok(())
    }
}

/// An open ingest and what its client said of it.
struct Upload {
    content: ContentStore,
    key: IngestKey,
    /// `None` once it is committed.
    writer: Option<IngestWriter>,
    /// 0 where the client did not say.
    total: u64,
    /// As the client wrote it: what is no digest is only refused at the commit.
    expected: String,
}

impl Upload {
    fn open(
        content: ContentStore,
        key: IngestKey,
        first: &WriteContentRequest,
        sharing: Sharing,
    ) -> Result<Self> {
        let total = total(first);
        let said = Expected { digest: first.expected.parse().ok(), size: positive(total) };
        let writer = content.open_writer(&key, said, sharing)?;
        Ok(Self { content, key, writer: Some(writer), total, expected: first.expected.clone() })
    }

    fn turn(
        &mut self,
        request: WriteContentRequest,
    ) -> Result<(WriteContentResponse, Option<Info>)> {
        let action = WriteAction::try_from(request.action)
            .context(ErrorKind::InvalidArgument, || format!("write ingest {}", self.key))?;
        if !request.expected.is_empty() {
            self.expected.clone_from(&request.expected);
            if let Ok(digest) = self.expected.parse::<Digest>()
                && self.content.contains(&digest)?
            {
                self.writer.take().map_or(Ok(()), IngestWriter::abort)?;
                let message = format!("content {digest} is there");
                return Err(Error::new(ErrorKind::AlreadyExists, message));
            }
        }
        if total(&request) > 0 {
            self.total = total(&request);
        }
        if action != WriteAction::Stat {
            self.write(&request)?;
        }
        let answer = self.answer(action)?;
        if action != WriteAction::Commit {
            return Ok((answer, None));
        }
        let info = self.commit(request.labels.into_iter().collect())?;
        let offset = i64::try_from(info.size).unwrap_or(i64::MAX);
        let answer = WriteContentResponse { digest: info.digest.to_string(), offset, ..answer };
        Ok((answer, Some(info)))
    }

    /// An offset that is not named is 0: what is there is thrown away, even if no data come.
    fn write(&mut self, request: &WriteContentRequest) -> Result<()> {
        let writer = open(&mut self.writer, &self.key)?;
        let at = writer.status()?.offset;
        if request.offset == 0 && at > 0 {
            writer.truncate()?;
        } else if u64::try_from(request.offset) != Ok(at) {
            let message = format!("write @{} must occur at current offset {at}", request.offset);
            return Err(Error::new(ErrorKind::OutOfRange, message));
        }
        writer.write(&request.data)
    }

    fn commit(&mut self, labels: Labels) -> Result<Info> {
        let Some(writer) = self.writer.take() else { return Err(closed(&self.key)) };
        check_labels(&labels)?;
        let digest = match self.expected.as_str() {
            "" => None,
            text => {
                let what = || format!("commit ingest {} as {text:?}", self.key);
                Some(text.parse().context(ErrorKind::FailedPrecondition, what)?)
            }
        };
        writer.commit(Expected { digest, size: positive(self.total) }, &labels)
    }

    fn answer(&mut self, action: WriteAction) -> Result<WriteContentResponse> {
        let writer = open(&mut self.writer, &self.key)?;
        let status = writer.status()?;
        Ok(WriteContentResponse {
            action: action.into(),
            started_at: Some(timestamp(status.started_at)),
            updated_at: Some(timestamp(status.updated_at)),
            offset: i64::try_from(status.offset).unwrap_or(i64::MAX),
            total: i64::try_from(self.total).unwrap_or(i64::MAX),
            digest: writer.digest()?.to_string(),
        })
    }

    fn abort(self) -> Result<()> {
        self.writer.map_or(Ok(()), IngestWriter::abort)
    }
}

fn open<'a>(writer: &'a mut Option<IngestWriter>, key: &IngestKey) -> Result<&'a mut IngestWriter> {
    writer.as_mut().ok_or_else(|| closed(key))
}

fn closed(key: &IngestKey) -> Error {
    Error::new(ErrorKind::Internal, format!("ingest {key} is closed"))
}

/// The total that a message names; 0 where it names none.
fn total(request: &WriteContentRequest) -> u64 {
    u64::try_from(request.total).unwrap_or(0)
}

fn positive(total: u64) -> Option<u64> {
    (total > 0).then_some(total)
}
