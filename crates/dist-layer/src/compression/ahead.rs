//! Bytes that another thread reads before they are asked for.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::cores::HELPERS;

/// Bytes read at a time.
const SIZE: usize = 128 << 10;

/// Buffers that go round.
const BUFFERS: usize = 6;

/// Buffers that are added for each thread that inflates what was read before its turn.
const MORE: usize = 6;

type Buffer = Box<[u8]>;

/// The end that reads.
pub(super) struct Receive {
    full: SyncSender<io::Result<(Buffer, usize)>>,
    used: Receiver<Buffer>,
}

/// The end that has what was read.
pub(super) struct Ahead {
    full: Receiver<io::Result<(Buffer, usize)>>,
    used: SyncSender<Buffer>,
    /// Where the bytes are that were not taken yet.
    at: Option<(Buffer, usize, usize)>,
    ended: bool,
}

/// Makes both. The first ends when the second is dropped, at the latest when its reader gives the
/// next bytes.
pub(super) fn ahead() -> (Receive, Ahead) {
    let (full_in, full_out) = sync_channel(BUFFERS + HELPERS * MORE);
    let (used_in, used_out) = sync_channel(BUFFERS + HELPERS * MORE);
    let ahead = Ahead { full: full_out, used: used_in, at: None, ended: false };
    (Receive { full: full_in, used: used_out }, ahead)
}

impl Receive {
    /// Reads until the end, an error, or until nobody wants more. `see` sees the bytes first, and
    /// returns how many threads were started that need more to be read.
    pub(super) fn run(self, mut reader: impl Read, mut see: impl FnMut(&[u8]) -> usize) {
        let mut new = BUFFERS;
        loop {
            let mut buffer = match self.used.try_recv() {
                Ok(buffer) => buffer,
                Err(_) if new > 0 => {
                    new -= 1;
                    vec![0; SIZE].into_boxed_slice()
                }
                Err(_) => match self.used.recv() {
                    Ok(buffer) => buffer,
                    Err(_) => return,
                },
            };
            let read = loop {
                match reader.read(&mut buffer) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    read => break read,
                }
            };
            let last = !matches!(read, Ok(1..));
            if let Ok(read) = read {
                new += MORE * see(&buffer[..read]);
            }
            if self.full.send(read.map(|read| (buffer, read))).is_err() || last {
                return;
            }
        }
    }
}

impl Read for Ahead {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.ended || out.is_empty() {
            return Ok(0);
        }
        let (buffer, start, end) = match self.at.take() {
            Some(at) => at,
            None => match self.full.recv() {
                Ok(Ok((buffer, end))) => (buffer, 0, end),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(io::Error::other("the thread that reads is gone")),
            },
        };
        let count = out.len().min(end - start);
        out[..count].copy_from_slice(&buffer[start..start + count]);
        self.ended = count == 0;
        if start + count < end {
            self.at = Some((buffer, start + count, end));
        } else {
            // Closed once the last bytes were read: then no buffer is needed any more.
            let _ = self.used.try_send(buffer);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_bytes_in_whatever_portions() {
        let data: Vec<u8> = (0..SIZE * BUFFERS * 3 + 7).map(|i| (i % 251) as u8).collect();
        std::thread::scope(|scope| {
            let (receive, mut ahead) = ahead();
            scope.spawn(|| receive.run(&data[..], |_| 0));
            let mut read = vec![0; 1000];
            ahead.read_exact(&mut read).unwrap();
            ahead.read_to_end(&mut read).unwrap();
            assert!(read == data);
            assert_eq!(ahead.read(&mut [0; 1]).unwrap(), 0);
        });
    }

    #[test]
    fn an_error_comes_behind_the_bytes_before_it() {
        struct Broken(bool);
        impl Read for Broken {
            fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
                if std::mem::replace(&mut self.0, true) {
                    return Err(io::Error::other("broken"));
                }
                out[..3].copy_from_slice(b"abc");
                Ok(3)
            }
        }
        std::thread::scope(|scope| {
            let (receive, mut ahead) = ahead();
            scope.spawn(|| receive.run(Broken(false), |_| 0));
            let mut read = Vec::new();
            assert_eq!(ahead.read_to_end(&mut read).unwrap_err().to_string(), "broken");
            assert_eq!(read, b"abc");
        });
    }

    #[test]
    fn nobody_reads_for_nobody() {
        std::thread::scope(|scope| {
            let (receive, mut ahead) = ahead();
            scope.spawn(|| receive.run(io::repeat(1), |_| 0));
            ahead.read_exact(&mut [0; 10]).unwrap();
            drop(ahead); // the scope ends only if the thread does
        });
    }
}
