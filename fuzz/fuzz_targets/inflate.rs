//! Raw deflate: zlib's verdict and bytes, however input and output are cut, and the same with guesses
//! of what comes ahead.
//!
//! The first two bytes pick the sizes of slices and buffers, the rest is the stream.
#![no_main]

#[path = "../../crates/dist-layer/src/compression"]
mod compression {
    #[allow(dead_code)]
    pub(crate) mod inflate;
}

use compression::inflate::guess::{BEYOND, Guess, Guesser, STRETCH, Space};
use compression::inflate::{HISTORY, Inflate};
use std::cell::RefCell;
use flate2::{Decompress, FlushDecompress, Status};
use libfuzzer_sys::fuzz_target;

/// Bytes after which neither decoder goes on.
const LIMIT: usize = 1 << 20;

fuzz_target!(|input: &[u8]| {
    let [slice, buffer, stream @ ..] = input else { return };
    let size = |choice: u8| if choice < 128 { 1 + usize::from(choice) } else { usize::from(choice) << 10 };
    let expected = zlib(stream);
    assert_eq!(ours(stream, size(*slice), size(*buffer)), expected);
    let made = MEMORY.with_borrow_mut(|memory| guessed(stream, size(*slice), size(*buffer), memory));
    assert_eq!(made, expected);
});

thread_local! {
    /// Made once: it is some MiB.
    static MEMORY: RefCell<(Guesser, Space)> = RefCell::new((Guesser::new(), Space::new()));
}

/// Decodes in order, and takes every guess that begins where it comes to a block's start.
fn guessed(
    input: &[u8],
    stretch: usize,
    buffer: usize,
    (guesser, space): &mut (Guesser, Space),
) -> Option<(Vec<u8>, usize)> {
    let mut inflate = Inflate::new();
    inflate.pause(true);
    let (mut made, mut out, mut window) = (Vec::new(), vec![0; buffer], [0; HISTORY]);
    let (mut read, mut filled, mut next, mut idle) = (0, 0, stretch, 0);
    let mut found: Option<(usize, Guess)> = None;
    loop {
        let progress = inflate.decode(&input[read..], &mut out, filled).ok()?;
        read += progress.read;
        made.extend_from_slice(&out[filled..progress.filled]);
        // From the end of a stored block to the next one is a call of its own.
        idle = if progress.read == 0 && progress.filled == filled { idle + 1 } else { 0 };
        filled = progress.filled % buffer;
        if progress.ended {
            return (made.len() < LIMIT).then_some((made, read));
        }
        if made.len() >= LIMIT || idle > 1 {
            return None;
        }
        let Some(held) = inflate.between() else { continue };
        let here = 8 * read - held as usize;
        while 8 * next <= here && next < input.len() {
            let part = &input[next..input.len().min(next + STRETCH + BEYOND)];
            found = guesser.guess(part, space, stretch).map(|guess| (8 * next, guess));
            next += stretch.max(input.len() / 8);
        }
        let Some((by, guess)) = found.filter(|(by, guess)| by + guess.start == here) else { continue };
        if !inflate.window(&out, filled, &mut window) {
            continue;
        }
        let mut given = 0;
        while given < guess.length() {
            let now = inflate.supply(&mut out, filled, |out| space.give(&guess, given, &window, out));
            made.extend_from_slice(&out[filled..now]);
            given += now - filled;
            filled = now % buffer;
        }
        let end = by + guess.end;
        read = end.div_ceil(8);
        inflate.resume(if end % 8 > 0 { input[read - 1] } else { 0 }, (8 - end as u32 % 8) % 8);
    }
}

fn ours(input: &[u8], slice: usize, buffer: usize) -> Option<(Vec<u8>, usize)> {
    let mut inflate = Inflate::new();
    let (mut made, mut out) = (Vec::new(), vec![0; buffer]);
    let (mut read, mut filled) = (0, 0);
    loop {
        let end = input.len().min(read + slice);
        let progress = inflate.decode(&input[read..end], &mut out, filled).ok()?;
        read += progress.read;
        made.extend_from_slice(&out[filled..progress.filled]);
        filled = progress.filled;
        if progress.ended {
            return (made.len() < LIMIT).then_some((made, read));
        }
        if made.len() >= LIMIT || (filled < buffer && read == input.len()) {
            return None;
        }
        if filled == buffer {
            filled = 0;
        }
    }
}

fn zlib(input: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut inflate = Decompress::new(false);
    let (mut made, mut out) = (Vec::new(), [0; 4096]);
    loop {
        let (read, before) = (inflate.total_in(), inflate.total_out());
        let status = inflate.decompress(&input[read as usize..], &mut out, FlushDecompress::None).ok()?;
        let count = (inflate.total_out() - before) as usize;
        made.extend_from_slice(&out[..count]);
        if status == Status::StreamEnd {
            return (made.len() < LIMIT).then_some((made, inflate.total_in() as usize));
        }
        if made.len() >= LIMIT || (inflate.total_in() == read && count == 0) {
            return None;
        }
    }
}
