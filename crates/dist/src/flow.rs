//! How the bytes of one blob come to its ingest, in their order: on one connection, or from parts.
//!
//! It begins with one connection, whose bytes are written and passed on as they come. When a second
//! one is worth having, both become workers that fill the ingest's file, and what is passed on is
//! read from there. Where there are no workers, or none any more, one connection brings the next gap.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use dist_core::{Context as _, Descriptor, ErrorKind, Event, Parts, Progress, Result, Writer};

use crate::blocking::{Body, Downloads};
use crate::parts::{Crew, Found, Whole};
use crate::servers::{Advice, Pace, Standing, WORTH_BYTES};

/// The bytes of one blob on their way.
pub(crate) struct Flow {
    desc: Descriptor,
    downloads: Downloads,
    progress: Arc<dyn Progress>,
    /// The one connection, which brings all from the offset on.
    body: Option<Body>,
    /// How far it is read: something is there behind.
    until: u64,
    parts: Option<Divided>,
}

/// A blob that can have parts.
struct Divided {
    parts: Arc<dyn Parts>,
    /// `None` as long as there is one connection.
    crew: Option<Crew>,
    /// `None` where it stays with what it has.
    pace: Option<Pace>,
}

/// What came next.
#[derive(PartialEq, Eq)]
pub(crate) enum Came {
    /// This, which is written.
    Chunk(Bytes),
    /// So many bytes, which are in the buffer.
    Taken(usize),
    /// Nothing: all was there.
    End,
}

impl Flow {
    /// Begins where `writer` stands.
    ///
    /// # Errors
    /// `Storage`.
    pub(crate) fn begin(
        desc: &Descriptor,
        downloads: &Downloads,
        writer: &mut dyn Writer,
        progress: &Arc<dyn Progress>,
    ) -> Result<Self> {
        let parts = match downloads.server() {
            Some(server) if desc.size >= WORTH_BYTES => {
                let pace = Pace::new(Arc::clone(server));
                let divided = |parts| Divided { parts, crew: None, pace: Some(pace) };
                writer.parts()?.map(divided)
            }
            _ => None,
        };
        let mut flow = Self {
            desc: desc.clone(),
            downloads: downloads.clone(),
            progress: Arc::clone(progress),
            body: None,
            until: desc.size,
            parts,
        };
        let offset = writer.offset();
        match &mut flow.parts {
            Some(divided) if divided.parts.there().next_from(offset).is_some() => {
                let whole = whole(&flow.desc, &flow.downloads, &flow.progress, &divided.parts);
                divided.crew = Some(Crew::new(whole, None));
            }
            // A left ingest can be whole already: then there is nothing to ask for.
            _ if offset < desc.size => flow.body = Some(downloads.start(desc, offset)),
            _ => {}
        }
        Ok(flow)
    }

    /// How many bytes are there already.
    pub(crate) fn there(&self) -> u64 {
        self.parts.as_ref().map_or(0, |divided| divided.parts.there().bytes())
    }

    /// Waits for what comes next and writes it.
    ///
    /// # Errors
    /// Those of the remote; `Storage`.
    pub(crate) fn next(&mut self, writer: &mut dyn Writer, buffer: &mut [u8]) -> Result<Came> {
        loop {
            self.adjust(writer.offset());
            let Some(divided) = &mut self.parts else { return self.receive(writer) };
            if self.body.is_some() {
                return self.receive(writer);
            }
            let seen = divided.crew.as_ref().map_or(0, Crew::news);
            let taken = writer.take_up(buffer)?;
            if taken > 0 {
                return Ok(Came::Taken(taken));
            }
            let offset = writer.offset();
            if offset == self.desc.size {
                return Ok(Came::End);
            }
            self.downloads.check()?;
            if let Some(crew) = &divided.crew {
                let began = Instant::now();
                let found = crew.wait(seen)?;
                if let Some(pace) = &mut divided.pace {
                    pace.waited(began.elapsed());
                }
                if matches!(found, Found::Perhaps) {
                    continue;
                }
                (divided.crew, divided.pace) = (None, None);
                continue;
            }
            // Nobody brings parts any more: gap by gap, and with all the patience that a download has.
            let next = divided.parts.there().next_from(offset);
            let whole_only = self.downloads.server().is_none();
            self.until = next.filter(|_| !whole_only).unwrap_or(self.desc.size);
            self.body = Some(self.downloads.start(&self.desc, offset));
        }
    }

    /// Receives from the one connection.
    fn receive(&mut self, writer: &mut dyn Writer) -> Result<Came> {
        let Some(body) = &mut self.body else { return Ok(Came::End) };
        let began = Instant::now();
        let Some(mut chunk) = body.next_chunk()? else { return Ok(Came::End) };
        if let Some(pace) = self.parts.as_mut().and_then(|divided| divided.pace.as_mut()) {
            pace.waited(began.elapsed());
        }
        let left = self.until.saturating_sub(writer.offset());
        if self.until < self.desc.size && chunk.len() as u64 >= left {
            chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            self.body = None;
        }
        writer
            .write_all(&chunk)
            .context(ErrorKind::Storage, || format!("write the ingest of {}", self.desc.digest))?;
        let bytes = chunk.len() as u64;
        self.progress.event(Event::Advanced { digest: self.desc.digest, bytes });
        Ok(Came::Chunk(chunk))
    }

    /// Has as many connections as the pace asks for.
    fn adjust(&mut self, offset: u64) {
        let size = self.desc.size;
        let Some(Divided { parts, crew, pace: Some(pace) }) = &mut self.parts else { return };
        let standing = match crew {
            Some(crew) => crew.standing(),
            None => Standing { connections: 1, silent: 0, came: offset, missing: size - offset },
        };
        match pace.look(Instant::now(), standing) {
            Some(Advice::Grow { to, rate }) => {
                let crew = crew.get_or_insert_with(|| {
                    let first = self.body.take().map(|body| (body, offset));
                    Crew::new(whole(&self.desc, &self.downloads, &self.progress, parts), first)
                });
                crew.grow(to, rate);
            }
            Some(Advice::Shrink { to }) => {
                if let Some(crew) = crew {
                    crew.shrink(to);
                }
            }
            None => {}
        }
    }
}

fn whole(
    desc: &Descriptor,
    downloads: &Downloads,
    progress: &Arc<dyn Progress>,
    parts: &Arc<dyn Parts>,
) -> Whole {
    Whole {
        desc: desc.clone(),
        downloads: downloads.clone(),
        parts: Arc::clone(parts),
        progress: Arc::clone(progress),
    }
}
