//! Reading from a hostile file, and putting pieces of it into guest memory.

use memory::GuestMemory;
use x86::GuestPhysAddr;

use crate::BootError;
use crate::layout::{CMDLINE, len};
use crate::places::Places;

/// `len` bytes of `file` at `offset`, or the truth about what is missing.
pub(crate) fn bytes<'a>(
    file: &'a [u8],
    offset: u64,
    len: u64,
    what: &'static str,
) -> Result<&'a [u8], BootError> {
    let need = offset.saturating_add(len);
    let slice = || file.get(usize::try_from(offset).ok()?..usize::try_from(need).ok()?);
    slice().ok_or(BootError::Truncated { what, need, have: file.len() as u64 })
}

/// One loadable piece of a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment<'a> {
    pub(crate) start: u64,
    pub(crate) data: &'a [u8],
    /// Bytes in memory; what `data` does not fill is zeroed.
    pub(crate) len: u64,
}

impl Segment<'_> {
    /// Whether `at` is inside.
    pub(crate) fn holds(&self, at: u64) -> bool {
        at.checked_sub(self.start).is_some_and(|offset| offset < self.len)
    }
}

/// Loads all segments, after all of them have found their place: they may
/// overlap neither each other nor the loader's area.
pub(crate) fn load_segments(
    memory: &GuestMemory,
    places: &mut Places,
    segments: &[Segment<'_>],
) -> Result<(), BootError> {
    for segment in segments {
        if !places.claim(segment.start, segment.len) {
            return Err(BootError::OutsideMemory { start: GuestPhysAddr(segment.start), len: segment.len });
        }
    }
    for segment in segments {
        let filled = segment.data.len() as u64;
        memory.write(GuestPhysAddr(segment.start), segment.data)?;
        zero(memory, segment.start.saturating_add(filled), segment.len.saturating_sub(filled))?;
    }
    Ok(())
}

/// Writes `len` zero bytes.
pub(crate) fn zero(memory: &GuestMemory, start: u64, len: u64) -> Result<(), BootError> {
    static CHUNK: [u8; 0x1_0000] = [0; 0x1_0000];
    let mut done = 0;
    while done < len {
        let count = (len - done).min(CHUNK.len() as u64);
        let chunk = CHUNK.get(..count as usize).unwrap_or(&CHUNK);
        memory.write(GuestPhysAddr(start.saturating_add(done)), chunk)?;
        done += count;
    }
    Ok(())
}

/// Writes `text` and a terminating zero.
pub(crate) fn write_string(memory: &GuestMemory, at: u64, text: &str) -> Result<(), BootError> {
    memory.write(GuestPhysAddr(at), text.as_bytes())?;
    memory.write(GuestPhysAddr(at.saturating_add(text.len() as u64)), &[0])?;
    Ok(())
}

/// Checks a command line against the kernel's `limit` and what the loader's
/// area holds.
pub(crate) fn check_cmdline(cmdline: &str, limit: u64) -> Result<(), BootError> {
    let limit = limit.min(len(&CMDLINE) - 1) as usize;
    if cmdline.len() > limit {
        return Err(BootError::CmdlineTooLong { len: cmdline.len(), limit });
    }
    if cmdline.contains('\0') {
        return Err(BootError::CmdlineNul);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use memory::RamLayout;

    #[test]
    fn what_is_missing_is_told() {
        assert_eq!(bytes(b"abcdef", 2, 3, "thing").unwrap(), b"cde");
        for (offset, len) in [(0, 7), (7, 0), (u64::MAX, 2), (2, u64::MAX)] {
            let error = bytes(b"abcdef", offset, len, "thing").unwrap_err();
            assert!(matches!(error, BootError::Truncated { have: 6, .. }), "{offset} {len}");
        }
    }

    #[test]
    fn segments_are_filled_and_their_rest_zeroed() {
        let memory = GuestMemory::new(2 << 20).unwrap();
        memory.write(GuestPhysAddr(0x10_0000), &[0xff; 0x2_0010]).unwrap();
        let mut places = Places::new(&crate::e820(RamLayout::new(2 << 20), &[]));
        let segment = Segment { start: 0x10_0000, data: b"data", len: 0x2_0000 };
        load_segments(&memory, &mut places, &[segment]).unwrap();
        let mut found = vec![0; 0x2_0010];
        memory.read(GuestPhysAddr(0x10_0000), &mut found).unwrap();
        assert_eq!(&found[..4], b"data");
        assert!(found[4..0x2_0000].iter().all(|&byte| byte == 0));
        assert!(found[0x2_0000..].iter().all(|&byte| byte == 0xff));
        let error = load_segments(&memory, &mut places, &[segment]).unwrap_err();
        assert!(matches!(error, BootError::OutsideMemory { .. }));
    }

    #[test]
    fn command_lines_keep_to_their_limits() {
        assert!(check_cmdline("quiet", 5).is_ok());
        assert!(matches!(check_cmdline("quiets", 5), Err(BootError::CmdlineTooLong { len: 6, limit: 5 })));
        assert!(matches!(check_cmdline("a\0b", 5), Err(BootError::CmdlineNul)));
        let long = "x".repeat(0xc000);
        assert!(matches!(check_cmdline(&long, u64::MAX), Err(BootError::CmdlineTooLong { .. })));
        assert!(check_cmdline(&long[1..], u64::MAX).is_ok());
    }
}
