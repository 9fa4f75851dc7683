//! gzip members (RFC 1952), any number of them, each inflated raw and checked against its own
//! CRC-32 and length.

use std::io::Read;

use dist_core::{Error, ErrorKind, Result};

use super::inflate::{Fault as DeflateFault, HISTORY, Inflate, Window};
use super::input::Input;
use super::stretches::{Guesses, Ready};

/// Bytes that the optional fields of one member's header may have.
const HEADER_LIMIT: u32 = 128 << 10;

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("it is cut off")]
    Truncated,
    #[error("the bytes after the last gzip member are no member")]
    Trailing,
    #[error("the gzip header is malformed")]
    Header,
    #[error("the gzip header is longer than {HEADER_LIMIT} bytes")]
    LongHeader,
    #[error("the deflate stream is malformed")]
    Deflate(#[source] DeflateFault),
    #[error("the gzip checksum is {expected:08x}, the bytes have {got:08x}")]
    Checksum { expected: u32, got: u32 },
    #[error("the gzip length is {expected} (modulo 2^32), the bytes are {got}")]
    Length { expected: u32, got: u64 },
}

pub(crate) struct Gzip {
    inflate: Inflate,
    crc: crc32fast::Hasher,
    in_member: bool,
    /// Bytes of the member so far.
    length: u64,
    ahead: Option<Ahead>,
}

/// What others inflate ahead.
struct Ahead {
    guesses: Guesses,
    /// What is given out now, and how many of its bytes already were.
    now: Option<(Ready, usize)>,
    /// What the stream has before it.
    window: Box<Window>,
    /// Bytes that were given out so far.
    given: u64,
}

impl Default for Gzip {
    fn default() -> Self {
        let (inflate, crc) = (Inflate::new(), crc32fast::Hasher::new());
        Self { inflate, crc, in_member: false, length: 0, ahead: None }
    }
}

impl Gzip {
    /// Uses what others inflate ahead from now on.
    pub(crate) fn use_guesses(&mut self, guesses: Guesses) {
        self.ahead = Some(Ahead { guesses, now: None, window: Box::new([0; HISTORY]), given: 0 });
    }

    /// Bytes of this member that others inflated.
    #[cfg(test)]
    pub(crate) fn guessed(&self) -> u64 {
        self.ahead.as_ref().map_or(0, |ahead| ahead.given)
    }

    /// Fills `out`; less than all of it at the input's end only.
    pub(crate) fn decode<R: Read>(
        &mut self,
        input: &mut Input<R>,
        out: &mut [u8],
    ) -> Result<usize> {
        let mut filled = 0;
        // Where the member's bytes begin in `out`: matches reach no further.
        let mut start = 0;
        while filled < out.len() {
            if !self.in_member {
                if input.available()?.is_empty() {
                    break;
                }
                header(input)?;
                self.in_member = true;
                start = filled;
                if let Some(ahead) = &self.ahead {
                    ahead.guesses.member(input.offset());
                }
            }
            if let Some(given) = self.give(input, &mut out[start..], filled - start)? {
                self.made(&out[filled..start + given]);
                filled = start + given;
                continue;
            }
            let bytes = input.available()?;
            let cut = bytes.is_empty();
            self.inflate.pause(self.ahead.is_some() && !cut);
            let progress = match self.inflate.decode(bytes, &mut out[start..], filled - start) {
                Ok(progress) => progress,
                Err(error) => return Err(fault(input, Fault::Deflate(error))),
            };
            input.advance(progress.read);
            self.made(&out[filled..start + progress.filled]);
            filled = start + progress.filled;
            if progress.ended {
                self.trailer(input)?;
            } else if cut && filled < out.len() {
                return Err(fault(input, Fault::Truncated));
            }
        }
        Ok(filled)
    }

    fn made(&mut self, bytes: &[u8]) {
        self.crc.update(bytes);
        self.length += bytes.len() as u64;
    }

    /// Fills `out` from its byte `filled` on with what was inflated ahead, if that comes next.
    /// Returns how many bytes are filled then.
    fn give<R: Read>(
        &mut self,
        input: &mut Input<R>,
        out: &mut [u8],
        filled: usize,
    ) -> Result<Option<usize>> {
        let Some(Ahead { guesses, now, window, given: sum }) = &mut self.ahead else {
            return Ok(None);
        };
        if now.is_none() {
            let Some(held) = self.inflate.between() else { return Ok(None) };
            let found = guesses.at(8 * input.offset() - u64::from(held));
            // A match may reach beyond the member's start: then that is found in order.
            if let Some(ready) = found
                && ready.end().0 >= input.offset()
                && self.inflate.window(out, filled, window)
            {
                *now = Some((ready, 0));
            }
        }
        let Some((ready, given)) = now else { return Ok(None) };
        let all = self.inflate.supply(out, filled, |out| ready.give(*given, window, out));
        *given += all - filled;
        *sum += (all - filled) as u64;
        // As far as it would have come: the input that was used decides how much may be made of it.
        input.skip_to(ready.used(*given))?;
        if *given == ready.length() {
            let (end, held) = ready.end();
            input.skip_to(end)?;
            let byte = if held > 0 { input.byte()? } else { Some(0) };
            let Some(byte) = byte else { return Err(fault(input, Fault::Truncated)) };
            self.inflate.resume(byte, held);
            *now = None;
        }
        Ok(Some(all))
    }

    fn trailer<R: Read>(&mut self, input: &mut Input<R>) -> Result<()> {
        let &[c0, c1, c2, c3, l0, l1, l2, l3] = input.peek(8)? else {
            return Err(fault(input, Fault::Truncated));
        };
        let expected = u32::from_le_bytes([c0, c1, c2, c3]);
        let got = std::mem::take(&mut self.crc).finalize();
        if got != expected {
            return Err(fault(input, Fault::Checksum { expected, got }));
        }
        let expected = u32::from_le_bytes([l0, l1, l2, l3]);
        let got = std::mem::take(&mut self.length);
        if got & u64::from(u32::MAX) != u64::from(expected) {
            return Err(fault(input, Fault::Length { expected, got }));
        }
        if let Some(Ahead { given, .. }) = &mut self.ahead {
            tracing::debug!(bytes = got, ahead = std::mem::take(given), "inflated a gzip member");
        }
        input.advance(8);
        self.inflate.reset();
        self.in_member = false;
        Ok(())
    }
}

fn fault<R: Read>(input: &Input<R>, what: Fault) -> Error {
    Error::new(ErrorKind::Corrupt, format!("inflate layer at compressed byte {}", input.offset()))
        .with_source(what)
}

/// Reads a member's header.
fn header<R: Read>(input: &mut Input<R>) -> Result<()> {
    let fixed = match input.peek(10)? {
        [0x1f, 0x8b, rest @ ..] if rest.len() == 8 => [rest[0], rest[1]],
        [0x1f, 0x8b, ..] | [0x1f] => return Err(fault(input, Fault::Truncated)),
        _ => return Err(fault(input, Fault::Trailing)),
    };
    let [method, flags] = fixed;
    if method != 8 || flags & 0xe0 != 0 {
        return Err(fault(input, Fault::Header));
    }
    let mut crc = crc32fast::Hasher::new();
    crc.update(input.peek(10)?);
    input.advance(10);
    let mut left = HEADER_LIMIT;
    let mut next = |input: &mut Input<R>| -> Result<u8> {
        left = match left.checked_sub(1) {
            Some(left) => left,
            None => return Err(fault(input, Fault::LongHeader)),
        };
        match input.byte()? {
            Some(byte) => {
                crc.update(&[byte]);
                Ok(byte)
            }
            None => Err(fault(input, Fault::Truncated)),
        }
    };
    if flags & 4 != 0 {
        let length = u16::from_le_bytes([next(input)?, next(input)?]);
        for _ in 0..length {
            next(input)?;
        }
    }
    for flag in [8, 16] {
        if flags & flag != 0 {
            while next(input)? != 0 {}
        }
    }
    if flags & 2 != 0 {
        let expected = match *input.peek(2)? {
            [low, high] => u16::from_le_bytes([low, high]),
            _ => return Err(fault(input, Fault::Truncated)),
        };
        if crc.finalize() & 0xffff != u32::from(expected) {
            return Err(fault(input, Fault::Header));
        }
        input.advance(2);
    }
    Ok(())
}
