//! Decoding from the middle of a stream, before what comes before it is known.
//!
//! A place where a block may begin is looked for, and blocks are decoded from there on, with marks
//! for the unknown bytes ([`super::marked`]). Once there was no mark for as far as a match may reach,
//! decoding goes on as usual. What comes out is what any decoder makes from that very bit, once the
//! marks are replaced: so who gets there from the stream's start, between two blocks, may use it, and
//! whether it was a block that was found needs no other check.
//!
//! A guess only ever ends between blocks, with the last one that is whole, without faults and not
//! the stream's last: everything else is left to who decodes in order.

use super::marked::{self, MARK, Symbol};
use super::{HISTORY, Inflate, Run, State, Window, find};

/// Compressed bytes of a stretch, after whose end a guess ends as soon as it can.
pub(crate) const STRETCH: usize = 384 << 10;

/// Compressed bytes after a stretch that its last block may have.
pub(crate) const BEYOND: usize = 64 << 10;

/// Compressed bytes in which a block's start is looked for.
const SEARCH: usize = 192 << 10;

/// Compressed bytes that are decoded in vain before no start is taken to be there, and how many
/// each place is counted as that is tried.
const EFFORT: usize = 768 << 10;
const TRY: usize = 128;

/// Bytes of memory for what is decoded: two for each symbol up to the last mark's reach, then one for
/// each byte. Marks outlast half of a stretch and more, being copied by matches. Of layers that expand
/// to 2.2 to 3.2 times their size it is enough for nine tenths, of one that does to 4.5 times, for
/// three quarters; what is missing of a stretch is decoded in order.
const MEMORY: usize = 2816 << 10;

/// Symbols after which marks are looked for again.
const LOOK: usize = 32 << 10;

/// The memory of one guess: all marks, what was decoded with some, then plain bytes.
#[derive(Default)]
pub(crate) struct Space(Box<[Symbol]>);

/// What was decoded; bits are counted from the first of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Guess {
    pub(crate) start: usize,
    pub(crate) end: usize,
    marked: usize,
    plain: usize,
}

impl Guess {
    /// Bytes that it has.
    pub(crate) fn length(&self) -> usize {
        self.marked + self.plain
    }

    /// How many of them were decoded with marks.
    #[allow(dead_code, reason = "measurements ask for it")]
    pub(crate) fn marked(&self) -> usize {
        self.marked
    }
}

impl Space {
    pub(crate) fn new() -> Self {
        let mut made = vec![[0; 2]; HISTORY + MEMORY / 2].into_boxed_slice();
        for (place, mark) in made.iter_mut().zip(marked::marks()) {
            *place = mark;
        }
        Self(made)
    }

    /// Writes the bytes of `guess` from `at` on, as many as `out` takes; `window` is what the stream
    /// has before it. Returns how many they are.
    pub(crate) fn give(&self, guess: &Guess, at: usize, window: &Window, out: &mut [u8]) -> usize {
        let (marked, plain) = self.0[HISTORY..].split_at(guess.marked);
        let (replaced, out) = out.split_at_mut(out.len().min(guess.marked.saturating_sub(at)));
        for (place, &symbol) in replaced.iter_mut().zip(&marked[at.min(guess.marked)..]) {
            let symbol = u16::from_le_bytes(symbol);
            let unknown = window[usize::from(symbol) & (HISTORY - 1)];
            *place = if symbol & MARK == 0 { symbol as u8 } else { unknown };
        }
        let plain = &plain.as_flattened()[at.saturating_sub(guess.marked)..guess.plain];
        let rest = plain.len().min(out.len());
        out[..rest].copy_from_slice(&plain[..rest]);
        replaced.len() + rest
    }
}

/// Makes guesses, one after another.
pub(crate) struct Guesser(Box<Inflate>);

impl Guesser {
    pub(crate) fn new() -> Self {
        Self(Box::new(Inflate::new()))
    }

    /// Decodes `input` from the first place where that can be done for a block at least, to the first
    /// block that begins after `stretch` bytes, or as far as it can.
    pub(crate) fn guess(
        &mut self,
        input: &[u8],
        space: &mut Space,
        stretch: usize,
    ) -> Option<Guess> {
        let (mut from, mut effort) = (0, EFFORT);
        loop {
            let start = find::next(input, from, 8 * stretch.min(SEARCH))?;
            match self.decode(input, space, (start, 8 * stretch)) {
                Ok(guess) => return Some(guess),
                Err(read) => effort = effort.checked_sub(TRY + read)?,
            }
            from = start + 1;
        }
    }

    /// Decodes from the bit `start` on, and at least to the bit `enough` if that can be. The error is
    /// how many bytes were read in vain.
    fn decode(
        &mut self,
        input: &[u8],
        space: &mut Space,
        (start, enough): (usize, usize),
    ) -> Result<Guess, usize> {
        let inflate = &mut *self.0;
        inflate.reset();
        inflate.pause(true);
        let mut run = Run { read: start / 8, filled: 0 };
        inflate.bits.fill(input, &mut run);
        inflate.bits.skip(start as u32 % 8);
        let mut known = Known { end: None, start, enough };
        let marked = with_marks(inflate, input, &mut space.0, &mut run, &mut known);
        if let Some(marked) = marked {
            let plain = space.0[HISTORY + marked..].as_flattened_mut();
            without_marks(inflate, (input, plain), marked, &mut run, &mut known);
        }
        known.end.ok_or(run.read - start / 8)
    }
}

/// How far a guess is sure.
struct Known {
    end: Option<Guess>,
    start: usize,
    enough: usize,
}

impl Known {
    /// Takes what was decoded before a block's start; returns whether it is enough.
    fn reach(&mut self, end: usize, marked: usize, plain: usize) -> bool {
        if end > self.start {
            self.end = Some(Guess { start: self.start, end, marked, plain });
        }
        end >= self.enough
    }
}

/// Decodes until marks are out of reach and returns how many symbols that took; none where that
/// was not to be reached, or enough was decoded before.
fn with_marks(
    inflate: &mut Inflate,
    input: &[u8],
    out: &mut [Symbol],
    run: &mut Run,
    known: &mut Known,
) -> Option<usize> {
    let (mut written, mut looked) = (HISTORY, HISTORY);
    loop {
        match inflate.state {
            State::Block => {
                let end = 8 * run.read - inflate.bits.held as usize;
                if known.reach(end, written - HISTORY, 0) {
                    return None;
                }
                if !inflate.step(input, &mut [], run).ok()? || inflate.last {
                    return None;
                }
            }
            State::Symbols => {
                let limit = out.len().min(written + LOOK + marked::ROOM);
                let (bits, rest) = (&mut inflate.bits, &input[run.read..]);
                let stop =
                    marked::run(bits, &inflate.tables, rest, &mut out[..limit], written).ok()?;
                run.read += stop.read;
                let stuck = stop.written == written && !stop.ended;
                written = stop.written;
                if stop.ended {
                    inflate.state = State::Block;
                } else if stuck {
                    return None;
                }
            }
            State::Stored { left } if left > 0 => {
                let from = input.get(run.read..run.read + left)?;
                for (place, &byte) in out.get_mut(written..written + left)?.iter_mut().zip(from) {
                    *place = [byte, 0];
                }
                run.read += left;
                written += left;
                inflate.state = State::Stored { left: 0 };
            }
            State::Match { .. } | State::End => return None,
            _ => {
                if !inflate.step(input, &mut [], run).ok()? {
                    return None;
                }
            }
        }
        if written < looked + LOOK {
            continue;
        }
        looked = written;
        let reached = &out[written - HISTORY..written];
        if !marked::is_marked(reached) {
            for (byte, symbol) in inflate.history.iter_mut().zip(reached) {
                *byte = symbol[0];
            }
            inflate.kept = HISTORY;
            inflate.give_back(run);
            return Some(written - HISTORY);
        }
    }
}

/// Decodes on where everything within reach is known.
fn without_marks(
    inflate: &mut Inflate,
    (input, out): (&[u8], &mut [u8]),
    marked: usize,
    run: &mut Run,
    known: &mut Known,
) {
    loop {
        let Ok(progress) = inflate.decode(&input[run.read..], out, run.filled) else { return };
        run.read += progress.read;
        let stuck = progress.read == 0 && progress.filled == run.filled;
        run.filled = progress.filled;
        match inflate.between() {
            Some(held) => {
                let end = 8 * run.read - held as usize;
                if known.reach(end, marked, run.filled) || stuck {
                    return;
                }
            }
            None => return,
        }
    }
}

#[cfg(test)]
mod tests;
