//! What the header of a qcow2 image tells before it is used (QEMU,
//! docs/interop/qcow2.txt).
//!
//! What lies behind the end of a file is read as zeroes, so an image that was
//! cut off would be taken for one that was never written.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;

/// Up to the features of version 3.
const HEADER: usize = 80;
const MAGIC: u32 = 0x5146_49fb;

/// Incompatible feature: the data lies in another file.
const EXTERNAL_DATA: u64 = 1 << 2;

/// The largest first table, as QEMU has it: 32 MiB.
const MAX_ENTRIES: u32 = 4 << 20;
/// The bits of an entry that are the place of a second table.
const PLACE: u64 = 0x00ff_ffff_ffff_fe00;

const CUT_OFF: &str = "it is cut off: it names places behind the end of the file";

struct Header([u8; HEADER]);

impl Header {
    fn word(&self, at: usize) -> u32 {
        let bytes = self.0.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        u32::from_be_bytes(bytes.unwrap_or_default())
    }

    fn long(&self, at: usize) -> u64 {
        u64::from(self.word(at)) << 32 | u64::from(self.word(at + 4))
    }

    fn features(&self) -> u64 {
        if self.word(4) >= 3 { self.long(72) } else { 0 }
    }
}

/// Refuses an image that was cut off, and one that would be written through a
/// name in it. Whatever else is wrong is found when it is opened.
pub(crate) fn check(mut file: &File, writing: bool) -> io::Result<()> {
    let len = file.seek(SeekFrom::End(0))?;
    let mut header = Header([0; HEADER]);
    let _ = file.read_at(&mut header.0, 0)?;
    if header.word(0) != MAGIC {
        return Ok(());
    }
    if writing && header.features() & EXTERNAL_DATA != 0 {
        return Err(io::Error::other("its data lies in another file, so it can only be read"));
    }
    let (entries, table, counts) = (header.word(36), header.long(40), header.long(48));
    let end = table.checked_add(u64::from(entries) * 8);
    if end.is_none_or(|end| end > len) || counts >= len {
        return Err(io::Error::other(CUT_OFF));
    }
    if entries > MAX_ENTRIES {
        return Ok(());
    }
    let mut first = vec![0; entries as usize * 8];
    file.read_exact_at(&mut first, table)?;
    let places = first.as_chunks::<8>().0.iter().map(|entry| u64::from_be_bytes(*entry) & PLACE);
    if places.into_iter().any(|place| place >= len) { Err(io::Error::other(CUT_OFF)) } else { Ok(()) }
}
