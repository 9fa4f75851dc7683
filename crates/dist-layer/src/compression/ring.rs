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
use super::{Chunk, Chunks, Inflater, chunk};
use crate::Cores;
use crate::cores::Core;

/// Chunks that go round: 2 MiB, enough to even out a burst of small files.
const CHUNKS: usize = 8;

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

impl<'scope, R: Read + Send + 'scope> Inflating<'scope, '_, R> {
    /// Moves the work to threads of its own. Where none can be started, all stays as it is.
    fn split(&mut self, core: Core) {
        let (pump, hash, ring) = ring();
        let (receive, ahead) = ahead::ahead();
        let (hand_reader, take_reader) = sync_channel::<R>(1);
        let (hand_inflater, take_inflater) = sync_channel::<Inflater<Ahead>>(1);
        let (hand_hasher, take_hasher) = sync_channel::<Hasher>(1);
        let received = move || {
            if let Ok(reader) = take_reader.recv() {
                receive.run(reader);
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
        let started = self
            .start("receive", received)
            .and_then(|()| self.start("inflate", inflate))
            .and_then(|()| self.start("hash", hash));
        if let Err(error) = started {
            tracing::debug!(%error, "start a thread");
            self.refused = true;
            return;
        }
        if let Made::Here(mut inflater) = std::mem::replace(&mut self.made, Made::Elsewhere(ring)) {
            // The other ends are there until they have got these.
            let _ = hand_hasher.send(inflater.give_hasher());
            let (inflater, reader) = inflater.exchange_reader(ahead);
            let _ = hand_reader.send(reader);
            let _ = hand_inflater.send(inflater);
        }
    }

    fn start(&self, name: &str, work: impl FnOnce() + Send + 'scope) -> io::Result<()> {
        let meter = Meter::of_this_thread();
        let thread = move || {
            let _running = meter.map(|(meter, _)| meter.start(Stage::Wait));
            work();
        };
        Builder::new().name(name.into()).spawn_scoped(self.scope, thread).map(drop)
    }
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
mod tests {
    use super::*;
    use crate::Limits;
    use crate::compression::{CHUNK, Stream};
    use dist_core::{Compression, MediaType};

    fn ring_of(data: &[u8], use_up_to: usize) -> Result<(Vec<u8>, dist_core::DiffId)> {
        let media_type = MediaType::Layer(Compression::None);
        let inflater = Inflater::new(&media_type, data, Limits::default())?;
        inflating(inflater, &Cores::new(2), |chunks| {
            let mut stream = Stream::over(chunks);
            let mut read = Vec::new();
            stream.by_ref().take(use_up_to as u64).read_to_end(&mut read).unwrap();
            let (diff_id, size) = stream.finish()?;
            assert_eq!(size, data.len() as u64);
            Ok((read, diff_id))
        })
    }

    #[test]
    fn same_bytes_and_digest() {
        for length in [1, CHUNK - 1, CHUNK, CHUNK + 1, 20 * CHUNK + 7] {
            let data: Vec<u8> = (0..length).map(|i| (i * 7 % 251) as u8).collect();
            let mut hasher = Hasher::sha256();
            hasher.update(&data);
            let (read, diff_id) = ring_of(&data, length).unwrap();
            assert_eq!(read, data);
            assert_eq!(diff_id.0, hasher.finish());
            ring_of(&data, length / 2).unwrap();
        }
    }

    #[test]
    fn only_an_idle_core_takes_the_inflating_over() {
        let cores = Cores::new(2);
        let other = cores.enter();
        let data = vec![1; 8 * CHUNK];
        let media_type = MediaType::Layer(Compression::None);
        let inflater = Inflater::new(&media_type, &data[..], Limits::default()).unwrap();
        inflating(inflater, &cores, |mut chunks| {
            chunks.next(&mut chunk()).unwrap();
            assert!(matches!(chunks.made, Made::Here(_)));
            drop(other);
            chunks.next(&mut chunk()).unwrap();
            assert!(matches!(chunks.made, Made::Elsewhere(_)));
        });
        assert!(cores.idle().is_some() && cores.idle().is_some(), "both are given back");
    }

    #[test]
    fn a_dropped_ring_ends_the_pump() {
        let data = vec![1; 40 * CHUNK];
        std::thread::scope(|scope| {
            let media_type = MediaType::Layer(Compression::None);
            let inflater = Inflater::new(&media_type, &data[..], Limits::default()).unwrap();
            let (pump, hash, mut ring) = ring();
            scope.spawn(|| pump.run(inflater));
            scope.spawn(|| hash.run(Hasher::sha256()));
            ring.next(&mut chunk()).unwrap();
            drop(ring); // the scope ends only if both threads do
        });
    }
}
