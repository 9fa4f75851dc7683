//! One symbol at a time, however few bytes there are on either side.

use super::code::{self, Code, Found};
use super::{Bits, Fault};

/// What the next bits mean.
pub(super) enum Symbol {
    Literal(u8),
    Match { length: usize, distance: usize },
    End,
}

/// Takes the next symbol; none where its bits are not all there, and then nothing is taken.
pub(super) fn next(
    bits: &mut Bits,
    symbols: &Code,
    distances: &Code,
) -> Result<Option<Symbol>, Fault> {
    let (symbol, mut used) = match symbols.find(bits.hold, bits.held) {
        Found::Symbol { symbol, length } => (symbol, length),
        Found::Nothing => return Err(Fault::Symbol),
        Found::Short => return Ok(None),
    };
    let found = match symbol {
        0..256 => Symbol::Literal(symbol as u8),
        256 => Symbol::End,
        _ => {
            let (base, extra) = code::length(symbol).ok_or(Fault::Symbol)?;
            let Some(length) = value(bits, &mut used, base, extra) else { return Ok(None) };
            let available = bits.held - used;
            let (symbol, taken) = match distances.find(bits.hold >> used, available) {
                Found::Symbol { symbol, length } => (symbol, length),
                Found::Nothing => return Err(Fault::Symbol),
                Found::Short => return Ok(None),
            };
            used += taken;
            let (base, extra) = code::distance(symbol).ok_or(Fault::Symbol)?;
            let Some(distance) = value(bits, &mut used, base, extra) else { return Ok(None) };
            Symbol::Match { length, distance }
        }
    };
    bits.skip(used);
    Ok(Some(found))
}

/// `base` and the number in the `extra` bits after the first `used`.
fn value(bits: &Bits, used: &mut u32, base: u16, extra: u32) -> Option<usize> {
    if bits.held < *used + extra {
        return None;
    }
    let number = bits.hold >> *used & ((1 << extra) - 1);
    *used += extra;
    Some(usize::from(base) + number as usize)
}
