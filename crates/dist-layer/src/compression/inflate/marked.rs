//! The loop that decodes where the bytes before the first one are not known.
//!
//! Output is symbols of two bytes, the low one first: a byte of the stream, or a mark that names a
//! place among the unknown bytes. The buffer begins with a mark of each of these, so that a match
//! copies them like any other symbol.

use super::fast::{READ, Source, Stop};
use super::tables::{LITERAL_BITS, Tables, entry};
use super::{Bits, Fault, HISTORY};

/// What was decoded: as bytes, so that the same memory can have plain ones.
pub(super) type Symbol = [u8; 2];

/// What is a mark has this bit; the others are the place.
pub(super) const MARK: u16 = 1 << 15;

/// Symbols that one round may write.
pub(super) const ROOM: usize = 2 + 258 + CHUNK;

/// Symbols copied at a time.
const CHUNK: usize = 16;

/// The marks of all unknown bytes, in their order.
pub(super) fn marks() -> impl Iterator<Item = Symbol> {
    (0..HISTORY as u16).map(|place| (MARK | place).to_le_bytes())
}

/// Whether there is a mark among them.
pub(super) fn is_marked(symbols: &[Symbol]) -> bool {
    symbols.iter().fold(0, |all, symbol| all | u16::from_le_bytes(*symbol)) & MARK != 0
}

/// Decodes from the start of `input` to `out` at `written`, until either is nearly at its end. What
/// a match may reach is all in `out`.
pub(super) fn run(
    bits: &mut Bits,
    tables: &Tables,
    input: &[u8],
    out: &mut [Symbol],
    mut written: usize,
) -> Result<Stop, Fault> {
    let mut ended = false;
    let mut source = Source { hold: bits.hold, held: bits.held, rest: input };
    source.fill();
    let mut found = tables.literal(source.hold);
    while source.rest.len() >= READ
        && let Some(room) = out.get_mut(written..).and_then(<[Symbol]>::first_chunk_mut::<ROOM>)
    {
        let mut count = 0usize;
        let mut before = source.hold;
        source.skip(found);
        if found & entry::LITERAL != 0 {
            count = put(room, count, found);
            found = tables.literal(source.hold);
            before = source.hold;
            source.skip(found);
            if found & entry::LITERAL != 0 {
                count = put(room, count, found);
                found = tables.literal(source.hold);
                before = source.hold;
                source.skip(found);
            }
        }
        if found & entry::LONG == entry::LONG {
            found = tables.long(found, source.hold);
            source.skip(found);
        }
        if found & entry::LITERAL != 0 {
            written += put(room, count, found);
            found = tables.literal(source.hold);
            source.fill();
            continue;
        }
        if found & entry::SPECIAL != 0 {
            if found & entry::END != entry::END {
                return Err(Fault::Symbol);
            }
            written += count;
            ended = true;
            break;
        }
        let length = (found >> 19 & 511) as usize
            + ((before >> (found >> 8 & 63)) as usize & (found >> 14 & 31) as usize);
        let far = tables.distance(source.hold)?;
        if source.held & 63 < (far as u32 & 63) + LITERAL_BITS {
            source.fill();
        }
        let before = source.hold;
        source.skip(far as u32);
        let distance =
            (far >> 32) as usize + ((before >> (far >> 8 & 63)) & (far >> 16 & 0xffff)) as usize;
        found = tables.literal(source.hold);
        source.fill();
        written += count;
        copy(out, written, distance, length)?;
        written += length;
    }
    let rest = source.finish(bits);
    Ok(Stop { read: input.len() - rest, written, ended })
}

/// Writes the literal of an entry after the first `count` symbols.
#[inline(always)]
fn put(room: &mut [Symbol; ROOM], count: usize, found: u32) -> usize {
    room[count & 7] = [(found >> 8) as u8, 0];
    count + 1
}

/// Copies a match, and symbols after it, which are written again later.
#[inline(always)]
fn copy(out: &mut [Symbol], written: usize, distance: usize, length: usize) -> Result<(), Fault> {
    let from = written.checked_sub(distance).ok_or(Fault::Distance)?;
    if distance < CHUNK {
        copy_near(out, from, written, length);
        return Ok(());
    }
    let mut done = 0;
    while done < length {
        if let Some(&symbols) = out.get(from + done..).and_then(<[Symbol]>::first_chunk::<CHUNK>)
            && let Some(place) =
                out.get_mut(written + done..).and_then(<[Symbol]>::first_chunk_mut::<CHUNK>)
        {
            *place = symbols;
        }
        done += CHUNK;
    }
    Ok(())
}

#[inline(never)]
fn copy_near(out: &mut [Symbol], from: usize, written: usize, length: usize) {
    if from + 1 == written {
        let symbol = out[from];
        out[written..written + length].fill(symbol);
        return;
    }
    for at in 0..length {
        out[written + at] = out[from + at];
    }
}
