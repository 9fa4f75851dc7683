//! Measures inflating on gzip layers: our decoder and zlib-rs in turn, by this thread's CPU time.
//!
//! `cargo run --release -p dist-layer --example inflate -- ROUNDS LAYER...`
#![expect(clippy::print_stdout, reason = "it prints what it measured")]
#![allow(missing_docs, reason = "a program")]

#[path = "../src/compression"]
mod compression {
    #[allow(dead_code, reason = "the program measures one stream")]
    pub(crate) mod inflate;
}

use std::hint::black_box;

use compression::inflate::Inflate;
use flate2::{Decompress, FlushDecompress, Status};

/// Bytes of input and of output at a time, as when a layer is unpacked.
const INPUT: usize = 128 << 10;
const OUTPUT: usize = 256 << 10;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let rounds: usize = args.next().ok_or("usage: inflate ROUNDS LAYER...")?.parse()?;
    for path in args {
        let layer = std::fs::read(&path)?;
        let [0x1f, 0x8b, 8, 0, _, _, _, _, _, _, stream @ ..] = &layer[..] else {
            return Err(format!("{path} is no gzip member with a plain header").into());
        };
        let mut times = Vec::new();
        let mut bytes = (0, 0);
        for _ in 0..rounds.max(1) {
            let start = seconds()?;
            bytes.0 = zlib_rs(stream)?;
            let between = seconds()?;
            bytes.1 = ours(stream)?;
            times.push((between - start, seconds()? - between));
        }
        if bytes.0 != bytes.1 {
            return Err(format!("{path}: {} bytes and {}", bytes.0, bytes.1).into());
        }
        let mut ratios: Vec<f64> = times.iter().map(|(zlib, ours)| zlib / ours).collect();
        ratios.sort_by(f64::total_cmp);
        let best = |of: fn(&(f64, f64)) -> f64| times.iter().map(of).fold(f64::MAX, f64::min);
        let (zlib, ours) = (best(|times| times.0), best(|times| times.1));
        let size = bytes.0 as f64 / 1e6;
        println!(
            "{path}: {size:.0} MB; zlib-rs {zlib:.3} s, {:.0} MB/s; ours {ours:.3} s, {:.0} MB/s; \
             ratio {:.3} to {:.3}, median {:.3}",
            size / zlib,
            size / ours,
            ratios[0],
            ratios[ratios.len() - 1],
            ratios[ratios.len() / 2],
        );
    }
    Ok(())
}

/// How long this thread has run; the scheduler counts nanoseconds.
fn seconds() -> Result<f64, Box<dyn std::error::Error>> {
    let line = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds: u64 = line.split(' ').next().unwrap_or_default().parse()?;
    Ok(nanoseconds as f64 / 1e9)
}

fn zlib_rs(stream: &[u8]) -> Result<u64, Box<dyn std::error::Error>> {
    let mut inflate = Decompress::new(false);
    let mut out = vec![0; OUTPUT];
    loop {
        let mut filled = 0;
        while filled < out.len() {
            let (read, made) = (inflate.total_in() as usize, inflate.total_out());
            let end = stream.len().min(read - read % INPUT + INPUT);
            let (input, room) = (&stream[read..end], &mut out[filled..]);
            if inflate.decompress(input, room, FlushDecompress::None)? == Status::StreamEnd {
                return Ok(inflate.total_out());
            }
            filled += (inflate.total_out() - made) as usize;
        }
        black_box(&out);
    }
}

fn ours(stream: &[u8]) -> Result<u64, Box<dyn std::error::Error>> {
    let mut inflate = Box::new(Inflate::new());
    let mut out = vec![0; OUTPUT];
    let (mut read, mut made) = (0, 0);
    loop {
        let mut filled = 0;
        while filled < out.len() {
            let end = stream.len().min(read - read % INPUT + INPUT);
            let progress = inflate.decode(&stream[read..end], &mut out, filled)?;
            read += progress.read;
            made += (progress.filled - filled) as u64;
            filled = progress.filled;
            if progress.ended {
                return Ok(made);
            }
        }
        black_box(&out);
    }
}
