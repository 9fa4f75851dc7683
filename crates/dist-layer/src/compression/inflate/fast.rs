//! The loop that nearly all bytes go through, while there is room on both sides.
//!
//! Arithmetic on bits wraps; whatever it computes is an index, and indices are checked or masked.

use super::tables::{DISTANCE_BITS, DISTANCES, LITERAL_BITS, LONG, Tables, distance, entry};
use super::{Bits, Fault, HISTORY};

/// Bytes that one round may write: two literals, the longest match, and the tail of its last chunk.
const ROOM: usize = 2 + 258 + 32;
/// Bytes that one round may read: it fills up twice, and looks at eight bytes each time.
pub(super) const READ: usize = 7 + 8;

/// Indices of second tables have the other bits of a code.
const LONG_MASK: usize = (1 << (15 - LITERAL_BITS)) - 1;
const FAR_MASK: usize = (1 << (15 - DISTANCE_BITS)) - 1;

/// Where and how the loop stopped.
pub(super) struct Stop {
    pub(super) read: usize,
    pub(super) written: usize,
    /// The block's end was met.
    pub(super) ended: bool,
}

/// The bits that are read and not used, and where the next ones come from.
pub(super) struct Source<'a> {
    /// Beyond those that count as held are more of the stream's bits: of the 64 that there are after
    /// filling up, only those that were skipped are missing.
    pub(super) hold: u64,
    /// Only the low six bits count; the others are leftovers of entries.
    pub(super) held: u32,
    pub(super) rest: &'a [u8],
}

impl Source<'_> {
    /// Takes whole bytes until 56 bits or more are held.
    #[inline(always)]
    pub(super) fn fill(&mut self) {
        let Some(word) = self.rest.first_chunk::<8>() else { return };
        self.hold |= u64::from_le_bytes(*word) << (self.held & 63);
        self.rest = &self.rest[(!self.held as usize >> 3) & 7..];
        self.held |= 56;
    }

    #[inline(always)]
    pub(super) fn skip(&mut self, entry: u32) {
        self.hold >>= entry & 63;
        self.held = self.held.wrapping_sub(entry);
    }

    /// Gives the bits back; returns how many bytes are not taken.
    #[inline(always)]
    pub(super) fn finish(self, bits: &mut Bits) -> usize {
        bits.hold = self.hold;
        bits.held = self.held & 63;
        bits.mask();
        self.rest.len()
    }
}

impl Tables {
    #[inline(always)]
    pub(super) fn literal(&self, hold: u64) -> u32 {
        self.literals[hold as usize & ((1 << LITERAL_BITS) - 1)]
    }

    /// The entry that one of the first table's, which names a second table, leads to.
    #[inline(always)]
    pub(super) fn long(&self, found: u32, hold: u64) -> u32 {
        let at = (hold >> LITERAL_BITS) as usize & (found >> 20) as usize & LONG_MASK;
        self.long[((found >> 8 & 0xfff) as usize + at) & (LONG - 1)]
    }

    #[inline(always)]
    pub(super) fn distance(&self, hold: u64) -> Result<u64, Fault> {
        let mut found = self.distances[hold as usize & ((1 << DISTANCE_BITS) - 1)];
        if found & (distance::LONG | distance::BAD) != 0 {
            if found & distance::LONG != 0 {
                let at = (hold >> DISTANCE_BITS) as usize & (found >> 16) as usize & FAR_MASK;
                found = self.distances[((found >> 32 & 1023) as usize + at) & (DISTANCES - 1)];
            }
            if found & distance::BAD != 0 {
                return Err(Fault::Symbol);
            }
        }
        Ok(found)
    }
}

/// Decodes from the start of `input` to `out` at `written`, until either is nearly at its end.
///
/// What is looked up next is so before filling up, and before a match is copied: the bits are there,
/// and the look-ups are what each round waits for.
pub(super) fn run(
    bits: &mut Bits,
    tables: &Tables,
    input: &[u8],
    out: &mut [u8],
    mut written: usize,
    history: &[u8],
) -> Result<Stop, Fault> {
    let mut ended = false;
    let mut source = Source { hold: bits.hold, held: bits.held, rest: input };
    source.fill();
    let mut found = tables.literal(source.hold);
    while source.rest.len() >= READ
        && let Some(room) = out.get_mut(written..).and_then(<[u8]>::first_chunk_mut::<ROOM>)
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

        // Of 56 bits or more at most 42 are skipped: those of a distance's code are there.
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
        if distance > written {
            copy_old(out, written, distance, length, history)?;
        } else {
            copy(out, written, distance, length);
        }
        written += length;
    }
    let rest = source.finish(bits);
    Ok(Stop { read: input.len() - rest, written, ended })
}

/// Writes the literal of an entry after the first `count` bytes.
#[inline(always)]
fn put(room: &mut [u8; ROOM], count: usize, found: u32) -> usize {
    room[count & 7] = (found >> 8) as u8;
    count + 1
}

/// Copies `N` bytes within `out`.
#[inline(always)]
fn chunk<const N: usize>(out: &mut [u8], from: usize, to: usize) {
    if let Some(&bytes) = out.get(from..).and_then(<[u8]>::first_chunk::<N>)
        && let Some(place) = out.get_mut(to..).and_then(<[u8]>::first_chunk_mut::<N>)
    {
        *place = bytes;
    }
}

/// Copies a match within `out`, and up to 31 bytes more, which are written again later.
#[inline(always)]
fn copy(out: &mut [u8], written: usize, distance: usize, length: usize) {
    if distance < 32 {
        return copy_near(out, written, distance, length);
    }
    let Some((before, after)) = out.split_at_mut_checked(written) else { return };
    let from = written.wrapping_sub(distance);
    if let Some(&bytes) = before.get(from..).and_then(<[u8]>::first_chunk::<32>)
        && let Some(place) = after.first_chunk_mut::<32>()
    {
        *place = bytes;
    }
    let mut done = 32;
    while done < length {
        chunk::<32>(out, from.wrapping_add(done), written.wrapping_add(done));
        done += 32;
    }
}

/// Copies a match of a distance below 32; below eight it writes eight bytes at a time, of which a
/// whole number of periods is kept.
#[inline(never)]
fn copy_near(out: &mut [u8], written: usize, distance: usize, length: usize) {
    let from = written.wrapping_sub(distance);
    let mut done = 0;
    if distance >= 16 {
        while done < length {
            chunk::<16>(out, from.wrapping_add(done), written.wrapping_add(done));
            done += 16;
        }
        return;
    }
    if distance == 1 {
        let byte = out.get(from).copied().unwrap_or_default();
        while done < length {
            if let Some(place) =
                out.get_mut(written.wrapping_add(done)..).and_then(<[u8]>::first_chunk_mut::<32>)
            {
                *place = [byte; 32];
            }
            done += 32;
        }
        return;
    }
    if distance >= 8 {
        while done < length {
            chunk::<8>(out, from.wrapping_add(done), written.wrapping_add(done));
            done += 8;
        }
        return;
    }
    let Some(bytes) = out.get(from..).and_then(<[u8]>::first_chunk::<8>) else { return };
    let mut period = distance;
    let mut pattern = u64::from_le_bytes(*bytes) & ((1 << (8 * period)) - 1);
    while period < 8 {
        pattern |= pattern << (8 * period);
        period *= 2;
    }
    let step = 8 - 8 % distance;
    while done < length {
        if let Some(place) =
            out.get_mut(written.wrapping_add(done)..).and_then(<[u8]>::first_chunk_mut::<8>)
        {
            *place = pattern.to_le_bytes();
        }
        done += step;
    }
}

/// Copies a match that begins in the bytes before `out`.
#[cold]
#[inline(never)]
fn copy_old(
    out: &mut [u8],
    written: usize,
    distance: usize,
    length: usize,
    history: &[u8],
) -> Result<(), Fault> {
    debug_assert!(history.len() <= HISTORY);
    let Some(from) = history.len().checked_sub(distance - written) else {
        return Err(Fault::Distance);
    };
    let old = &history[from..];
    let old = &old[..old.len().min(length)];
    out[written..written + old.len()].copy_from_slice(old);
    for at in written + old.len()..written + length {
        out[at] = out[at - distance];
    }
    Ok(())
}
