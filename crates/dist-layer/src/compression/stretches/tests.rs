use std::io::Read;

use dist_core::{Compression, Digest, ErrorKind, Limit, MediaType, Result};
use flate2::GzBuilder;
use std::io::Write;

use super::super::{Chunks, Codec, Inflater, Stream, chunk, inflating};
use super::*;
use crate::Limits;

const GZIP: MediaType = MediaType::Layer(Compression::Gzip);

/// Bytes of few values, runs and far repeats.
fn data(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let count = 3 + next() % 60;
        match next() % 4 {
            0 if bytes.len() > 40_000 => {
                let from = bytes.len() - 1 - next() % 33_000 - count;
                bytes.extend_from_within(from..from + count);
            }
            1 => bytes.extend(std::iter::repeat_n(next() as u8, count / 8)),
            _ => (0..count).for_each(|_| bytes.push((next() & next() & 63) as u8)),
        }
    }
    bytes.truncate(length);
    bytes
}

fn gzip(bytes: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = GzBuilder::new().write(Vec::new(), flate2::Compression::new(level));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn serial(input: impl Read, limits: Limits) -> Result<(Digest, u64)> {
    let (diff_id, size) = Stream::new(&GZIP, input, limits)?.finish()?;
    Ok((diff_id.0, size))
}

fn parallel(input: impl Read + Send, count: usize, limits: Limits) -> Result<(Digest, u64)> {
    let cores = Cores::new(count);
    let inflater = Inflater::new(&GZIP, input, limits)?;
    let made = inflating(inflater, &cores, |chunks| Stream::over(chunks).finish());
    let all: Vec<_> = std::iter::from_fn(|| cores.idle()).collect();
    assert_eq!(all.len(), count, "all are given back");
    made.map(|(diff_id, size)| (diff_id.0, size))
}

/// What a layer comes to, so that two of them can be compared.
fn outcome(made: Result<(Digest, u64)>) -> std::result::Result<(Digest, u64), (ErrorKind, String)> {
    made.map_err(|error| {
        let limit = error.find::<Limit>().map(|limit| limit.name);
        (error.kind(), format!("{limit:?} {error}"))
    })
}

fn same(input: &[u8]) {
    let expected = outcome(serial(input, Limits::default()));
    for cores in [2, 3, 8] {
        assert_eq!(outcome(parallel(input, cores, Limits::default())), expected, "{cores} cores");
    }
}

#[test]
fn helpers_change_nothing() {
    let bytes = data(10 << 20, 5);
    for level in [0, 1, 2, 6] {
        same(&gzip(&bytes, level));
    }
    let members: Vec<u8> = [4 << 20, 100, 9 << 20, 0, 1 << 20]
        .iter()
        .flat_map(|&length| gzip(&bytes[..length], 6))
        .collect();
    same(&members);
    let small: Vec<u8> = bytes.chunks(50_000).flat_map(|part| gzip(part, 6)).collect();
    same(&small);
}

#[test]
fn most_of_what_was_read_before_is_guessed() {
    let bytes = data(16 << 20, 9);
    let input = gzip(&bytes, 6);
    let cores = Cores::new(2);
    std::thread::scope(|scope| {
        let mut inflater = Inflater::new(&GZIP, &input[..], Limits::default()).unwrap();
        let cutter = inflater.share(&Cores::new(3), |jobs| {
            scope.spawn(|| {
                let jobs = jobs;
                help(&jobs, &cores);
            });
            true
        });
        // The first bytes were read before.
        let from = inflater.input.taken() as usize;
        let mut cutter = cutter.unwrap();
        assert_eq!(cutter.see(&input[from..]), HELPERS);
        let mut made = Vec::new();
        let mut next = chunk();
        let mut guessed = 0;
        loop {
            let count = inflater.next(&mut next).unwrap();
            made.extend_from_slice(&next[..count]);
            if let Codec::Gzip(gzip) = &inflater.codec {
                guessed = guessed.max(gzip.guessed());
            }
            if count < next.len() {
                break;
            }
        }
        assert!(made == bytes);
        // As many stretches as there are spaces.
        assert!(guessed > 1 << 20, "{guessed}");
        drop(cutter);
    });
}

#[test]
fn what_is_wrong_is_said_as_without_helpers() {
    let bytes = data(14 << 20, 3);
    let good = gzip(&bytes, 6);
    let length = good.len();
    assert!(length > 3_500_000);
    for at in [2_700_000, 3_000_001, length - 700_000, length - 8, length - 1] {
        let mut bad = good.clone();
        bad[at] ^= 0x55;
        same(&bad);
        same(&good[..at]);
    }
    same(&[&good[..], b"x"].concat());
}

#[test]
fn limits_hold_with_helpers() {
    let bytes = data(10 << 20, 3);
    let input = gzip(&bytes, 6);
    for layer_bytes in [1 << 20, 7 << 20, (10 << 20) - 1] {
        let limits = Limits { layer_bytes, ..Limits::default() };
        let expected = outcome(serial(&input[..], limits));
        assert!(expected.is_err());
        assert_eq!(outcome(parallel(&input[..], 8, limits)), expected);
    }
    // Twice as many bytes as there may be of the compressed ones.
    let limits = Limits { ratio_floor: 1 << 20, ratio: 1, ..Limits::default() };
    for cores in [1, 8] {
        let error = parallel(&input[..], cores, limits).unwrap_err();
        assert_eq!(error.find::<Limit>().unwrap().name, "layer-ratio");
    }
}

#[test]
fn a_reader_that_breaks_is_reported_after_what_it_gave() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(dist_core::Error::new(ErrorKind::Unavailable, "connection lost").into_io())
        }
    }
    let input = gzip(&data(10 << 20, 3), 6);
    for length in [2_700_000, 3_000_001] {
        let got = parallel(input[..length].chain(Broken), 8, Limits::default());
        assert_eq!(got.unwrap_err().kind(), ErrorKind::Unavailable);
    }
}

#[test]
fn nobody_helps_for_nobody() {
    let input = gzip(&data(10 << 20, 3), 6);
    let cores = Cores::new(8);
    let inflater = Inflater::new(&GZIP, &input[..], Limits::default()).unwrap();
    // Ends only if all threads do.
    inflating(inflater, &cores, |mut chunks| {
        let mut next = chunk();
        for _ in 0..40 {
            chunks.next(&mut next).unwrap();
        }
    });
}
