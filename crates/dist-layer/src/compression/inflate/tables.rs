//! Decode tables of one block.
//!
//! The next bits of the stream, masked, are the index of an entry. Codes longer than a table's
//! index have an entry that names a second table, in [`Tables::long`] or the distances' own tail.
//! Literals whose codes fit into one index together share an entry.

use super::Fault;
use super::code::{Code, reversed_next};

pub(super) const LITERAL_BITS: u32 = 11;
pub(super) const DISTANCE_BITS: u32 = 8;
/// The longest code of a code length.
const LENGTH_BITS: u32 = 7;
const LITERALS: usize = 1 << LITERAL_BITS;
/// The second tables of 286 codes of at most 15 bits need less.
pub(super) const LONG: usize = 1024;
pub(super) const DISTANCES: usize = 1024;

/// Entries of literals and lengths.
///
/// The bits to skip, extra bits included, are the low six. A literal is the second byte. A length
/// has the bits of its code alone from bit 8, the mask of its extra bits from bit 14 and its base
/// from bit 19.
pub(super) mod entry {
    pub(in super::super) const LITERAL: u32 = 1 << 31;
    /// What is no literal and no length.
    pub(in super::super) const SPECIAL: u32 = 1 << 30;
    /// A second table: its start at bit 8, the mask of its index at bit 20.
    pub(in super::super) const LONG: u32 = SPECIAL | 1 << 29;
    /// The end of the block.
    pub(in super::super) const END: u32 = SPECIAL | 1 << 28;
    pub(in super::super) const BAD: u32 = SPECIAL;
}

/// Entries of distances: bits to skip from bit 0, bits of the code alone from bit 8, the mask of
/// the extra bits from bit 16, the base from bit 32.
pub(super) mod distance {
    /// A second table: its start at bit 32, the mask of its index at bit 16.
    pub(in super::super) const LONG: u64 = 1 << 63;
    pub(in super::super) const BAD: u64 = 1 << 62;
}

pub(super) struct Tables {
    pub(super) literals: [u32; LITERALS],
    pub(super) long: [u32; LONG],
    pub(super) distances: [u64; DISTANCES],
    /// Code lengths: the bits of the code below, the symbol from bit three.
    lengths: [u8; 1 << LENGTH_BITS],
}

impl Tables {
    pub(super) fn new() -> Self {
        Self {
            literals: [0; LITERALS],
            long: [0; LONG],
            distances: [0; DISTANCES],
            lengths: [0; 1 << LENGTH_BITS],
        }
    }

    pub(super) fn build(&mut self, symbols: &Code, distances: &Code) -> Result<(), Fault> {
        self.build_literals(symbols)?;
        self.build_distances(distances)
    }

    pub(super) fn build_lengths(&mut self, code: &Code) -> Result<(), Fault> {
        let shape = Shape { bits: LENGTH_BITS, offset: 0, bad: 0 };
        let make = |symbol, length| (symbol as u8) << 3 | length as u8;
        shape.fill(code, (&mut self.lengths, &mut []), make, |_, _| 0)
    }

    /// The code length symbol that `bits` begin with, and the bits of its code.
    pub(super) fn code_length(&self, bits: u64) -> (u8, u32) {
        let found = self.lengths[bits as usize & ((1 << LENGTH_BITS) - 1)];
        (found >> 3, u32::from(found & 7))
    }

    fn build_literals(&mut self, code: &Code) -> Result<(), Fault> {
        let shape = Shape { bits: LITERAL_BITS, offset: 0, bad: entry::BAD };
        shape.fill(code, (&mut self.literals, &mut self.long), literal, |start, mask| {
            entry::LONG | (start as u32) << 8 | (mask as u32) << 20
        })
    }

    fn build_distances(&mut self, code: &Code) -> Result<(), Fault> {
        let (main, long) = self.distances.split_at_mut(1 << DISTANCE_BITS);
        let shape = Shape { bits: DISTANCE_BITS, offset: main.len(), bad: distance::BAD };
        shape.fill(code, (main, long), distance_entry, |start, mask| {
            distance::LONG | (start as u64) << 32 | (mask as u64) << 16
        })
    }
}

fn literal(symbol: u16, length: u32) -> u32 {
    match symbol {
        0..256 => entry::LITERAL | u32::from(symbol) << 8 | length,
        256 => entry::END | length,
        _ => match super::code::length(symbol) {
            Some((base, extra)) => {
                (length + extra) | length << 8 | ((1 << extra) - 1) << 14 | u32::from(base) << 19
            }
            None => entry::BAD,
        },
    }
}

fn distance_entry(symbol: u16, length: u32) -> u64 {
    match super::code::distance(symbol) {
        Some((base, extra)) => {
            u64::from(length + extra)
                | u64::from(length) << 8
                | ((1 << extra) - 1) << 16
                | u64::from(base) << 32
        }
        None => distance::BAD | u64::from(length),
    }
}

/// How wide a table's index is, where the second tables begin, and what no code leads to.
struct Shape<T> {
    bits: u32,
    offset: usize,
    bad: T,
}

impl<T: Copy> Shape<T> {
    /// Fills `main` by the codes that fit its index, and `long` by the others. `make` makes an
    /// entry of a symbol and its code's length, `link` one of a second table's start and mask.
    #[inline(always)]
    fn fill(
        &self,
        code: &Code,
        (main, long): (&mut [T], &mut [T]),
        make: impl Fn(u16, u32) -> T,
        link: impl Fn(usize, usize) -> T,
    ) -> Result<(), Fault> {
        if !code.is_complete() {
            main.fill(self.bad);
            if let [symbol] = code.symbols() {
                let one = make(*symbol, 1);
                main.iter_mut().step_by(2).for_each(|entry| *entry = one);
            }
            return Ok(());
        }
        let mut symbols = code.symbols().iter();
        let mut word = 0usize;
        let mut filled = 1usize;
        for length in 1..=self.bits {
            // The table so far, indexed by one bit more.
            main.copy_within(..filled, filled);
            filled *= 2;
            for _ in 0..code.count(length) {
                let Some(&symbol) = symbols.next() else { return Err(Fault::Code) };
                main[word] = make(symbol, length);
                word = reversed_next(word, length);
            }
        }
        // Where a new prefix of `bits` bits begins, so does a table that is wide enough for its codes.
        let mut prefix = usize::MAX;
        let (mut start, mut width) = (0usize, 0u32);
        let mut next = 0usize;
        for length in self.bits + 1..=15 {
            let mut left = code.count(length);
            while left > 0 {
                let Some(&symbol) = symbols.next() else { return Err(Fault::Code) };
                let low = word & (main.len() - 1);
                if low != prefix {
                    prefix = low;
                    start = next;
                    width = length - self.bits;
                    let mut room = i32::from(1i16 << width) - left as i32;
                    while room > 0 && self.bits + width < 15 {
                        width += 1;
                        room = room * 2 - code.count(self.bits + width) as i32;
                    }
                    next += 1 << width;
                    main[low] = link(self.offset + start, (1 << width) - 1);
                }
                let made = make(symbol, length);
                let step = 1usize << (length - self.bits);
                let mut at = word >> self.bits;
                while at < 1 << width {
                    long[start + at] = made;
                    at += step;
                }
                word = reversed_next(word, length);
                left -= 1;
            }
        }
        Ok(())
    }
}
