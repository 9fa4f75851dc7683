//! Where a block of dynamic codes may begin, at any bit.
//!
//! What is told here is only that the first 74 bits could be a block's head: it is not the last
//! one, its counts are allowed and its code length code is complete. One place of some thousands
//! passes in noise; the rest is told by decoding on.

/// How much of all words four code lengths of three bits take, in 128ths.
const SHARES: [u16; 1 << 12] = {
    let mut all = [0; 1 << 12];
    let mut index = 0;
    while index < all.len() {
        let mut lengths = index;
        while lengths > 0 {
            if lengths & 7 > 0 {
                all[index] += 128 >> (lengths & 7);
            }
            lengths >>= 3;
        }
        index += 1;
    }
    all
};

/// Starts that are looked for in one word.
const STEP: usize = 54;

/// The first bit from `from` on, and before `to`, at which a block may begin.
pub(super) fn next(input: &[u8], from: usize, to: usize) -> Option<usize> {
    let mut at = from;
    while at < to {
        let word = bits(input, at)?;
        // No last block, and the type 2: the bits 0, 0, 1.
        let mut starts = !word & !(word >> 1) & (word >> 2) & ((1 << STEP) - 1);
        while starts != 0 {
            let bit = at + starts.trailing_zeros() as usize;
            if bit < to && is_head(input, bit) {
                return Some(bit);
            }
            starts &= starts - 1;
        }
        at += STEP;
    }
    None
}

/// The 56 bits from `at` on, and up to seven more.
fn bits(input: &[u8], at: usize) -> Option<u64> {
    let bytes = input.get(at / 8..)?.first_chunk::<8>()?;
    Some(u64::from_le_bytes(*bytes) >> (at % 8))
}

fn is_head(input: &[u8], bit: usize) -> bool {
    let (Some(counts), Some(low), Some(high)) =
        (bits(input, bit + 3), bits(input, bit + 17), bits(input, bit + 53))
    else {
        return false;
    };
    if counts & 31 > 29 || counts >> 5 & 31 > 29 {
        return false;
    }
    let count = (counts >> 10 & 15) as u32 + 4;
    let mask = (1u64 << (3 * count)) - 1;
    let (low, high) = (low & mask & ((1 << 36) - 1), high & mask >> 36);
    let share = |bits: u64| SHARES[bits as usize & 0xfff];
    share(low) + share(low >> 12) + share(low >> 24) + share(high) + share(high >> 12) == 128
}
