//! Receiving, inflating and hashing on threads of their own, while a core would be idle otherwise.
//!
//! A fixed number of buffers goes round. Nothing is allocated for them after the start, and the
//! threads can be ahead by no more than the rings hold. Each of the works has a thread: which of
//! them takes longest, or whether making files does, differs from file to file. An inflated chunk is
//! hashed while it is made files of; whoever is done last gives it back.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, Scope};

use dist_core::{Digest, Error, ErrorKind, Hasher, Meter, Result, Stage, enter};

use super::ahead::{self, Ahead};
use super::stretches::{Cutter, help};
use super::{Chunk, Chunks, Inflater, chunk};
use crate::Cores;
use crate::cores::Core;

/// Chunks that go round: 1.5 MiB, enough to even out a burst of small files.
const CHUNKS: usize = 6;

/// Runs `work` over the chunks of a layer. They are made on its own thread, and on others as soon as
/// a core is idle.
pub(crate) fn inflating<'env, R: Read + Send + 'env, T>(
    inflater: Inflater<R>,
    cores: &'env Cores,
    work: impl for<'scope> FnOnce(Inflating<'scope, 'env, R>) -> T,
) -> T {
    let _core = cores.enter();
    std::thread::scope(|scope| {
        work(Inflating { scope, cores, made: Made::Here(inflater), refused: false })
    })
}

/// Chunks that are made where there is a core for it.
pub(crate) struct Inflating<'scope, 'env, R> {
    scope: &'scope Scope<'scope, 'env>,
    cores: &'env Cores,
    made: Made<Inflater<R>>,
    /// Whether a thread could not be started: none will be asked for again.
    refused: bool,
}

enum Made<C> {
    Here(C),
    Elsewhere(Ring),
}

impl<'scope, 'env, R: Read + Send + 'scope> Inflating<'scope, 'env, R> {
    /// Moves the work to threads of its own. Where none can be started, all stays as it is.
    fn split(&mut self, core: Core) {
        let (pump, hash, ring) = ring();
        let (receive, ahead) = ahead::ahead();
        let (hand_reader, take_reader) = sync_channel(1);
        let (hand_inflater, take_inflater) = sync_channel::<Inflater<Ahead>>(1);
        let (hand_hasher, take_hasher) = sync_channel::<Hasher>(1);
        let received = move || {
            if let Ok((reader, cutter)) = take_reader.recv() {
                let mut cutter: Option<Cutter<_>> = cutter;
                receive.run(reader, |bytes| cutter.as_mut().map_or(0, |cutter| cutter.see(bytes)));
            }
        };
        let inflate = move || {
            let _core = core;
            if let Ok(inflater) = take_inflater.recv() {
                pump.run(inflater);
            }
        };
        let hash = move || {
            if let Ok(hasher) = take_hasher.recv() {
                hash.run(hasher);
            }
        };
        let scope = self.scope;
        let started = start(scope, "receive", received)
            .and_then(|()| start(scope, "inflate", inflate))
            .and_then(|()| start(scope, "hash", hash));
        if let Err(error) = started {
            tracing::debug!(%error, "start a thread");
            self.refused = true;
            return;
        }
        if let Made::Here(mut inflater) = std::mem::replace(&mut self.made, Made::Elsewhere(ring)) {
            // The other ends are there until they have got these.
            let _ = hand_hasher.send(inflater.give_hasher());
            let cores = self.cores;
            let cutter = inflater.share(cores, move |jobs| {
                let Some(one) = cores.helper() else { return false };
                let help = move || {
                    let _one = one;
                    help(&jobs, cores);
                };
                start(scope, "help", help).is_ok()
            });
            let (inflater, reader) = inflater.exchange_reader(ahead);
            let _ = hand_reader.send((reader, cutter));
            let _ = hand_inflater.send(inflater);
        }
    }
}

fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() + Send + 'scope,
) -> io::Result<()> {
    let meter = Meter::of_this_thread();
    let thread = move || {
        let _running = meter.map(|(meter, _)| meter.start(Stage::Wait));
        work();
    };
    Builder::new().name(name.into()).spawn_scoped(scope, thread).map(drop)
}

impl<'scope, R: Read + Send + 'scope> Chunks for Inflating<'scope, '_, R> {
    fn next(&mut self, chunk: &mut Chunk) -> Result<usize> {
        if !self.refused
            && let (Made::Here(_), Some(core)) = (&self.made, self.cores.idle())
        {
            self.split(core);
        }
        match &mut self.made {
            Made::Here(inflater) => inflater.next(chunk),
            Made::Elsewhere(ring) => ring.next(chunk),
        }
    }

    fn digest(&mut self) -> Result<Digest> {
        match &mut self.made {
            Made::Here(inflater) => inflater.digest(),
            Made::Elsewhere(ring) => ring.digest(),
        }
    }

    fn is_behind(&self) -> bool {
        matches!(&self.made, Made::Elsewhere(ring) if ring.behind)
    }
}

/// A chunk that is made, and its length.
type Full = (Chunk, usize);

/// A chunk that is not needed any more; `None` when none will be.
type Used = Option<Chunk>;

/// The end that gets chunks which another thread made.
struct Ring {
    full: Receiver<Result<Full>>,
    used: SyncSender<Used>,
    digest: Receiver<Digest>,
    /// Whether the last chunk did not have to be waited for.
    behind: bool,
}

/// The end that makes them.
struct Pump {
    full: SyncSender<Result<Full>>,
    to_hash: SyncSender<Full>,
    used: Receiver<Used>,
}

/// What hashes them at the same time.
struct Hash {
    full: Receiver<Full>,
    used: SyncSender<Used>,
    digest: SyncSender<Digest>,
}

/// Makes all that goes round. The pump ends when the ring is dropped, at the latest when its input
/// gives the next bytes.
fn ring() -> (Pump, Hash, Ring) {
    let (full_in, full_out) = sync_channel(CHUNKS);
    let (hash_in, hash_out) = sync_channel(CHUNKS);
    // Those that go round, the one that was there before, and the end.
    let (used_in, used_out) = sync_channel(CHUNKS + 2);
    let (digest_in, digest_out) = sync_channel(1);
    for _ in 0..CHUNKS {
        // The channel has room for all of them and its other end is here: it cannot fail.
        let _ = used_in.try_send(Some(chunk()));
    }
    (
        Pump { full: full_in, to_hash: hash_in, used: used_out },
        Hash { full: hash_out, used: used_in.clone(), digest: digest_in },
        Ring { full: full_out, used: used_in, digest: digest_out, behind: false },
    )
}

/// Gives a chunk back unless somebody else still has it.
fn give_back(used: &SyncSender<Used>, chunk: Chunk) {
    if let Some(bytes) = Arc::into_inner(chunk) {
        // Closed once the last chunk was made: then none is needed any more.
        let _ = used.try_send(Some(Arc::new(bytes)));
    }
}

impl Pump {
    /// Makes chunks until the end, an error, or until nobody wants more.
    fn run(self, mut inflater: Inflater<impl Read>) {
        while let Ok(Some(mut chunk)) = self.used.recv() {
            let made = match Arc::get_mut(&mut chunk) {
                Some(bytes) => inflater.make(bytes),
                None => Err(gone()),
            };
            let last = !matches!(&made, Ok(made) if *made == chunk.len());
            let full = made.map(|made| (chunk, made));
            if let Ok((chunk, made)) = &full
                && self.to_hash.send((Arc::clone(chunk), *made)).is_err()
            {
                return;
            }
            if self.full.send(full).is_err() || last {
                return;
            }
        }
    }
}

impl Hash {
    /// Hashes chunks until there are no more; only of the digest after the last one is made use.
    fn run(self, mut hasher: Hasher) {
        let Self { full, used, digest } = self;
        while let Ok((chunk, made)) = full.recv() {
            let _hash = enter(Stage::Hash);
            hasher.update(&chunk[..made]);
            give_back(&used, chunk);
        }
        let _ = digest.send(hasher.finish());
    }
}

impl Chunks for Ring {
    fn next(&mut self, chunk: &mut Chunk) -> Result<usize> {
        let _wait = enter(Stage::Wait);
        let there = self.full.try_recv();
        self.behind = there.is_ok();
        let (full, made) = there.or_else(|_| self.full.recv()).map_err(|_| gone())??;
        give_back(&self.used, std::mem::replace(chunk, full));
        Ok(made)
    }

    fn digest(&mut self) -> Result<Digest> {
        let _wait = enter(Stage::Wait);
        self.digest.recv().map_err(|_| gone())
    }
}

impl Drop for Ring {
    /// Ends the pump: chunks that nobody took are gone, and the hash still could give some back.
    fn drop(&mut self) {
        let _ = self.used.try_send(None);
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::Internal, "read layer: a thread that inflates or hashes is gone")
}

#[cfg(test)]
mod tests;
