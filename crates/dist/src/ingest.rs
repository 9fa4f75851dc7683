//! One blob from a remote into the store.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use dist_core::{
    Cancel, Committed, ContentMismatch, Context as _, Descriptor, Error, ErrorKind, Event,
    Expected, Ingest, Progress, Result, Stage, Writer, enter,
};
use futures_util::{StreamExt as _, TryStreamExt as _};
use tracing::debug;

use crate::Contents;
use crate::blocking::{Downloads, blocking};
use crate::flow::{Came, Flow};

/// Bytes that are taken up at once where nobody reads them.
const DRAINED: usize = 64 << 10;

/// What the writers of one operation share.
#[derive(Clone)]
pub(crate) struct Intake {
    pub(crate) content: Arc<dyn Contents>,
    pub(crate) downloads: Option<Downloads>,
    pub(crate) progress: Arc<dyn Progress>,
    pub(crate) cancel: Cancel,
}

impl Intake {
    /// Brings `desc` into the store: nothing to do where it is there, resumed where it was begun.
    pub(crate) async fn fetch(&self, desc: &Descriptor) -> Result<()> {
        let intake = self.clone();
        let desc = desc.clone();
        blocking(move || intake.fetch_blocking(&desc)).await
    }

    /// Brings each of `blobs`, `jobs` at a time. Nothing else is counted of the thread that waits.
    pub(crate) async fn fetch_all(&self, blobs: &[&Descriptor], jobs: usize) -> Result<()> {
        let fetches: Vec<_> = blobs.iter().map(|blob| self.fetch(blob)).collect();
        let _idle = enter(Stage::Idle);
        futures_util::stream::iter(fetches).buffer_unordered(jobs).try_collect().await
    }

    /// [`Intake::fetch`] for a thread that may block.
    pub(crate) fn fetch_blocking(&self, desc: &Descriptor) -> Result<()> {
        match self.open(desc)? {
            Opened::Exists => Ok(()),
            Opened::Arriving(mut arriving) => {
                if let Err(error) = arriving.drain(u64::MAX) {
                    return Err(arriving.give_up(error));
                }
                match self.finish(desc, *arriving) {
                    Err(Unfinished::Again(error)) => {
                        debug!(digest = %desc.digest, %error, "what came was other content, starting over");
                        self.fetch_blocking(desc)
                    }
                    Err(Unfinished::Final(error)) => Err(error),
                    Ok(()) => Ok(()),
                }
            }
        }
    }

    /// Opens the ingest of `desc` and begins its body where that is needed.
    pub(crate) fn open(&self, desc: &Descriptor) -> Result<Opened> {
        match self.content.ingest(&desc.ingest_key(), desc.into(), &self.cancel)? {
            Ingest::Exists(found) => {
                created(&*self.progress, &found);
                self.progress.event(Event::Existed { desc });
                Ok(Opened::Exists)
            }
            Ingest::Writer(mut writer) => {
                let Some(downloads) = &self.downloads else {
                    if writer.offset() == 0 {
                        writer.abort()?; // what a pull left is not ours to throw away
                    }
                    return Err(Error::new(
                        ErrorKind::NotFound,
                        format!("{} {} is not in the store", desc.media_type.noun(), desc.digest),
                    ));
                };
                let offset = writer.offset();
                let flow = Flow::begin(desc, downloads, &mut *writer, &self.progress)?;
                let there = flow.there().max(offset);
                self.progress.event(Event::Started { desc, offset: there });
                Ok(Opened::Arriving(Box::new(Arriving {
                    desc: desc.clone(),
                    writer,
                    left: None,
                    flow,
                    chunk: Bytes::new(),
                    resumed: there > 0,
                    failure: None,
                })))
            }
        }
    }

    /// Commits what arrived. Content that is not what it should be is thrown away.
    pub(crate) fn finish(&self, desc: &Descriptor, arriving: Arriving) -> Result<(), Unfinished> {
        let Arriving { writer, resumed, flow, .. } = arriving;
        drop(flow);
        let _commit = enter(Stage::Commit);
        match writer.commit_or_abort(Expected::from(desc)) {
            Ok(committed) => {
                created(&*self.progress, &committed);
                self.progress.event(Event::Committed { digest: desc.digest });
                Ok(())
            }
            Err(error)
                if error.kind() == ErrorKind::Corrupt
                    || error.find::<ContentMismatch>().is_some() =>
            {
                let error = Error::new(
                    ErrorKind::Corrupt,
                    format!("verify {} {}", desc.media_type.noun(), desc.digest),
                )
                .with_source(error);
                let downloads = self.downloads.as_ref();
                let again = resumed || downloads.is_some_and(|downloads| downloads.doubt(desc));
                Err(if again { Unfinished::Again(error) } else { Unfinished::Final(error) })
            }
            Err(error) => Err(Unfinished::Final(error)),
        }
    }
}

/// Tells of a blob that the namespace did not have.
pub(crate) fn created(progress: &dyn Progress, committed: &Committed) {
    if let Committed::New(info) = committed {
        progress.event(Event::Created { digest: info.digest, size: info.size });
    }
}

/// Why an ingest was not committed.
pub(crate) enum Unfinished {
    /// Bytes that an earlier process left were part of it, or somebody else may have it; a new attempt
    /// starts at 0.
    Again(Error),
    /// Trying again would end the same way.
    Final(Error),
}

impl From<Error> for Unfinished {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl From<Unfinished> for Error {
    fn from(unfinished: Unfinished) -> Self {
        match unfinished {
            Unfinished::Again(error) | Unfinished::Final(error) => error,
        }
    }
}

/// The two ways to get at a blob.
pub(crate) enum Opened {
    /// It is in the store.
    Exists,
    /// It arrives; reading it writes it.
    Arriving(Box<Arriving>),
}

/// A blob on its way: every byte that is read has been written to its ingest and hashed.
///
/// What an earlier process left can be read from the ingest first, then the network.
pub(crate) struct Arriving {
    desc: Descriptor,
    flow: Flow,
    writer: Box<dyn Writer>,
    left: Option<io::Take<std::fs::File>>,
    chunk: Bytes,
    resumed: bool,
    failure: Option<Error>,
}

impl Arriving {
    /// Has what an earlier process left read first. Without it only what is new is read: the rest
    /// is written and hashed already.
    ///
    /// # Errors
    /// Those of [`Writer::written`].
    pub(crate) fn read_what_is_left(&mut self) -> Result<()> {
        let offset = self.writer.offset();
        if offset > 0 {
            self.left = Some(self.writer.written()?.take(offset));
        }
        Ok(())
    }

    /// Why the bytes stopped, where reading failed because of the network or the disk.
    pub(crate) fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    /// Keeps `error` for whoever ends the ingest; the reader in between only has to stop.
    fn fail(&mut self, error: Error) -> io::Error {
        let stop = Error::new(error.kind(), "the bytes stopped");
        self.failure = Some(error);
        stop.into_io()
    }

    /// Ends without a commit, because of an error of the body or the disk. What arrived can be
    /// resumed, unless the error says that it is wrong.
    pub(crate) fn give_up(self, error: Error) -> Error {
        if error.kind() != ErrorKind::Corrupt {
            return error;
        }
        self.writer.abort().err().unwrap_or(error)
    }

    /// Ends without a commit, because of what the bytes mean. They are kept for a next attempt,
    /// unless an earlier process left some of them: those may be what is wrong.
    pub(crate) fn leave(self) -> Result<()> {
        if self.resumed { self.writer.abort() } else { Ok(()) }
    }

    /// Receives what is left of the body, at most `limit` bytes; returns whether it ended.
    pub(crate) fn drain(&mut self, limit: u64) -> Result<bool> {
        self.chunk.clear();
        self.left = None;
        let remaining = self.desc.size.saturating_sub(self.writer.offset());
        if remaining > limit {
            return Ok(false);
        }
        let mut buffer = vec![0; DRAINED];
        while self.flow.next(&mut *self.writer, &mut buffer)? != Came::End {}
        Ok(true)
    }
}

impl Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(left) = &mut self.left {
            match left.read(buffer) {
                Ok(0) if !buffer.is_empty() => self.left = None,
                Ok(length) => return Ok(length),
                Err(error) => {
                    let what = || format!("read the ingest of {}", self.desc.digest);
                    let error = Err::<(), _>(error).context(ErrorKind::Storage, what);
                    return error.map_or_else(|error| Err(self.fail(error)), |()| Ok(0));
                }
            }
        }
        while self.chunk.is_empty() {
            match self.flow.next(&mut *self.writer, buffer) {
                Ok(Came::Chunk(chunk)) => self.chunk = chunk,
                Ok(Came::Taken(length)) => return Ok(length),
                Ok(Came::End) => return Ok(0),
                Err(error) => return Err(self.fail(error)),
            }
        }
        let length = buffer.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}
