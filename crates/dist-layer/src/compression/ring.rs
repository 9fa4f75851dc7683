//! Inflating on a thread of its own, for a layer that would leave a core idle.
//!
//! A fixed number of buffers goes round: full ones forward, used ones back. Nothing is allocated
//! after the start, and the thread can be ahead by no more than the ring holds.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use dist_core::{Error, ErrorKind, Result};

use super::{Chunks, buffer};

/// Buffers that go round: 2 MiB, enough to even out a burst of small files.
const BUFFERS: usize = 8;

type Full = Result<(Box<[u8]>, usize)>;

/// The end that gets chunks which another thread made.
pub(crate) struct Ring {
    full: Receiver<Full>,
    used: SyncSender<Box<[u8]>>,
}

/// The end that makes them.
pub(crate) struct Pump<C> {
    chunks: C,
    full: SyncSender<Full>,
    used: Receiver<Box<[u8]>>,
}

/// Splits the making of chunks from their use. The pump is to run on another thread; it ends when
/// the ring is dropped, at the latest when its input gives the next bytes.
pub(crate) fn split<C: Chunks>(chunks: C) -> (Pump<C>, Ring) {
    let (full_in, full_out) = sync_channel(BUFFERS);
    let (used_in, used_out) = sync_channel(BUFFERS + 1);
    for _ in 0..BUFFERS {
        // The channel has room for all of them and its other end is here: it cannot fail.
        let _ = used_in.try_send(buffer());
    }
    (Pump { chunks, full: full_in, used: used_out }, Ring { full: full_out, used: used_in })
}

impl<C: Chunks> Pump<C> {
    /// Makes chunks until the end, an error, or until nobody wants more.
    pub(crate) fn run(mut self) {
        while let Ok(mut buffer) = self.used.recv() {
            let made = self.chunks.next(&mut buffer);
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
    use std::io::Read as _;

    fn ring_of(data: &[u8], use_up_to: usize) -> Result<(Vec<u8>, dist_core::DiffId)> {
        let media_type = MediaType::Layer(Compression::None);
        std::thread::scope(|scope| {
            let (pump, ring) = split(Inflater::new(&media_type, data, Limits::default())?);
            scope.spawn(|| pump.run());
            let mut stream = Stream::over(ring);
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
    fn a_dropped_ring_ends_the_pump() {
        let data = vec![1; 40 * CHUNK];
        std::thread::scope(|scope| {
            let media_type = MediaType::Layer(Compression::None);
            let inflater = Inflater::new(&media_type, &data[..], Limits::default()).unwrap();
            let (pump, mut ring) = split(inflater);
            scope.spawn(|| pump.run());
            ring.next(&mut buffer()).unwrap();
            drop(ring); // the scope ends only if the pump does
        });
    }
}
