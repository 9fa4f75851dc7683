//! Zstandard frames (RFC 8878), any number of them, skippable ones included.
//!
//! Frame headers are read here too, so that the window is known before it is allocated.

use std::io::{self, Read};

use dist_core::{Context, Error, ErrorKind, Result};
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

use super::input::Input;
use crate::limits::exceeded;

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("it is cut off")]
    Truncated,
    #[error("the bytes after the last zstd frame are no frame")]
    Trailing,
    #[error("the zstd frame is malformed")]
    Frame(#[source] io::Error),
}

pub(crate) struct Zstd {
    decoder: Decoder<'static>,
    in_frame: bool,
    window_limit: u64,
}

impl Zstd {
    pub(crate) fn new(window_limit: u64) -> Result<Self> {
        let failed = || "make zstd decoder".into();
        let mut decoder = Decoder::new().context(ErrorKind::Internal, failed)?;
        let log = window_limit.max(1).next_power_of_two().trailing_zeros().clamp(10, 31);
        decoder
            .set_parameter(DParameter::WindowLogMax(log))
            .context(ErrorKind::Internal, failed)?;
        Ok(Self { decoder, in_frame: false, window_limit })
    }

    /// Fills `out`; less than all of it at the input's end only.
    pub(crate) fn decode<R: Read>(
        &mut self,
        input: &mut Input<R>,
        out: &mut [u8],
    ) -> Result<usize> {
        let mut filled = 0;
        while filled < out.len() {
            if !self.in_frame && !self.begin(input)? {
                break;
            }
            let bytes = input.available()?;
            let mut source = InBuffer::around(bytes);
            let mut sink = OutBuffer::around(&mut out[filled..]);
            let hint = self.decoder.run(&mut source, &mut sink);
            let (used, made) = (source.pos(), sink.pos());
            let hint = match hint {
                Ok(hint) => hint,
                Err(error) => return Err(fault(input, Fault::Frame(error))),
            };
            input.advance(used);
            filled += made;
            self.in_frame = hint != 0;
            if self.in_frame && used == 0 && made == 0 {
                return Err(fault(input, Fault::Truncated));
            }
        }
        Ok(filled)
    }

    /// Comes to the start of a frame with content; `false` where there is none.
    fn begin<R: Read>(&mut self, input: &mut Input<R>) -> Result<bool> {
        loop {
            let limit = self.window_limit;
            match input.peek(18)? {
                [] => return Ok(false),
                [0x50..=0x5f, 0x2a, 0x4d, 0x18, a, b, c, d, ..] => {
                    let length = u32::from_le_bytes([*a, *b, *c, *d]);
                    input.advance(8);
                    skip(input, length)?;
                }
                [0x28, 0xb5, 0x2f, 0xfd, rest @ ..] => {
                    let Some(window) = window(rest) else {
                        return Err(fault(input, Fault::Truncated));
                    };
                    if window > limit {
                        let message =
                            format!("read layer: a zstd frame has a window of {window} bytes");
                        return Err(exceeded("zstd-window", limit, message));
                    }
                    self.in_frame = true;
                    return Ok(true);
                }
                _ => return Err(fault(input, Fault::Trailing)),
            }
        }
    }
}

/// Bytes a frame's decoder must keep (RFC 8878, 3.1.1.1); `None` where the header is cut off.
fn window(header: &[u8]) -> Option<u64> {
    let (&descriptor, rest) = header.split_first()?;
    if descriptor & 0x20 == 0 {
        let byte = *rest.first()?;
        let base = 1u64 << (10 + (byte >> 3));
        return Some(base + base / 8 * u64::from(byte & 7));
    }
    let rest = rest.get([0, 1, 2, 4][usize::from(descriptor & 3)]..)?;
    let length = [1, 2, 4, 8][usize::from(descriptor >> 6)];
    let mut size = [0; 8];
    size[..length].copy_from_slice(rest.get(..length)?);
    let size = u64::from_le_bytes(size);
    Some(if length == 2 { size + 256 } else { size })
}

fn skip<R: Read>(input: &mut Input<R>, length: u32) -> Result<()> {
    let mut left = length as usize;
    while left > 0 {
        let count = input.available()?.len().min(left);
        if count == 0 {
            return Err(fault(input, Fault::Truncated));
        }
        input.advance(count);
        left -= count;
    }
    Ok(())
}

fn fault<R: Read>(input: &Input<R>, what: Fault) -> Error {
    Error::new(ErrorKind::Corrupt, format!("inflate layer at compressed byte {}", input.offset()))
        .with_source(what)
}
