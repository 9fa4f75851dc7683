//! Inflating on a thread of its own, while a core would be idle otherwise.
//!
//! A fixed number of buffers goes round: full ones forward, used ones back. Nothing is allocated
//! after the start, and the thread can be ahead by no more than the ring holds.

use std::io::Read;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, Scope};

use dist_core::{Error, ErrorKind, Meter, Result, Stage, enter};

use super::{Chunks, Inflater, buffer};
use crate::Cores;
use crate::cores::Core;

/// Buffers that go round: 2 MiB, enough to even out a burst of small files.
const BUFFERS: usize = 8;

/// Runs `work` over the chunks of a layer. They are made on its own thread, and on another one as
/// soon as a core is idle.
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
    /// Moves the inflating to a thread of its own. Where none can be started, all stays as it is.
    fn split(&mut self, core: Core) {
        let (far, near) = ring();
        let (hand_over, take_over) = sync_channel(1);
        let meter = Meter::of_this_thread();
        let thread = move || {
            let _running = meter.map(|(meter, _)| meter.start(Stage::Wait));
            let _core = core;
            if let Ok(inflater) = take_over.recv() {
                far.run(inflater);
            }
        };
        if let Err(error) = Builder::new().name("inflate".into()).spawn_scoped(self.scope, thread) {
            tracing::debug!(%error, "start a thread");
            return;
        }
        if let Made::Here(inflater) = std::mem::replace(&mut self.made, Made::Elsewhere(near)) {
            // The other end is there until it has got this.
            let _ = hand_over.send(inflater);
        }
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
}

type Full = Result<(Box<[u8]>, usize)>;

/// The end that gets chunks which another thread made.
struct Ring {
    full: Receiver<Full>,
    used: SyncSender<Box<[u8]>>,
}

/// The end that makes them.
struct Pump {
    full: SyncSender<Full>,
    used: Receiver<Box<[u8]>>,
}

/// Makes both ends. The pump ends when the ring is dropped, at the latest when its input gives the
/// next bytes.
fn ring() -> (Pump, Ring) {
    let (full_in, full_out) = sync_channel(BUFFERS);
    let (used_in, used_out) = sync_channel(BUFFERS + 1);
    for _ in 0..BUFFERS {
        // The channel has room for all of them and its other end is here: it cannot fail.
        let _ = used_in.try_send(buffer());
    }
    (Pump { full: full_in, used: used_out }, Ring { full: full_out, used: used_in })
}

impl Pump {
    /// Makes chunks until the end, an error, or until nobody wants more.
    fn run(self, mut chunks: impl Chunks) {
        while let Ok(mut buffer) = self.used.recv() {
            let made = chunks.next(&mut buffer);
            let last = !matches!(&made, Ok(made) if *made == buffer.len());
            if self.full.send(made.map(|made| (buffer, made))).is_err() || last {
                return;
            }
        }
    }
}

impl Chunks for Ring {
    fn next(&mut self, buffer: &mut Box<[u8]>) -> Result<usize> {
        let gone = || Error::new(ErrorKind::Internal, "read layer: its inflating thread is gone");
        let _wait = enter(Stage::Wait);
        let (full, made) = self.full.recv().map_err(|_| gone())??;
        let used = std::mem::replace(buffer, full);
        // Closed once the last chunk was made: then no buffer is needed any more.
        let _ = self.used.try_send(used);
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;
    use crate::compression::{CHUNK, Inflater, Stream};
    use dist_core::{Compression, Hasher, MediaType};

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
            let (pump, mut ring) = ring();
            scope.spawn(|| pump.run(inflater));
            ring.next(&mut buffer()).unwrap();
            drop(ring); // the scope ends only if the pump does
        });
    }
}
