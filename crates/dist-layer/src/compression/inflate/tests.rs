use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};
use proptest::prelude::*;

use super::*;

/// What a decoder makes of a stream: its bytes and what it read, or none where it refuses it.
type Outcome = Option<(Vec<u8>, usize)>;

fn ours(input: &[u8], slice: usize, buffer: usize) -> Result<Outcome, Fault> {
    let mut inflate = Inflate::new();
    let mut made = Vec::new();
    let (mut out, mut filled, mut read) = (vec![0xaa; buffer], 0, 0);
    loop {
        let end = input.len().min(read + slice);
        let progress = inflate.decode(&input[read..end], &mut out, filled)?;
        read += progress.read;
        made.extend_from_slice(&out[filled..progress.filled]);
        filled = progress.filled;
        if progress.ended {
            return Ok(Some((made, read)));
        }
        if filled == buffer {
            filled = 0;
            out.fill(0x55);
        } else if read == input.len() {
            return Ok(None);
        } else {
            assert_eq!(read, end, "input is left while there is room");
        }
    }
}

fn zlib(input: &[u8]) -> Outcome {
    let mut inflate = Decompress::new(false);
    let (mut made, mut out) = (Vec::new(), [0; 4096]);
    loop {
        let (read, before) = (inflate.total_in(), inflate.total_out());
        let rest = &input[read as usize..];
        let status = inflate.decompress(rest, &mut out, FlushDecompress::None).ok()?;
        let count = (inflate.total_out() - before) as usize;
        made.extend_from_slice(&out[..count]);
        match status {
            Status::StreamEnd => return Some((made, inflate.total_in() as usize)),
            _ if inflate.total_in() == read && count == 0 => return None,
            _ => {}
        }
    }
}

fn agree(input: &[u8]) {
    let expected = zlib(input);
    for (slice, buffer) in [(usize::MAX >> 1, 1 << 18), (1, 1), (7, 333), (300, 40_000), (40, 5)] {
        let got = ours(input, slice, buffer).unwrap_or_default();
        assert!(
            got == expected,
            "slices of {slice}, buffers of {buffer}: {:?}",
            &input[..input.len().min(64)]
        );
    }
}

pub(super) fn deflate(bytes: &[u8], level: u32, flush: FlushCompress, piece: usize) -> Vec<u8> {
    let mut compress = Compress::new(flate2::Compression::new(level), false);
    let mut out = Vec::with_capacity(bytes.len() * 2 + 70_000);
    for part in bytes.chunks(piece) {
        let end = compress.total_in() + part.len() as u64;
        let mut first = true;
        while first || compress.total_in() < end {
            first = false;
            let rest = &bytes[compress.total_in() as usize..end as usize];
            out.reserve(rest.len() + 4096);
            compress.compress_vec(rest, &mut out, flush).unwrap();
        }
    }
    loop {
        out.reserve(4096);
        if compress.compress_vec(&[], &mut out, FlushCompress::Finish).unwrap() == Status::StreamEnd
        {
            return out;
        }
    }
}

/// Bits, first lowest; codes are given as they are written in the specification.
#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    count: usize,
}

impl Writer {
    fn bits(mut self, value: u32, count: u32) -> Self {
        for at in 0..count {
            if self.count.is_multiple_of(8) {
                self.bytes.push(0);
            }
            *self.bytes.last_mut().unwrap() |= ((value >> at & 1) as u8) << (self.count % 8);
            self.count += 1;
        }
        self
    }

    fn code(self, value: u32, count: u32) -> Self {
        self.bits(value.reverse_bits() >> (32 - count), count)
    }

    /// A dynamic block's head with these lengths, each written as itself in four bits. All lengths
    /// from 0 to 15 have a code.
    fn head(mut self, symbols: &[u32], distances: &[u32]) -> Self {
        self = self.bits(1, 1).bits(2, 2);
        self = self.bits(symbols.len() as u32 - 257, 5).bits(distances.len() as u32 - 1, 5);
        self = self.bits(15, 4);
        for symbol in ORDER {
            self = self.bits(if symbol < 16 { 4 } else { 0 }, 3);
        }
        for &length in symbols.iter().chain(distances) {
            self = self.code(length, 4);
        }
        self
    }
}

fn lengths(count: usize, set: &[(usize, u32)]) -> Vec<u32> {
    let mut all = vec![0; count];
    set.iter().for_each(|&(at, length)| all[at] = length);
    all
}

fn check(stream: Writer, expected: Result<Option<&[u8]>, Fault>) {
    // Room for the fast loop on both sides, and none.
    for tail in [0, 64] {
        let input = [&stream.bytes[..], &vec![0; tail]].concat();
        let got = ours(&input, 1 << 20, 1 << 16).map(|made| made.map(|made| made.0));
        if tail == 0 || expected != Ok(None) {
            assert_eq!(got, expected.map(|bytes| bytes.map(<[u8]>::to_vec)), "{tail}");
        }
        agree(&input);
    }
}

#[test]
fn every_fault_is_found() {
    let new = Writer::default;
    check(new().bits(1, 1).bits(3, 2), Err(Fault::BlockType));
    check(new().bits(1, 8).bits(5, 16).bits(5, 16), Err(Fault::StoredLength));
    for (symbols, distances) in [(287, 1), (257, 31)] {
        check(new().head(&vec![8; symbols], &vec![5; distances]), Err(Fault::SymbolCount));
    }
    // 16 first; 18 over the end; code length codes of one, too many and too few words.
    let start = || new().bits(5, 3).bits(0, 10);
    check(
        start().bits(0, 4).bits(1, 3).bits(0, 3).bits(0, 3).bits(1, 3).bits(3, 5),
        Err(Fault::Repeat),
    );
    let long = start().bits(0, 4).bits(0, 3).bits(0, 3).bits(1, 3).bits(1, 3).bits(0x1fff, 13);
    check(long.bits(0xffff_ffff, 30), Err(Fault::Repeat));
    check(start().bits(0, 4).bits(1, 3).bits(0, 9).bits(0, 20), Err(Fault::Code));
    check(start().bits(0, 4).bits(0o1111, 12), Err(Fault::Code));
    check(start().bits(0, 4).bits(0, 12), Err(Fault::Code));
    let one = [(0, 1)];
    check(new().head(&lengths(257, &one), &[1]), Err(Fault::NoEnd));
    check(new().head(&lengths(257, &[(0, 1), (1, 1), (256, 1)]), &[1]), Err(Fault::Code));
    check(new().head(&lengths(257, &[(0, 2), (256, 2)]), &[1]), Err(Fault::Code));
    check(new().head(&lengths(257, &[(256, 2)]), &[1]), Err(Fault::Code));
    check(new().head(&lengths(257, &[(0, 1), (256, 1)]), &[2]), Err(Fault::Code));
    check(new().head(&lengths(257, &[(0, 1), (256, 1)]), &[1, 1, 1]), Err(Fault::Code));
    let fixed = || new().bits(3, 3);
    check(fixed().code(0b1100_0110, 8), Err(Fault::Symbol)); // 286
    check(fixed().code(0b1100_0111, 8), Err(Fault::Symbol)); // 287
    for distance in [30, 31] {
        check(fixed().code(0x30, 8).code(1, 7).code(distance, 5), Err(Fault::Symbol));
    }
    check(fixed().code(0x30, 8).code(1, 7).code(1, 5), Err(Fault::Distance));
    check(fixed().code(0x30, 8).code(1, 7).code(0, 5).code(0, 7), Ok(Some(&[0; 4])));
    check(fixed().code(0x30, 8), Ok(None));
    check(new(), Ok(None));
}

#[test]
fn incomplete_codes_that_zlib_takes() {
    let new = Writer::default;
    // The end alone, in one bit; its other bit is no code.
    check(new().head(&lengths(257, &[(256, 1)]), &[0]).bits(0, 1), Ok(Some(b"")));
    check(new().head(&lengths(257, &[(256, 1)]), &[0]).bits(1, 1), Err(Fault::Symbol));
    // No distance at all; one distance.
    let symbols = lengths(258, &[(7, 2), (8, 2), (256, 2), (257, 2)]);
    check(new().head(&symbols, &[0]).code(0, 2).code(2, 2), Ok(Some(b"\x07")));
    check(new().head(&symbols, &[0]).code(0, 2).code(3, 2).bits(0, 1), Err(Fault::Symbol));
    let one = || new().head(&symbols, &[1]).code(0, 2).code(3, 2);
    check(one().bits(0, 1).code(2, 2), Ok(Some(&[7; 4])));
    check(one().bits(1, 1), Err(Fault::Symbol));
}

#[test]
fn nothing_after_the_end_is_read() {
    let bytes = b"some bytes, some bytes, some bytes".repeat(30);
    let stream = deflate(&bytes, 6, FlushCompress::None, 100);
    let long = [&stream[..], &[0xff; 100]].concat();
    for (slice, buffer) in [(1, 1), (3, 1000), (1000, 1 << 18)] {
        assert_eq!(ours(&long, slice, buffer), Ok(Some((bytes.clone(), stream.len()))));
        let cut = &stream[..stream.len() - 1];
        assert_eq!(ours(cut, slice, buffer), Ok(None));
    }
}

/// Runs of literals, repeats of short and long periods, and far copies.
pub(super) fn texts() -> impl Strategy<Value = Vec<u8>> {
    let part = (0u8..5, any::<u64>(), 1usize..3000);
    prop::collection::vec(part, 0..60).prop_map(|parts| {
        let mut bytes = Vec::new();
        for (kind, seed, count) in parts {
            let mut state = seed | 1;
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) as usize
            };
            match kind {
                0 => (0..count).for_each(|_| bytes.push(next() as u8)),
                1 => (0..count).for_each(|_| bytes.push(b"etaoin shrdlu"[next() % 13])),
                2 => (0..count).for_each(|_| bytes.push((next() & next() & next()) as u8)),
                _ if bytes.is_empty() => {}
                kind => {
                    let reach = if kind == 3 { 40 } else { 33_000 };
                    let back = 1 + next() % bytes.len().min(reach);
                    (0..count).for_each(|_| bytes.push(bytes[bytes.len() - back]));
                }
            }
        }
        bytes
    })
}

pub(super) fn flushes() -> impl Strategy<Value = FlushCompress> {
    prop_oneof![
        Just(FlushCompress::None),
        Just(FlushCompress::Sync),
        Just(FlushCompress::Full),
        Just(FlushCompress::Partial)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_deflated_comes_back(
        bytes in texts(), level in 0u32..10, flush in flushes(), piece in 1usize..20_000,
        slice in 1usize..3000, buffer in 1usize..70_000,
    ) {
        let stream = deflate(&bytes, level, flush, piece.max(bytes.len() / 40 + 1));
        prop_assert_eq!(ours(&stream, slice, buffer), Ok(Some((bytes.clone(), stream.len()))));
        prop_assert_eq!(ours(&stream, 1, 1 << 18), Ok(Some((bytes.clone(), stream.len()))));
        prop_assert_eq!(ours(&stream, 1 << 20, 1 << 18), Ok(Some((bytes, stream.len()))));
    }

    #[test]
    fn spoiled_streams_are_what_zlib_says(
        bytes in texts(), level in 0u32..10, flush in flushes(),
        spoils in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), early in any::<bool>(),
    ) {
        let mut stream = deflate(&bytes[..bytes.len().min(6000)], level, flush, 2000);
        for (at, value) in spoils {
            // Most of what can be wrong is in a block's head.
            let end = if early { stream.len().min(80) } else { stream.len() };
            let at = at.index(end);
            stream[at] ^= value;
        }
        agree(&stream);
    }

    #[test]
    fn noise_is_what_zlib_says(head in 0u8..8, mut noise in prop::collection::vec(any::<u8>(), 1..400)) {
        noise[0] = noise[0] & !7 | head;
        agree(&noise);
    }
}
