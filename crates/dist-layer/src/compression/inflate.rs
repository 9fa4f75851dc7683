//! Inflating (RFC 1951), as fast as it can be without `unsafe`: it is half of the work of a pull.
//!
//! Input comes in slices of any size. Output goes straight into the caller's buffers; what matches
//! may reach of earlier buffers is copied aside once a buffer is full. Decoding can stop at every
//! symbol: whatever the bits at hand do not decide stays in [`Bits`].
//!
//! What is accepted is what zlib accepts: an incomplete code only where it has no symbol or one of
//! one bit, no unused symbols, no distance beyond the stream's first byte.

mod bits;
mod careful;
mod code;
mod fast;
mod find;
pub(crate) mod guess;
mod marked;
mod tables;

use self::bits::{Bits, Run};
use self::careful::Symbol;
use self::code::Code;
use self::tables::Tables;

/// The longest distance.
pub(crate) const HISTORY: usize = 32 << 10;
/// The bytes that a match may reach.
pub(crate) type Window = [u8; HISTORY];
/// The order in which the lengths of the code length code come.
const ORDER: [u8; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// What is wrong with a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("a block has no known type")]
    BlockType,
    #[error("a stored block's length and its complement disagree")]
    StoredLength,
    #[error("a block has more symbols than there are")]
    SymbolCount,
    #[error("code lengths are repeated where there is none or no room")]
    Repeat,
    #[error("a block has no code for its end")]
    NoEnd,
    #[error("a code has too many words or too few")]
    Code,
    #[error("a word is in no code or means nothing")]
    Symbol,
    #[error("a match begins before the first byte")]
    Distance,
}

/// What one call did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Bytes of the input that are used up.
    pub(crate) read: usize,
    /// Bytes of the buffer that are filled, those before the call included.
    pub(crate) filled: usize,
    /// The stream's last byte was made; input after it is not touched.
    pub(crate) ended: bool,
}

#[derive(Clone, Copy)]
enum State {
    Block,
    StoredLength,
    Stored { left: usize },
    Counts,
    CodeLengths { at: usize },
    Lengths { at: usize },
    Symbols,
    Match { length: usize, distance: usize },
    End,
}

/// One raw deflate stream.
pub(crate) struct Inflate {
    state: State,
    last: bool,
    bits: Bits,
    /// The tables are those of fixed codes.
    is_fixed: bool,
    /// The block's counts of code length, literal and distance symbols.
    counts: [usize; 3],
    lengths: [u8; 320],
    symbols: Code,
    distances: Code,
    tables: Tables,
    /// The end of what the buffers before this one got.
    history: Box<[u8]>,
    kept: usize,
    /// Each block's start ends a call.
    pausing: bool,
}

impl Inflate {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Block,
            last: false,
            bits: Bits { hold: 0, held: 0 },
            is_fixed: false,
            counts: [0; 3],
            lengths: [0; 320],
            symbols: Code::new(),
            distances: Code::new(),
            tables: Tables::new(),
            history: vec![0; HISTORY].into_boxed_slice(),
            kept: 0,
            pausing: false,
        }
    }

    /// Gets ready for another stream.
    pub(crate) fn reset(&mut self) {
        (self.state, self.last, self.kept) = (State::Block, false, 0);
        self.bits = Bits { hold: 0, held: 0 };
    }

    /// Inflates `input` into `out`, of which the first `filled` bytes are what earlier calls made.
    /// Another buffer may follow only a full one.
    ///
    /// Stops at the end of the stream, of `input` or of `out`; what is left of `input` then comes
    /// again.
    pub(crate) fn decode(
        &mut self,
        input: &[u8],
        out: &mut [u8],
        filled: usize,
    ) -> Result<Progress, Fault> {
        let mut run = Run { read: 0, filled };
        let paused = |inflate: &Self| inflate.pausing && inflate.between().is_some();
        while self.step(input, out, &mut run)? && !paused(self) {}
        if matches!(self.state, State::End) || run.filled == out.len() || paused(self) {
            self.give_back(&mut run);
        }
        if run.filled == out.len() && filled < out.len() {
            self.keep(out);
        }
        let ended = matches!(self.state, State::End);
        Ok(Progress { read: run.read, filled: run.filled, ended })
    }

    /// Whether calls end at each block's start too, from now on.
    pub(crate) fn pause(&mut self, pausing: bool) {
        self.pausing = pausing;
    }

    /// At a block's start, the bits that were read and belong to the blocks from here on.
    pub(crate) fn between(&self) -> Option<u32> {
        (matches!(self.state, State::Block) && !self.last).then_some(self.bits.held)
    }

    /// Goes on at a block's start that others have decoded up to, where `held` bits of `byte` are
    /// left; what they made was [`Inflate::supply`]ed.
    pub(crate) fn resume(&mut self, byte: u8, held: u32) {
        (self.state, self.last) = (State::Block, false);
        self.bits = Bits { hold: u64::from(byte) >> (8 - held), held };
    }

    /// Lets `give` write bytes after the first `filled` ones of `out`, as if this stream had made
    /// them; it returns how many. Returns how many bytes are filled.
    pub(crate) fn supply(
        &mut self,
        out: &mut [u8],
        filled: usize,
        give: impl FnOnce(&mut [u8]) -> usize,
    ) -> usize {
        let now = filled + give(&mut out[filled..]);
        if now == out.len() && filled < now {
            self.keep(out);
        }
        now
    }

    /// Copies what matches may reach from after the first `filled` bytes of `out`; returns whether
    /// that is as much as they ever may.
    pub(crate) fn window(&self, out: &[u8], filled: usize, window: &mut Window) -> bool {
        let new = &out[filled.saturating_sub(HISTORY)..filled];
        let (old, place) = window.split_at_mut(HISTORY - new.len());
        place.copy_from_slice(new);
        old.copy_from_slice(&self.history[new.len()..]);
        self.kept + new.len() >= HISTORY
    }

    /// Goes on to the next state; false where this one needs input or room, or is the end.
    fn step(&mut self, input: &[u8], out: &mut [u8], run: &mut Run) -> Result<bool, Fault> {
        match self.state {
            State::Block => {
                if self.last {
                    self.bits.align();
                    self.state = State::End;
                    return Ok(false);
                }
                let Some(head) = self.take(3, input, run) else { return Ok(false) };
                self.last = head & 1 == 1;
                self.state = match head >> 1 {
                    0 => {
                        self.bits.align();
                        State::StoredLength
                    }
                    1 => {
                        self.fixed()?;
                        State::Symbols
                    }
                    2 => State::Counts,
                    _ => return Err(Fault::BlockType),
                };
            }
            State::StoredLength => {
                let Some(both) = self.take(32, input, run) else { return Ok(false) };
                if both & 0xffff != !both >> 16 & 0xffff {
                    return Err(Fault::StoredLength);
                }
                self.give_back(run);
                self.state = State::Stored { left: (both & 0xffff) as usize };
            }
            State::Stored { left: 0 } => self.state = State::Block,
            State::Stored { left } => {
                let count = left.min(input.len() - run.read).min(out.len() - run.filled);
                out[run.filled..run.filled + count]
                    .copy_from_slice(&input[run.read..run.read + count]);
                run.read += count;
                run.filled += count;
                self.state = State::Stored { left: left - count };
                return Ok(count == left);
            }
            State::Counts => {
                let Some(counts) = self.take(14, input, run) else { return Ok(false) };
                let counts = counts as usize;
                self.counts = [(counts >> 10) + 4, (counts & 31) + 257, (counts >> 5 & 31) + 1];
                if self.counts[1] > 286 || self.counts[2] > 30 {
                    return Err(Fault::SymbolCount);
                }
                self.lengths = [0; 320];
                self.state = State::CodeLengths { at: 0 };
            }
            State::CodeLengths { at } if at < self.counts[0] => {
                let Some(length) = self.take(3, input, run) else { return Ok(false) };
                self.lengths[usize::from(ORDER[at])] = length as u8;
                self.state = State::CodeLengths { at: at + 1 };
            }
            State::CodeLengths { .. } => {
                self.is_fixed = false;
                self.distances.set(&self.lengths[..19])?;
                if !self.distances.is_complete() {
                    return Err(Fault::Code);
                }
                self.tables.build_lengths(&self.distances)?;
                self.lengths = [0; 320];
                self.state = State::Lengths { at: 0 };
            }
            State::Lengths { at } => return self.lengths(at, input, run),
            State::Symbols => return self.symbols(input, out, run),
            State::Match { length, distance } => {
                let count = length.min(out.len() - run.filled);
                self.copy(out, run.filled, distance, count)?;
                run.filled += count;
                if count < length {
                    self.state = State::Match { length: length - count, distance };
                    return Ok(false);
                }
                self.state = State::Symbols;
            }
            State::End => return Ok(false),
        }
        Ok(true)
    }

    /// Reads the code lengths of a block, from the one at `at`.
    fn lengths(&mut self, mut at: usize, input: &[u8], run: &mut Run) -> Result<bool, Fault> {
        let all = self.counts[1] + self.counts[2];
        while at < all {
            self.bits.fill(input, run);
            let (symbol, used) = self.tables.code_length(self.bits.hold);
            let extra = match symbol {
                16 => 2,
                17 => 3,
                18 => 7,
                _ => 0,
            };
            if used + extra > self.bits.held {
                self.state = State::Lengths { at };
                return Ok(false);
            }
            let number = (self.bits.hold >> used) as usize & ((1 << extra) - 1);
            let (length, times) = match symbol {
                16 if at == 0 => return Err(Fault::Repeat),
                16 => (self.lengths[at - 1], 3 + number),
                17 => (0, 3 + number),
                18 => (0, 11 + number),
                length => (length, 1),
            };
            self.bits.skip(used + extra);
            if times > all - at {
                return Err(Fault::Repeat);
            }
            self.lengths[at..at + times].fill(length);
            at += times;
        }
        if self.lengths[256] == 0 {
            return Err(Fault::NoEnd);
        }
        let (symbols, distances) = self.lengths[..all].split_at(self.counts[1]);
        self.symbols.set(symbols)?;
        self.distances.set(distances)?;
        self.tables.build(&self.symbols, &self.distances)?;
        self.state = State::Symbols;
        Ok(true)
    }

    /// Takes `count` bits, at most 32; none where they are not all there.
    fn take(&mut self, count: u32, input: &[u8], run: &mut Run) -> Option<u64> {
        self.bits.fill(input, run);
        if self.bits.held < count {
            return None;
        }
        let bits = self.bits.hold & ((1 << count) - 1);
        self.bits.skip(count);
        Some(bits)
    }

    /// Returns whole bytes that are not used. They are of this call's input: an earlier call left
    /// only what decided nothing yet.
    fn give_back(&mut self, run: &mut Run) {
        let bytes = (self.bits.held as usize / 8).min(run.read);
        run.read -= bytes;
        self.bits.held -= bytes as u32 * 8;
        self.bits.mask();
    }

    /// Copies `count` bytes of a match, from the buffer or from before it.
    fn copy(
        &self,
        out: &mut [u8],
        filled: usize,
        distance: usize,
        count: usize,
    ) -> Result<(), Fault> {
        if distance > filled + self.kept {
            return Err(Fault::Distance);
        }
        for at in filled..filled + count {
            out[at] = match at.checked_sub(distance) {
                Some(from) => out[from],
                None => self.history[HISTORY + at - distance],
            };
        }
        Ok(())
    }

    /// Copies aside what matches may reach once the full `out` is gone.
    fn keep(&mut self, out: &[u8]) {
        match out.last_chunk::<HISTORY>() {
            Some(tail) => self.history.copy_from_slice(tail),
            None => {
                self.history.copy_within(out.len().., 0);
                self.history[HISTORY - out.len()..].copy_from_slice(out);
            }
        }
        self.kept = HISTORY.min(self.kept + out.len());
    }

    fn fixed(&mut self) -> Result<(), Fault> {
        if self.is_fixed {
            return Ok(());
        }
        let mut lengths = [8; 288];
        lengths[144..256].fill(9);
        lengths[256..280].fill(7);
        self.symbols.set(&lengths)?;
        self.distances.set(&[5; 32])?;
        self.tables.build(&self.symbols, &self.distances)?;
        self.is_fixed = true;
        Ok(())
    }

    fn symbols(&mut self, input: &[u8], out: &mut [u8], run: &mut Run) -> Result<bool, Fault> {
        loop {
            if input.len() - run.read >= 16 {
                let history = &self.history[HISTORY - self.kept..];
                let rest = &input[run.read..];
                let stop = fast::run(&mut self.bits, &self.tables, rest, out, run.filled, history)?;
                run.read += stop.read;
                run.filled = stop.written;
                if stop.ended {
                    self.state = State::Block;
                    return Ok(true);
                }
            }
            if run.filled == out.len() {
                return Ok(false);
            }
            self.bits.fill(input, run);
            match careful::next(&mut self.bits, &self.symbols, &self.distances)? {
                None => return Ok(false),
                Some(Symbol::Literal(byte)) => {
                    out[run.filled] = byte;
                    run.filled += 1;
                }
                Some(Symbol::Match { length, distance }) => {
                    self.state = State::Match { length, distance };
                    return Ok(true);
                }
                Some(Symbol::End) => {
                    self.state = State::Block;
                    return Ok(true);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
