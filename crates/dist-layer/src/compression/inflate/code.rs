//! Canonical Huffman codes (RFC 1951, section 3.2).

use super::Fault;

/// Extra bits and the smallest value of length symbols from 257.
const LENGTHS: [(u16, u32); 29] = ranges(3, 4, 258);
/// The same of distance symbols.
const DISTANCES: [(u16, u32); 30] = ranges(1, 2, 0);

/// Each power of two from the first `group` values on is split into `group` ranges.
const fn ranges<const N: usize>(first: u16, group: usize, last: u16) -> [(u16, u32); N] {
    let mut all = [(0, 0); N];
    let (mut at, mut base) = (0, first);
    while at < N {
        let extra = if at < 2 * group { 0 } else { (at / group - 1) as u32 };
        all[at] = (base, extra);
        base += 1 << extra;
        at += 1;
    }
    if last > 0 {
        all[N - 1] = (last, 0);
    }
    all
}

/// The smallest length of a symbol and its extra bits; none where the symbol means nothing.
pub(super) fn length(symbol: u16) -> Option<(u16, u32)> {
    LENGTHS.get(usize::from(symbol).checked_sub(257)?).copied()
}

/// The smallest distance of a symbol and its extra bits; none where the symbol means nothing.
pub(super) fn distance(symbol: u16) -> Option<(u16, u32)> {
    DISTANCES.get(usize::from(symbol)).copied()
}

/// One code: how many symbols have each length, and the symbols in the order of their codes.
pub(super) struct Code {
    counts: [u16; 16],
    symbols: [u16; 288],
    used: usize,
    complete: bool,
}

/// What the first bits of a stream are in a code.
pub(super) enum Found {
    Symbol {
        symbol: u16,
        length: u32,
    },
    /// No code begins like this.
    Nothing,
    /// More bits are needed.
    Short,
}

impl Code {
    pub(super) const fn new() -> Self {
        Self { counts: [0; 16], symbols: [0; 288], used: 0, complete: false }
    }

    /// Takes the length of each symbol's code, zero where it has none.
    ///
    /// A code may be incomplete where it has no symbol at all, or one of one bit; unused codes are
    /// faults when they are met.
    pub(super) fn set(&mut self, lengths: &[u8]) -> Result<(), Fault> {
        let mut counts = [0u16; 16];
        for &length in lengths {
            counts[usize::from(length & 15)] += 1;
        }
        self.used = lengths.len() - usize::from(counts[0]);
        counts[0] = 0;
        let mut left = 1i32;
        let mut offsets = [0u16; 16];
        for length in 1..16 {
            left = left * 2 - i32::from(counts[length]);
            if left < 0 {
                return Err(Fault::Code);
            }
            offsets[length] = offsets[length - 1] + counts[length - 1];
        }
        self.complete = left == 0;
        let alone = self.used == 0 || (self.used == 1 && counts[1] == 1);
        if !self.complete && !alone {
            return Err(Fault::Code);
        }
        self.counts = counts;
        for (symbol, &length) in (0u16..).zip(lengths) {
            if length != 0 {
                let at = &mut offsets[usize::from(length & 15)];
                if let Some(place) = self.symbols.get_mut(usize::from(*at)) {
                    *place = symbol;
                }
                *at += 1;
            }
        }
        Ok(())
    }

    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// How many codes have `length` bits.
    pub(super) fn count(&self, length: u32) -> usize {
        usize::from(self.counts[length as usize & 15])
    }

    /// The symbols that have a code, in the order of their codes.
    pub(super) fn symbols(&self) -> &[u16] {
        &self.symbols[..self.used]
    }

    /// Finds the symbol that the low `available` bits of `bits` begin with, a bit at a time.
    pub(super) fn find(&self, bits: u64, available: u32) -> Found {
        let (mut word, mut first, mut index) = (0usize, 0usize, 0usize);
        for length in 1..=15 {
            if index == self.used {
                return Found::Nothing;
            }
            if length > available {
                return Found::Short;
            }
            word |= (bits >> (length - 1)) as usize & 1;
            let count = self.count(length);
            if word < first + count {
                return match self.symbols().get(index + word - first) {
                    Some(&symbol) => Found::Symbol { symbol, length },
                    None => Found::Nothing,
                };
            }
            index += count;
            first = (first + count) * 2;
            word *= 2;
        }
        Found::Nothing
    }
}

/// The code after `word` among those of `length` bits, both with their first bit lowest; 0 after
/// the last.
pub(super) fn reversed_next(word: usize, length: u32) -> usize {
    let zeros = !word & ((1 << length) - 1);
    if zeros == 0 {
        return 0;
    }
    let highest = 1usize << zeros.ilog2();
    word & (highest - 1) | highest
}
