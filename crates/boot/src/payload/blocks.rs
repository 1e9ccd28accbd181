//! lzop's file: a sequence of independent blocks.

use std::io;

/// lzop's magic, then version and library version.
const LZOP_MAGIC_LEN: usize = 9;
/// Version from which the header has the longer form.
const LZOP_LONG_HEADER: u16 = 0x940;
const LZOP_HAS_FILTER: u32 = 0x800;
/// lzop's largest block (`MAX_BLOCK_SIZE`).
const LZOP_BLOCK: usize = 64 << 20;

fn short() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

/// Takes bytes off the front.
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn take(&mut self, len: usize) -> io::Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or_else(short)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or_else(short)?;
        self.0 = rest;
        Ok(*taken)
    }
}

/// Unpacks an lzop file; stops soon after `limit` bytes.
pub(super) fn lzo(data: &[u8], limit: usize) -> io::Result<Vec<u8>> {
    let mut cursor = Cursor(data);
    skip_lzop_header(&mut cursor)?;
    let mut unpacked = Vec::new();
    while unpacked.len() <= limit {
        let len = u32::from_be_bytes(cursor.array()?) as usize;
        if len == 0 {
            break;
        }
        let packed_len = u32::from_be_bytes(cursor.array()?) as usize;
        let _checksum = cursor.take(4)?;
        if len > LZOP_BLOCK || packed_len > len {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let packed = cursor.take(packed_len)?;
        if packed_len == len {
            unpacked.extend_from_slice(packed);
        } else {
            let mut block = vec![0; len];
            let done = lzokay::decompress::decompress(packed, &mut block)
                .map_err(|error| io::Error::other(format!("{error:?}")))?;
            unpacked.extend_from_slice(block.get(..done).unwrap_or_default());
        }
    }
    Ok(unpacked)
}

/// The header as Linux's `lib/decompress_unlzo.c` reads it.
fn skip_lzop_header(cursor: &mut Cursor<'_>) -> io::Result<()> {
    cursor.take(LZOP_MAGIC_LEN)?;
    let long = u16::from_be_bytes(cursor.array()?) >= LZOP_LONG_HEADER;
    // Library version, version needed, method, and in the long form the level.
    cursor.take(if long { 6 } else { 5 })?;
    let flags = u32::from_be_bytes(cursor.array()?);
    if flags & LZOP_HAS_FILTER != 0 {
        cursor.take(4)?;
    }
    // Mode and time, in the long form with its upper half.
    cursor.take(if long { 12 } else { 8 })?;
    let [name_len] = cursor.array()?;
    cursor.take(usize::from(name_len))?;
    // Checksum.
    cursor.take(4)?;
    Ok(())
}
