//! LZ4's legacy frame, `lz4 -l`: blocks that do not depend on each other, so
//! that several threads can unpack them (lz4_Frame_format.md, "Legacy frame";
//! lz4_Block_format.md).

use std::io;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use memory::{HUGE_PAGE, zeroed_buffer};

use super::Sink;
use super::blocks::Cursor;

/// 0x184c2102.
pub(super) const MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
/// What blocks unpack to, but the last of a frame, which may be shorter.
const BLOCK: usize = 8 << 20;
/// More threads than this wait for memory, not for each other.
const MAX_THREADS: usize = 4;
/// The shortest copy.
const MIN_MATCH: usize = 4;

/// The packed blocks of all frames, each with the offset of what it unpacks to.
fn blocks(data: &[u8]) -> io::Result<Vec<(&[u8], usize)>> {
    let mut cursor = Cursor(data);
    cursor.take(MAGIC.len())?;
    let mut blocks = Vec::new();
    while !cursor.0.is_empty() {
        let size = cursor.array()?;
        // Frames may follow each other.
        if size == MAGIC {
            continue;
        }
        let packed = cursor.take(u32::from_le_bytes(size) as usize)?;
        blocks.push((packed, blocks.len().saturating_mul(BLOCK)));
    }
    Ok(blocks)
}

/// The first `len` bytes, or fewer if there are no more in the first block.
pub(super) fn head(data: &[u8], len: usize) -> io::Result<Vec<u8>> {
    let blocks = blocks(data)?;
    blocks.first().map_or(Ok(Vec::new()), |(packed, _)| block_head(packed, len))
}

/// The first bytes of one block. The library unpacks blocks only whole.
fn block_head(packed: &[u8], len: usize) -> io::Result<Vec<u8>> {
    let mut cursor = Cursor(packed);
    let mut out = Vec::with_capacity(len);
    while out.len() < len {
        let [token] = cursor.array()?;
        let literals = long_len(&mut cursor, token >> 4, len)?;
        out.extend_from_slice(cursor.take(literals.min(len.saturating_sub(out.len())))?);
        if out.len() >= len || cursor.0.is_empty() {
            break;
        }
        let distance = usize::from(u16::from_le_bytes(cursor.array()?));
        let copied = long_len(&mut cursor, token & 0xf, len)?.saturating_add(MIN_MATCH);
        for _ in 0..copied.min(len.saturating_sub(out.len())) {
            let from = out.len().checked_sub(distance).and_then(|at| out.get(at)).copied();
            out.push(from.filter(|_| distance > 0).ok_or(io::ErrorKind::InvalidData)?);
        }
    }
    Ok(out)
}

/// A length whose first four bits are `nibble`; beyond `enough` it is only
/// known to be longer.
fn long_len(cursor: &mut Cursor<'_>, nibble: u8, enough: usize) -> io::Result<usize> {
    let mut len = usize::from(nibble);
    if nibble == 0xf {
        loop {
            let [more] = cursor.array()?;
            len = len.saturating_add(more.into());
            if more != 0xff || len > enough {
                break;
            }
        }
    }
    Ok(len)
}

/// Unpacks everything to `sink`, on as many threads as are of use, and gives
/// the unpacked length. Stops soon after `limit` bytes.
pub(super) fn unpack(data: &[u8], limit: usize, sink: &Sink<'_>) -> io::Result<u64> {
    let blocks = blocks(data)?;
    let last = blocks.len().saturating_sub(1);
    let wanted: Vec<_> = blocks.iter().filter(|(_, at)| *at <= limit).collect();
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let outcome = Mutex::new(Ok(0_u64));
    let work = || {
        let Ok(mut room) = zeroed_buffer(BLOCK + HUGE_PAGE) else {
            let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
            *outcome = Err(io::ErrorKind::OutOfMemory.into());
            return;
        };
        let start = room.as_ptr().align_offset(HUGE_PAGE).min(HUGE_PAGE);
        let buffer = room.get_mut(start..start + BLOCK).unwrap_or_default();
        while !failed.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some((packed, at)) = wanted.get(index) else { break };
            let result = unpack_block(packed, buffer, index == last)
                .and_then(|unpacked| sink(*at as u64, unpacked).map(|()| at + unpacked.len()));
            let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
            match (result, outcome.as_mut()) {
                (Ok(end), Ok(known)) => *known = (*known).max(end as u64),
                (Err(error), Ok(_)) => {
                    *outcome = Err(error);
                    failed.store(true, Ordering::Relaxed);
                }
                (_, Err(_)) => {}
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS).min(wanted.len());
    thread::scope(|scope| {
        for _ in 1..threads {
            // A host that refuses a thread leaves the work to this one.
            if thread::Builder::new().name("unpack".to_owned()).spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    outcome.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn unpack_block<'a>(packed: &[u8], buffer: &'a mut [u8], last: bool) -> io::Result<&'a [u8]> {
    let len = lz4_flex::block::decompress_into(packed, buffer).map_err(io::Error::other)?;
    // Where the next block's bytes go is known only if this one is full.
    if len != BLOCK && !last {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(buffer.get(..len).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_is_what_the_whole_begins_with() {
        let data: Vec<u8> = (0..200_000_u32).map(|i| ((i / 700) ^ (i >> 13)) as u8).collect();
        let packed = lz4_flex::block::compress(&data);
        for len in [0, 1, 15, 16, 300, 4096, 100_000, 200_000, 300_000] {
            assert_eq!(block_head(&packed, len).unwrap(), &data[..len.min(data.len())], "{len}");
        }
    }

    #[test]
    fn a_damaged_head_is_an_error() {
        // A copy from before the start, one from distance 0, and a cut one.
        for packed in [&[0x10, b'a', 2, 0, 0][..], &[0x10, b'a', 0, 0, 0], &[0x10, b'a', 1]] {
            assert!(block_head(packed, 100).is_err(), "{packed:?}");
        }
        assert!(block_head(&[0xf0, 0xff, 0xff, 0xff], 1 << 20).is_err());
        assert_eq!(block_head(&[0x1f, b'a', 1, 0, 0xff, 0xff, 0], 8).unwrap(), b"aaaaaaaa");
    }

    #[test]
    fn blocks_in_the_middle_are_full() {
        let block = lz4_flex::block::compress(&[7; 100]);
        let len = (block.len() as u32).to_le_bytes();
        let one = [&MAGIC[..], &len, &block].concat();
        let two = [&one[..], &len, &block].concat();
        assert_eq!(unpack(&one, 1 << 30, &|_, _| Ok(())).unwrap(), 100);
        assert!(unpack(&two, 1 << 30, &|_, _| Ok(())).is_err());
    }
}
