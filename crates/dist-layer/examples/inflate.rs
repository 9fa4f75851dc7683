//! Inflates a gzip layer and throws its bytes away, so that its CPU time can be measured:
//! `benches/inflate` does, next to other programs.
//!
//! `cargo run --release -p dist-layer --example inflate -- DECODER LAYER`, the decoder being `ours`,
//! `ours-crc` (with the CRC-32 that a pull computes too), `zlib-rs` or `guessed` (as helpers do it: it
//! says how much of the layer that was).
#![allow(missing_docs, reason = "a program")]

#[path = "../src/compression"]
mod compression {
    #[allow(dead_code, reason = "the program has one stream")]
    pub(crate) mod inflate;
}

use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Write};

use compression::inflate::guess::{BEYOND, Guesser, STRETCH, Space};
use compression::inflate::{HISTORY, Inflate, Progress};
use flate2::{Decompress, FlushDecompress, Status};

/// Bytes of input and of output at a time, as when a layer is unpacked.
const INPUT: usize = 128 << 10;
const OUTPUT: usize = 256 << 10;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [decoder, path] = &args[..] else {
        return Err("usage: inflate ours|ours-crc|zlib-rs|guessed LAYER".into());
    };
    let mut inflate = Box::new(Inflate::new());
    let mut ours = |input: &[u8], out: &mut [u8], filled| Ok(inflate.decode(input, out, filled)?);
    match decoder.as_str() {
        "ours" => run(path, &mut ours, |_| {}).map(drop),
        "ours-crc" => {
            let mut crc = crc32fast::Hasher::new();
            let expected = run(path, &mut ours, |bytes| crc.update(bytes))?;
            if crc.finalize() == expected { Ok(()) } else { Err("the checksum is wrong".into()) }
        }
        "guessed" => guessed(path),
        "zlib-rs" => {
            let mut zlib = Decompress::new(false);
            run(path, |input, out, filled| zlib_rs(&mut zlib, input, out, filled), |_| {}).map(drop)
        }
        _ => Err(format!("there is no decoder {decoder}").into()),
    }
}

/// Decodes each stretch as helpers do, from the first block that is found in it, and gives it out
/// with any window: the cost of it, without the waiting.
fn guessed(path: &str) -> Result<(), Failure> {
    let mut layer = File::open(path)?;
    let (mut guesser, mut space, mut input) = (Guesser::new(), Space::new(), Vec::new());
    let (window, mut out) = (Box::new([0; HISTORY]), vec![0; OUTPUT]);
    let (mut bytes, mut marked, mut made, mut bits) = (0, 0, 0, 0);
    loop {
        (&mut layer).take((STRETCH + BEYOND - input.len()) as u64).read_to_end(&mut input)?;
        if input.len() < STRETCH + BEYOND {
            break;
        }
        bytes += STRETCH;
        let guess = guesser.guess(&input, &mut space, STRETCH);
        input.drain(..STRETCH);
        let Some(guess) = guess else { continue };
        let mut at = 0;
        while at < guess.length() {
            at += space.give(&guess, at, &window, black_box(&mut out));
        }
        made += at;
        marked += guess.marked();
        bits += guess.end - guess.start;
    }
    writeln!(
        std::io::stderr(),
        "{bytes} compressed bytes, {} of them decoded to {made}, {marked} of these with marks",
        bits / 8
    )?;
    Ok(())
}

fn zlib_rs(
    zlib: &mut Decompress,
    input: &[u8],
    out: &mut [u8],
    filled: usize,
) -> Result<Progress, Failure> {
    let (read, made) = (zlib.total_in(), zlib.total_out());
    let status = zlib.decompress(input, &mut out[filled..], FlushDecompress::None)?;
    Ok(Progress {
        read: (zlib.total_in() - read) as usize,
        filled: filled + (zlib.total_out() - made) as usize,
        ended: status == Status::StreamEnd,
    })
}

/// Inflates the one member of a layer, checks its length and returns the checksum it should have.
fn run(
    path: &str,
    mut decode: impl FnMut(&[u8], &mut [u8], usize) -> Result<Progress, Failure>,
    mut made: impl FnMut(&[u8]),
) -> Result<u32, Failure> {
    let mut layer = File::open(path)?;
    let mut header = [0; 10];
    layer.read_exact(&mut header)?;
    if header[..4] != [0x1f, 0x8b, 8, 0] {
        return Err(format!("{path} is no gzip member with a plain header").into());
    }
    let (mut input, mut start, mut end) = (vec![0; INPUT], 0, 0);
    let (mut out, mut filled, mut length) = (vec![0; OUTPUT], 0, 0u64);
    loop {
        if start == end {
            (start, end) = (0, layer.read(&mut input)?);
        }
        let cut = start == end;
        let progress = decode(&input[start..end], &mut out, filled)?;
        start += progress.read;
        filled = progress.filled;
        if progress.ended || filled == out.len() {
            length += filled as u64;
            made(&out[..filled]);
            filled = 0;
        } else if cut {
            return Err(format!("{path} is cut off").into());
        }
        if progress.ended {
            break;
        }
    }
    let mut trailer = input[start..end].to_vec();
    layer.read_to_end(&mut trailer)?;
    let &[c0, c1, c2, c3, l0, l1, l2, l3] = &trailer[..] else {
        return Err(format!("{path} has {} bytes after its stream", trailer.len()).into());
    };
    if u32::from_le_bytes([l0, l1, l2, l3]) != length as u32 {
        return Err(format!("{path} has another length").into());
    }
    Ok(u32::from_le_bytes([c0, c1, c2, c3]))
}
