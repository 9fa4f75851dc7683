//! The loop that nearly all bytes go through, while there is room on both sides.
//!
//! Arithmetic wraps where a check would cost; whatever it computes is an index, and indices are
//! checked or masked.

use super::tables::{DISTANCE_BITS, LITERAL_BITS, Tables, distance, entry};
use super::{Bits, Fault, HISTORY};

/// Bytes that one round may write: literals, the longest match, and the tail of its last chunk.
const ROOM: usize = 12 + 258 + 32;

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

#[inline(always)]
fn low(entry: u32) -> u32 {
    entry & 63
}

/// Decodes from the start of `input` to `out` at `written`, until either is nearly at its end.
pub(super) fn run(
    bits: &mut Bits,
    tables: &Tables,
    input: &[u8],
    out: &mut [u8],
    mut written: usize,
    history: &[u8],
) -> Result<Stop, Fault> {
    let Some(limit) = out.len().checked_sub(ROOM) else {
        return Ok(Stop { read: 0, written, ended: false });
    };
    let mut read = 0usize;
    let mut hold = bits.hold;
    // Only the low six bits count; the others are leftovers of entries.
    let mut held = bits.held;
    let mut ended = false;
    while written <= limit {
        let Some(window) = input.get(read..).and_then(<[u8]>::first_chunk::<16>) else { break };
        let Some(room) = out.get_mut(written..).and_then(<[u8]>::first_chunk_mut::<ROOM>) else {
            break;
        };
        let mut count = 0usize;
        hold |= word(window, 0) << (held & 63);
        let step = (!held as usize >> 3) & 7;
        held |= 56;
        // Without asking whether it is literals: where it is not, nothing is put or skipped.
        let mut found = tables.literals[hold as usize & ((1 << LITERAL_BITS) - 1)];
        count = put(room, count, found);
        hold >>= low(found);
        held = held.wrapping_sub(found);
        found = tables.literals[hold as usize & ((1 << LITERAL_BITS) - 1)];
        if found & entry::COUNT != 0 {
            count = put(room, count, found);
            hold >>= low(found);
            held = held.wrapping_sub(found);
            found = tables.literals[hold as usize & ((1 << LITERAL_BITS) - 1)];
            if found & entry::COUNT != 0 {
                count = put(room, count, found);
                hold >>= low(found);
                held = held.wrapping_sub(found);
                read = read.wrapping_add(step);
                written = written.wrapping_add(count);
                continue;
            }
        }
        if found & entry::SPECIAL != 0 {
            if found & entry::LONG == entry::LONG {
                let index = (found >> 8 & 0xfff) as usize
                    + ((hold >> LITERAL_BITS) as usize & (found >> 20) as usize & LONG_MASK);
                found = tables.long[index & 1023];
            }
            if found & entry::COUNT != 0 {
                count = put(room, count, found);
                hold >>= low(found);
                held = held.wrapping_sub(found);
                read = read.wrapping_add(step);
                written = written.wrapping_add(count);
                continue;
            }
            if found & entry::SPECIAL != 0 {
                if found & entry::END != entry::END {
                    return Err(Fault::Symbol);
                }
                hold >>= found >> 8 & 15;
                held = held.wrapping_sub(found >> 8 & 15);
                read = read.wrapping_add(step);
                written = written.wrapping_add(count);
                ended = true;
                break;
            }
        }
        hold >>= found >> 8 & 63;
        let length =
            (found >> 19 & 255) as usize + 3 + (hold as usize & (found >> 14 & 31) as usize);
        hold >>= found >> 27;
        held = held.wrapping_sub((found >> 8 & 63) + (found >> 27));

        hold |= word(window, step) << (held & 63);
        read = read.wrapping_add(step + ((!held as usize >> 3) & 7));
        held |= 56;
        let mut found = tables.distances[hold as usize & ((1 << DISTANCE_BITS) - 1)];
        if found & (distance::LONG | distance::BAD) != 0 {
            if found & distance::LONG != 0 {
                let index = (found >> 32 & 1023) as usize
                    + ((hold >> DISTANCE_BITS) as usize & (found >> 16) as usize & FAR_MASK);
                found = tables.distances[index & 1023];
            }
            if found & distance::BAD != 0 {
                return Err(Fault::Symbol);
            }
        }
        let distance = (found >> 32) as usize
            + ((hold >> (found >> 8 & 63)) & (found >> 16 & 0xffff)) as usize;
        hold >>= found & 63;
        held = held.wrapping_sub(found as u32);

        written = written.wrapping_add(count);
        if distance > written {
            copy_old(out, written, distance, length, history)?;
        } else {
            copy(out, written, distance, length);
        }
        written = written.wrapping_add(length);
    }
    bits.hold = hold;
    bits.held = held & 63;
    bits.mask();
    Ok(Stop { read, written, ended })
}

#[inline(always)]
fn word(window: &[u8; 16], at: usize) -> u64 {
    match window[at & 7..].first_chunk::<8>() {
        Some(bytes) => u64::from_le_bytes(*bytes),
        None => 0,
    }
}

/// Writes an entry's literals after the first `count` bytes, and up to three bytes more, which are
/// written again later.
#[inline(always)]
fn put(room: &mut [u8; ROOM], count: usize, found: u32) -> usize {
    if let Some(place) = room[count & 15..].first_chunk_mut::<4>() {
        *place = (found >> 8).to_le_bytes();
    }
    count + (found >> 6 & 3) as usize
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
