//! Raw deflate: zlib's verdict and bytes, however input and output are cut.
//!
//! The first two bytes pick the sizes of slices and buffers, the rest is the stream.
#![no_main]

#[path = "../../crates/dist-layer/src/compression"]
mod compression {
    #[allow(dead_code)]
    pub(crate) mod inflate;
}

use compression::inflate::Inflate;
use flate2::{Decompress, FlushDecompress, Status};
use libfuzzer_sys::fuzz_target;

/// Bytes after which neither decoder goes on.
const LIMIT: usize = 1 << 20;

fuzz_target!(|input: &[u8]| {
    let [slice, buffer, stream @ ..] = input else { return };
    let size = |choice: u8| if choice < 128 { 1 + usize::from(choice) } else { usize::from(choice) << 10 };
    assert_eq!(ours(stream, size(*slice), size(*buffer)), zlib(stream));
});

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
