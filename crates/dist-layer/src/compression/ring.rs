//! Inflating and hashing on threads of their own, while a core would be idle otherwise.
//!
//! A fixed number of buffers goes round: full ones forward, used ones back. Nothing is allocated
//! after the start, and the threads can be ahead by no more than the ring holds. There is one thread
//! for each of the two: what takes longest, inflating or making files, differs from file to file.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, Scope};

use dist_core::{Digest, Error, ErrorKind, Hasher, Meter, Result, Stage, enter};

use super::{Chunks, Inflater, buffer};
use crate::Cores;
use crate::cores::Core;

/// Buffers that go round: 2 MiB, enough to even out a burst of small files.
const BUFFERS: usize = 8;

/// Runs `work` over the chunks of a layer. They are made on its own thread, and on others as soon as
/// a core is idle.
pub(crate) fn inflating<'env, R: Read + Send + 'env, T>(
    inflater: Inflater<R>,
    cores: &'env Cores,
    work: impl for<'scope> FnOnce(Inflating<'scope, 'env, R>) -> T,
) -> T {
    let _core = cores.enter();
    std::thread::scope(|scope| work(Inflating { scope, cores, made: Made::Here(inflater) }))
}

/// Chunks that are made where there is a core for it.
pub(crate) struct Inflating<'scope, 'env, R> {
    scope: &'scope Scope<'scope, 'env>,
    cores: &'env Cores,
    made: Made<Inflater<R>>,
}

enum Made<C> {
    Here(C),
    Elsewhere(Ring),
}

impl<'scope, R: Read + Send + 'scope> Inflating<'scope, '_, R> {
    /// Moves the work to threads of its own. Where none can be started, all stays as it is.
    fn split(&mut self, core: Core) {
        let (pump, hash, ring) = ring();
        let (hand_over, take_over) = sync_channel::<Inflater<R>>(1);
        let (hand_hasher, take_hasher) = sync_channel::<Hasher>(1);
        let inflate = move || {
            let _core = core;
            if let Ok(inflater) = take_over.recv() {
                pump.run(inflater);
            }
        };
        let hash = move || {
            if let Ok(hasher) = take_hasher.recv() {
                hash.run(hasher);
            }
        };
        let started = self.start("inflate", inflate).and_then(|()| self.start("hash", hash));
        if let Err(error) = started {
            tracing::debug!(%error, "start a thread");
            return;
        }
        if let Made::Here(mut inflater) = std::mem::replace(&mut self.made, Made::Elsewhere(ring)) {
            // The other ends are there until they have got these.
            let _ = hand_hasher.send(inflater.give_hasher());
            let _ = hand_over.send(inflater);
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
    fn next(&mut self, buffer: &mut Box<[u8]>) -> Result<usize> {
        if let (Made::Here(_), Some(core)) = (&self.made, self.cores.idle()) {
            self.split(core);
        }
        match &mut self.made {
            Made::Here(inflater) => inflater.next(buffer),
            Made::Elsewhere(ring) => ring.next(buffer),
        }
    }

    fn digest(&mut self) -> Result<Digest> {
        match &mut self.made {
            Made::Here(inflater) => inflater.digest(),
            Made::Elsewhere(ring) => ring.digest(),
        }
    }
}

/// A chunk that is made, and its length.
type Full = Result<(Box<[u8]>, usize)>;

/// A chunk that is hashed; with the last one comes the digest of all.
type Hashed = Result<(Box<[u8]>, usize, Option<Digest>)>;

/// The end that gets chunks which other threads made.
struct Ring {
    hashed: Receiver<Hashed>,
    used: SyncSender<Box<[u8]>>,
    digest: Option<Digest>,
}

/// The end that makes them.
struct Pump {
    full: SyncSender<Full>,
    used: Receiver<Box<[u8]>>,
}

/// What is in between.
struct Hash {
    full: Receiver<Full>,
    hashed: SyncSender<Hashed>,
}

/// Makes all that goes round. The pump ends when the ring is dropped, at the latest when its input
/// gives the next bytes.
fn ring() -> (Pump, Hash, Ring) {
    let (full_in, full_out) = sync_channel(BUFFERS);
    let (hashed_in, hashed_out) = sync_channel(BUFFERS);
    let (used_in, used_out) = sync_channel(BUFFERS + 1);
    for _ in 0..BUFFERS {
        // The channel has room for all of them and its other end is here: it cannot fail.
        let _ = used_in.try_send(buffer());
    }
    (
        Pump { full: full_in, used: used_out },
        Hash { full: full_out, hashed: hashed_in },
        Ring { hashed: hashed_out, used: used_in, digest: None },
    )
}

impl Pump {
    /// Makes chunks until the end, an error, or until nobody wants more.
    fn run(self, mut inflater: Inflater<impl Read>) {
        while let Ok(mut buffer) = self.used.recv() {
            let made = inflater.make(&mut buffer);
            let last = !matches!(&made, Ok(made) if *made == buffer.len());
            if self.full.send(made.map(|made| (buffer, made))).is_err() || last {
                return;
            }
        }
    }
}

impl Hash {
    /// Hashes chunks until the last one, an error, or until nobody wants more.
    fn run(self, mut hasher: Hasher) {
        while let Ok(full) = self.full.recv() {
            let hashed = full.map(|(buffer, made)| {
                let _hash = enter(Stage::Hash);
                hasher.update(&buffer[..made]);
                let digest = (made < buffer.len()).then(|| hasher.clone().finish());
                (buffer, made, digest)
            });
            if self.hashed.send(hashed).is_err() {
                return;
            }
        }
    }
}

impl Chunks for Ring {
    fn next(&mut self, buffer: &mut Box<[u8]>) -> Result<usize> {
        let _wait = enter(Stage::Wait);
        let (full, made, digest) = self.hashed.recv().map_err(|_| gone())??;
        self.digest = digest;
        let used = std::mem::replace(buffer, full);
        // Closed once the last chunk was made: then no buffer is needed any more.
        let _ = self.used.try_send(used);
        Ok(made)
    }

    fn digest(&mut self) -> Result<Digest> {
        self.digest.ok_or_else(gone)
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
            chunks.next(&mut buffer()).unwrap();
            assert!(matches!(chunks.made, Made::Here(_)));
            drop(other);
            chunks.next(&mut buffer()).unwrap();
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
            ring.next(&mut buffer()).unwrap();
            drop(ring); // the scope ends only if both threads do
        });
    }
}
