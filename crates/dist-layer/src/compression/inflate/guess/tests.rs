use flate2::FlushCompress;
use proptest::prelude::*;

use super::super::Progress;
use super::super::tests::{deflate, flushes, texts};
use super::*;

/// Decodes in order, but takes every guess of a stretch whose start it comes to. Returns the bytes,
/// what was read and how many bytes were guessed.
fn joined(input: &[u8], stretch: usize, buffer: usize) -> Option<(Vec<u8>, usize, usize)> {
    let (mut guesser, mut space) = (Guesser::new(), Space::new());
    let mut inflate = Inflate::new();
    inflate.pause(true);
    let (mut out, mut filled, mut read) = (vec![0xaa; buffer], 0, 0);
    let (mut made, mut guessed, mut next) = (Vec::new(), 0, 1);
    let mut window = [0; HISTORY];
    let mut found: Option<Guess> = None;
    loop {
        let progress = inflate.decode(&input[read..], &mut out, filled).ok()?;
        read += progress.read;
        made.extend_from_slice(&out[filled..progress.filled]);
        filled = progress.filled;
        if progress.ended {
            return Some((made, read, guessed));
        }
        if filled == buffer {
            filled = 0;
            out.fill(0x55);
        } else if read == input.len() && progress.read == 0 {
            return None;
        }
        let Some(held) = inflate.between() else { continue };
        let here = 8 * read - held as usize;
        while next * stretch * 8 <= here && next * stretch < input.len() {
            let part = &input[next * stretch..];
            let part = &part[..part.len().min(STRETCH + BEYOND)];
            let by = 8 * next * stretch;
            found = guesser.guess(part, &mut space, stretch).map(|guess| Guess {
                start: by + guess.start,
                end: by + guess.end,
                ..guess
            });
            next += 1;
        }
        let Some(guess) = found.filter(|guess| guess.start == here) else { continue };
        if !inflate.window(&out, filled, &mut window) {
            continue;
        }
        let mut given = 0;
        while given < guess.length() {
            let now =
                inflate.supply(&mut out, filled, |out| space.give(&guess, given, &window, out));
            made.extend_from_slice(&out[filled..now]);
            given += now - filled;
            filled = if now == buffer { 0 } else { now };
        }
        guessed += given;
        read = guess.end.div_ceil(8);
        let held = (8 - guess.end as u32 % 8) % 8;
        inflate.resume(if held > 0 { input[read - 1] } else { 0 }, held);
    }
}

fn serial(input: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut inflate = Inflate::new();
    let (mut made, mut out) = (Vec::new(), vec![0; 1 << 16]);
    let mut read = 0;
    loop {
        let progress = inflate.decode(&input[read..], &mut out, 0).ok()?;
        read += progress.read;
        made.extend_from_slice(&out[..progress.filled]);
        match progress {
            Progress { ended: true, .. } => return Some((made, read)),
            Progress { filled, .. } if filled == out.len() => {}
            _ => return None,
        }
    }
}

fn same(input: &[u8], stretch: usize, buffer: usize) -> usize {
    let expected = serial(input);
    let got = joined(input, stretch, buffer);
    let guessed = got.as_ref().map_or(0, |got| got.2);
    assert!(
        got.map(|got| (got.0, got.1)) == expected,
        "stretches of {stretch}, buffers of {buffer}"
    );
    guessed
}

/// Words in an order that repeats nothing for long.
fn prose(length: usize) -> Vec<u8> {
    let mut state = 7u64;
    let mut text = Vec::new();
    while text.len() < length {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let word = (state >> 33) % 3000;
        text.extend_from_slice(format!("{word:x}{} ", word * word % 97).as_bytes());
    }
    text
}

#[test]
fn most_of_a_long_stream_is_guessed() {
    let bytes = prose(3 << 20);
    // At level 1 this compressor makes fixed blocks only.
    for level in [2, 4, 6, 9] {
        let stream = deflate(&bytes, level, FlushCompress::None, bytes.len());
        for (stretch, buffer) in [(100_000, 1 << 18), (STRETCH, 1 << 18), (60_000, 40_000)] {
            let guessed = same(&stream, stretch, buffer);
            assert!(guessed > bytes.len() / 6, "level {level}, {stretch}: {guessed}");
        }
    }
}

#[test]
fn what_has_no_dynamic_blocks_is_left_alone() {
    let mut state = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(2 << 20)
    .collect();
    for level in [0, 1, 6] {
        same(&deflate(&noise, level, FlushCompress::None, noise.len()), 200_000, 1 << 18);
    }
    // Text between noise: blocks of all types in one guess.
    let mixed: Vec<u8> = noise
        .chunks(70_000)
        .zip(prose(2 << 20).chunks(90_000))
        .flat_map(|(noise, text)| [text, noise].concat())
        .collect();
    for (level, flush) in
        [(4, FlushCompress::None), (6, FlushCompress::Sync), (9, FlushCompress::Full)]
    {
        let stream = deflate(&mixed, level, flush, 30_000);
        assert!(same(&stream, 150_000, 1 << 18) > 0);
    }
    // Zeros expand to more than a guess has room for.
    let zeros = [prose(300_000), vec![0; 200 << 20], prose(300_000)].concat();
    same(&deflate(&zeros, 6, FlushCompress::None, zeros.len()), 50_000, 1 << 18);
}

#[test]
fn a_guess_at_the_start_needs_more_history_than_there_is() {
    let bytes = prose(200_000);
    let stream = deflate(&bytes, 6, FlushCompress::Full, 5000);
    same(&stream, 50, 1 << 18);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn guesses_change_nothing(
        bytes in texts(), level in 0u32..10, flush in flushes(), piece in 500usize..20_000,
        stretch in 100usize..6000, buffer in 300usize..70_000,
    ) {
        let stream = deflate(&bytes, level, flush, piece);
        same(&stream, stretch, buffer);
    }

    #[test]
    fn guesses_of_spoiled_streams_change_nothing(
        level in 1u32..10, flush in flushes(), stretch in 500usize..20_000,
        spoils in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut stream = deflate(&prose(150_000), level, flush, 10_000);
        for (at, value) in spoils {
            let at = at.index(stream.len());
            stream[at] ^= value;
        }
        same(&stream, stretch, 1 << 16);
    }
}
