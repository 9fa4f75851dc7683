//! The least that unpacking layers costs with the product's inflate.
//!
//! `floor DIR LAYER...` reads gzip layers from files and leaves in DIR a copy of each and its tree:
//! one thread, one pass, both digests, 256 KiB at a time, the fewest system calls that make an
//! entry. It has no registry, no limits, no whiteouts, nothing is confined, synced or recorded. A
//! pull on so many cores takes at least max(CPU / cores, slowest stage of any layer), whatever it
//! is made of.
//!
//! Prints a JSON object for each layer: bytes, entries and the seconds of each stage.
#![allow(missing_docs, reason = "a program")]

#[path = "../../src/compression"]
mod compression {
    #[allow(dead_code, reason = "the program needs one stream")]
    pub(crate) mod inflate;
}
mod untar;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Instant;

use compression::inflate::Inflate;
use dist_core::Hasher;
use untar::Untar;

const CHUNK: usize = 256 << 10;
const STAGES: [&str; 6] = ["read", "hash_blob", "write_blob", "inflate", "hash_tar", "untar"];

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// Where the time of one layer goes, stage by stage.
struct Clock {
    last: Instant,
    seconds: [f64; STAGES.len()],
}

impl Clock {
    /// Counts all since the last call to this stage.
    fn lap(&mut self, stage: usize) {
        let now = Instant::now();
        self.seconds[stage] += (now - self.last).as_secs_f64();
        self.last = now;
    }
}

fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1);
    let dir = args.next().ok_or("usage: floor DIR LAYER...")?;
    rustix::process::umask(rustix::fs::Mode::empty());
    for (number, layer) in args.enumerate() {
        let to = Path::new(&dir).join(number.to_string());
        fs::create_dir_all(to.join("tree"))?;
        unpack(Path::new(&layer), &to)?;
    }
    Ok(())
}

fn unpack(layer: &Path, to: &Path) -> Result<()> {
    let mut clock = Clock { last: Instant::now(), seconds: [0.0; STAGES.len()] };
    let (mut source, mut blob) = (File::open(layer)?, File::create(to.join("blob"))?);
    let mut tree = Untar::new(&to.join("tree"))?;
    let (mut compressed, mut plain) = (Hasher::sha256(), Hasher::sha256());
    let (mut input, mut output) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut members = Members::new();
    let (mut bytes, mut tar_bytes, mut filled) = (0, 0, 0);
    loop {
        let count = source.read(&mut input)?;
        clock.lap(0);
        if count == 0 {
            break;
        }
        bytes += count;
        let mut rest = &input[..count];
        compressed.update(rest);
        clock.lap(1);
        blob.write_all(rest)?;
        clock.lap(2);
        while !rest.is_empty() {
            let used = members.inflate(rest, &mut output, &mut filled)?;
            rest = &rest[used..];
            clock.lap(3);
            if filled == CHUNK || members.ended() {
                plain.update(&output[..filled]);
                clock.lap(4);
                tree.feed(&output[..filled])?;
                clock.lap(5);
                tar_bytes += std::mem::take(&mut filled);
            }
        }
    }
    let entries = tree.finish()?;
    clock.lap(5);
    let (digest, diff_id) = (compressed.finish(), plain.finish());
    let stages: Vec<String> = STAGES
        .iter()
        .zip(clock.seconds)
        .map(|(stage, seconds)| format!("\"{stage}\": {seconds:.6}"))
        .collect();
    writeln!(
        io::stdout(),
        "{{\"digest\": \"{digest}\", \"diff_id\": \"{diff_id}\", \"bytes\": {bytes}, \
         \"tar_bytes\": {tar_bytes}, \"entries\": {entries}, \"seconds\": {{{}}}}}",
        stages.join(", ")
    )?;
    Ok(())
}

/// Inflates gzip members, one behind the other. Their checksums are left out: the diff ID covers
/// every byte.
struct Members {
    stream: Inflate,
    place: Place,
    /// Bytes of a header that is still to end, or of a trailer.
    frame: Vec<u8>,
}

#[derive(PartialEq)]
enum Place {
    Header,
    Stream,
    Trailer,
}

impl Members {
    fn new() -> Self {
        Self { stream: Inflate::new(), place: Place::Header, frame: Vec::new() }
    }

    /// Whether what was made last is all of a member.
    fn ended(&self) -> bool {
        self.place == Place::Trailer && self.frame.is_empty()
    }

    /// Uses some of `input` and adds to the output; returns how much was used.
    fn inflate(&mut self, input: &[u8], output: &mut [u8], filled: &mut usize) -> Result<usize> {
        if self.place == Place::Stream {
            let progress = self.stream.decode(input, output, *filled)?;
            *filled = progress.filled;
            if progress.ended {
                self.place = Place::Trailer;
            }
            return Ok(progress.read);
        }
        self.frame.push(input[0]);
        if self.place == Place::Header && header_ends(&self.frame)? {
            self.place = Place::Stream;
            self.frame.clear();
        } else if self.place == Place::Trailer && self.frame.len() == 8 {
            self.place = Place::Header;
            self.frame.clear();
            self.stream.reset();
        }
        Ok(1)
    }
}

/// Whether a member's header (RFC 1952) ends with the last of these bytes.
fn header_ends(bytes: &[u8]) -> Result<bool> {
    let &[magic, second, method, flags, _, _, _, _, _, _, ref fields @ ..] = bytes else {
        return Ok(false);
    };
    if (magic, second, method) != (0x1f, 0x8b, 8) || flags & !8 != 0 {
        return Err("no gzip member, or one with more than a name in its header".into());
    }
    Ok(flags == 0 || fields.last() == Some(&0))
}
