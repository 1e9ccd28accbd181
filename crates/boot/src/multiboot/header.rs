//! The header by which a kernel declares itself (Multiboot Specification
//! 0.6.96, 3.1).

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::BootError;
use crate::elf::{self, ElfKernel};
use crate::image::{Segment, bytes};

const MAGIC: u32 = 0x1bad_b002;
/// The header lies wholly in this many bytes from the start of the file.
const SEARCH: usize = 8192;

/// Modules at page boundaries; ours always are.
const PAGE_ALIGN: u32 = 1 << 0;
/// Memory information is wanted; ours is always there.
const MEMORY_INFO: u32 = 1 << 1;
/// The low half are demands; what is not understood must be refused.
const DEMANDS: u32 = 0xffff;
/// The address fields are valid.
const AOUT_KLUDGE: u32 = 1 << 16;

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Magic {
    magic: U32,
    flags: U32,
    checksum: U32,
}

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Addresses {
    header_addr: U32,
    load_addr: U32,
    load_end_addr: U32,
    bss_end_addr: U32,
    entry_addr: U32,
}

/// A multiboot kernel: what to load, and where it starts.
#[derive(Debug)]
pub(crate) struct Multiboot<'a> {
    pub(crate) segments: Vec<Segment<'a>>,
    pub(crate) entry: u64,
}

impl<'a> Multiboot<'a> {
    /// Parses `file`, if it has a multiboot header.
    pub(crate) fn parse(file: &'a [u8]) -> Result<Option<Self>, BootError> {
        let Some((offset, flags)) = find(file) else { return Ok(None) };
        let refused = flags & DEMANDS & !(PAGE_ALIGN | MEMORY_INFO);
        if refused != 0 {
            return Err(BootError::MultibootFlags(refused));
        }
        let kernel = if flags & AOUT_KLUDGE != 0 {
            Self::by_addresses(file, offset)?
        } else if elf::is_elf(file) {
            let kernel = ElfKernel::parse(file)?;
            Self { segments: kernel.segments(), entry: kernel.physical_entry() }
        } else {
            return Err(BootError::BadHeader { field: "multiboot flags", value: flags.into() });
        };
        Ok(Some(kernel))
    }

    /// The one segment that the address fields describe.
    fn by_addresses(file: &'a [u8], offset: usize) -> Result<Self, BootError> {
        let at = offset.saturating_add(size_of::<Magic>()) as u64;
        let raw = bytes(file, at, size_of::<Addresses>() as u64, "multiboot header")?;
        let bad = |field, value: U32| BootError::BadHeader { field, value: value.get().into() };
        let Ok(fields) = Addresses::ref_from_bytes(raw) else {
            return Err(BootError::BadHeader { field: "multiboot header", value: at });
        };
        let load = fields.load_addr.get();
        let before_header = fields.header_addr.get().checked_sub(load);
        let first = before_header
            .and_then(|skip| offset.checked_sub(skip as usize))
            .ok_or_else(|| bad("header_addr", fields.header_addr))?;
        let rest = file.len().saturating_sub(first) as u64;
        let filled = match fields.load_end_addr.get() {
            0 => rest,
            end => end.checked_sub(load).ok_or_else(|| bad("load_end_addr", fields.load_end_addr))?.into(),
        };
        let data = bytes(file, first as u64, filled, "multiboot load area")?;
        let len = match fields.bss_end_addr.get() {
            0 => filled,
            end => u64::from(end.checked_sub(load).ok_or_else(|| bad("bss_end_addr", fields.bss_end_addr))?),
        };
        if len < filled {
            return Err(bad("bss_end_addr", fields.bss_end_addr));
        }
        Ok(Self {
            segments: vec![Segment { start: load.into(), data, len }],
            entry: fields.entry_addr.get().into(),
        })
    }
}

/// The header's offset and flags: the first multiple of 4 with magic and
/// matching checksum.
fn find(file: &[u8]) -> Option<(usize, u32)> {
    let head = file.get(..file.len().min(SEARCH))?;
    (0..head.len()).step_by(4).find_map(|offset| {
        let (magic, _) = Magic::ref_from_prefix(head.get(offset..)?).ok()?;
        let (value, flags) = (magic.magic.get(), magic.flags.get());
        let sum = value.wrapping_add(flags).wrapping_add(magic.checksum.get());
        (value == MAGIC && sum == 0).then_some((offset, flags))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{multiboot_elf, multiboot_flat};

    #[test]
    fn headers_are_found_only_where_they_may_be() {
        let header = |at: usize| {
            let mut file = vec![0; 10_000];
            let flags = 3_u32;
            let words = [MAGIC, flags, 0_u32.wrapping_sub(MAGIC + flags)];
            file[at..at + 12].copy_from_slice(&words.map(u32::to_le_bytes).concat());
            find(&file)
        };
        assert_eq!(header(0), Some((0, 3)));
        assert_eq!(header(8180), Some((8180, 3)));
        assert_eq!(header(8184), None);
        assert_eq!(header(2), None);
        assert_eq!(find(&MAGIC.to_le_bytes()), None);
    }

    #[test]
    fn address_fields_describe_a_flat_kernel() {
        let file = multiboot_flat([0x20_0020, 0x20_0000, 0x20_0100, 0x20_1000, 0x20_0040]);
        let kernel = Multiboot::parse(&file).unwrap().unwrap();
        let segment = kernel.segments[0];
        assert_eq!((segment.start, segment.data.len(), segment.len), (0x20_0000, 0x100, 0x1000));
        assert_eq!(kernel.entry, 0x20_0040);
        let whole = multiboot_flat([0x20_0020, 0x20_0000, 0, 0, 0x20_0040]);
        let kernel = Multiboot::parse(&whole).unwrap().unwrap();
        assert_eq!(kernel.segments[0].len, whole.len() as u64);
    }

    #[test]
    fn impossible_address_fields_are_refused() {
        for fields in [
            [0x1f_ffff, 0x20_0000, 0, 0, 0],
            [0x20_0021, 0x20_0000, 0, 0, 0],
            [0x20_0020, 0x20_0000, 0x1f_ffff, 0, 0],
            [0x20_0020, 0x20_0000, 0x20_0100, 0x20_00ff, 0],
            [0x20_0020, 0x20_0000, 0xffff_ffff, 0, 0],
        ] {
            assert!(Multiboot::parse(&multiboot_flat(fields)).is_err(), "{fields:x?}");
        }
    }

    #[test]
    fn demands_that_nobody_meets_are_refused() {
        assert!(matches!(Multiboot::parse(&multiboot_elf(4)), Err(BootError::MultibootFlags(4))));
        assert!(Multiboot::parse(&multiboot_elf(3)).unwrap().is_some());
    }
}
