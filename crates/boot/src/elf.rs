//! ELF kernels of both classes: what to load, and the PVH entry note.

use object::LittleEndian;
use object::elf::{EM_386, EM_X86_64, FileHeader32, FileHeader64, PT_LOAD, PT_NOTE};
use object::read::elf::{FileHeader, ProgramHeader};
use x86::GuestPhysAddr;

use crate::BootError;
use crate::image::{Segment, bytes};

const MAGIC: &[u8] = b"\x7fELF";
/// Offset of the class in the identification, and its value for 64 bits.
const EI_CLASS: usize = 4;
const ELFCLASS64: u8 = 2;

/// The note by which a kernel offers the PVH entry (Xen `elfnote.h`).
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;

/// What a loader needs to know of an ELF kernel.
#[derive(Debug)]
pub(crate) struct ElfKernel<'a> {
    pub(crate) wide: bool,
    pub(crate) entry: u64,
    pub(crate) pvh_entry: Option<u32>,
    segments: Vec<Loadable<'a>>,
}

#[derive(Debug)]
struct Loadable<'a> {
    virtual_start: u64,
    segment: Segment<'a>,
}

/// Whether `file` starts like an ELF file.
pub(crate) fn is_elf(file: &[u8]) -> bool {
    file.starts_with(MAGIC)
}

impl<'a> ElfKernel<'a> {
    /// Parses and checks `file`.
    pub(crate) fn parse(file: &'a [u8]) -> Result<Self, BootError> {
        if file.get(EI_CLASS) == Some(&ELFCLASS64) {
            Self::parse_class::<FileHeader64<LittleEndian>>(file)
        } else {
            Self::parse_class::<FileHeader32<LittleEndian>>(file)
        }
    }

    fn parse_class<H: FileHeader<Endian = LittleEndian>>(file: &'a [u8]) -> Result<Self, BootError> {
        bytes(file, 0, size_of::<H>() as u64, "ELF header")?;
        let header = H::parse(file).map_err(BootError::BadElf)?;
        let endian = header.endian().map_err(BootError::BadElf)?;
        let machine = header.e_machine(endian);
        if ![EM_386, EM_X86_64].contains(&machine) {
            return Err(BootError::ElfMachine(machine.0));
        }
        let mut kernel = Self {
            wide: header.is_type_64(),
            entry: header.e_entry(endian).into(),
            pvh_entry: None,
            segments: Vec::new(),
        };
        for program in header.program_headers(endian, file).map_err(BootError::BadElf)? {
            match program.p_type(endian) {
                PT_LOAD => kernel.segments.extend(loadable(program, endian, file)?),
                PT_NOTE if kernel.pvh_entry.is_none() => kernel.pvh_entry = pvh_note(program, endian, file)?,
                _ => {}
            }
        }
        if kernel.segments.is_empty() {
            return Err(BootError::NoSegments);
        }
        Ok(kernel)
    }

    /// What to load, by physical address.
    pub(crate) fn segments(&self) -> Vec<Segment<'a>> {
        self.segments.iter().map(|loadable| loadable.segment).collect()
    }

    /// The physical address of the ELF entry, which counts as a virtual one
    /// where a segment maps it.
    pub(crate) fn physical_entry(&self) -> u64 {
        let mapped = self.segments.iter().find_map(|loadable| {
            let offset = self.entry.checked_sub(loadable.virtual_start)?;
            (offset < loadable.segment.len).then(|| loadable.segment.start.wrapping_add(offset))
        });
        mapped.unwrap_or(self.entry)
    }
}

fn loadable<'a, P: ProgramHeader<Endian = LittleEndian>>(
    program: &P,
    endian: LittleEndian,
    file: &'a [u8],
) -> Result<Option<Loadable<'a>>, BootError> {
    let len: u64 = program.p_memsz(endian).into();
    let filled: u64 = program.p_filesz(endian).into();
    if filled > len {
        return Err(BootError::BadHeader { field: "p_filesz", value: filled });
    }
    let data = bytes(file, program.p_offset(endian).into(), filled, "ELF segment")?;
    // By physical address: Debian's vmlinux has a segment (the per-CPU area)
    // whose virtual address is 0.
    let segment = Segment { start: program.p_paddr(endian).into(), data, len };
    Ok((len > 0).then(|| Loadable { virtual_start: program.p_vaddr(endian).into(), segment }))
}

fn pvh_note<P: ProgramHeader<Endian = LittleEndian>>(
    program: &P,
    endian: LittleEndian,
    file: &[u8],
) -> Result<Option<u32>, BootError> {
    let Some(mut notes) = program.notes(endian, file).map_err(BootError::BadElf)? else {
        return Ok(None);
    };
    while let Some(note) = notes.next().map_err(BootError::BadElf)? {
        if note.name() == b"Xen" && note.n_type(endian).0 == XEN_ELFNOTE_PHYS32_ENTRY {
            return entry_address(note.desc()).map(Some);
        }
    }
    Ok(None)
}

/// The entry is as wide as the kernel's pointers, yet below 4 GiB.
fn entry_address(desc: &[u8]) -> Result<u32, BootError> {
    let wide = match *desc {
        [a, b, c, d] => u32::from_le_bytes([a, b, c, d]).into(),
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => return Err(BootError::BadHeader { field: "PVH note size", value: desc.len() as u64 }),
    };
    u32::try_from(wide).map_err(|_| BootError::EntryOutside(GuestPhysAddr(wide)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ElfImage, pvh_elf};

    #[test]
    fn both_classes_are_read() {
        for wide in [false, true] {
            let file = pvh_elf(wide);
            let kernel = ElfKernel::parse(&file).unwrap();
            assert_eq!((kernel.wide, kernel.pvh_entry), (wide, Some(0x10_0010)));
            let segments = kernel.segments();
            assert_eq!((segments[0].start, segments[0].len), (0x10_0000, 0x3000));
            assert!(segments[0].holds(0x10_2fff) && !segments[0].holds(0x10_3000));
        }
    }

    #[test]
    fn entries_are_translated_where_a_segment_maps_them() {
        let file = ElfImage { entry: 0xc010_0004, vaddr: 0xc010_0000, ..ElfImage::default() }.build();
        assert_eq!(ElfKernel::parse(&file).unwrap().physical_entry(), 0x10_0004);
        let file = ElfImage { entry: 0x10_0004, vaddr: 0xc010_0000, ..ElfImage::default() }.build();
        assert_eq!(ElfKernel::parse(&file).unwrap().physical_entry(), 0x10_0004);
    }

    #[test]
    fn broken_files_are_told_apart() {
        let mut file = pvh_elf(true);
        file[18] = 0xb7;
        assert!(matches!(ElfKernel::parse(&file), Err(BootError::ElfMachine(183))));
        let file = pvh_elf(true);
        assert!(matches!(ElfKernel::parse(&file[..60]), Err(BootError::Truncated { .. })));
        assert!(matches!(ElfKernel::parse(&file[..100]), Err(BootError::BadElf(_))));
        assert!(ElfKernel::parse(&file[..file.len() - 1]).is_err());
        let file = ElfImage { filesz_extra: 0x10_0000, ..ElfImage::default() }.build();
        assert!(ElfKernel::parse(&file).is_err());
    }

    #[test]
    fn a_pvh_entry_beyond_32_bits_is_refused() {
        assert!(matches!(entry_address(&(1_u64 << 32).to_le_bytes()), Err(BootError::EntryOutside(_))));
        assert!(matches!(entry_address(&[1, 2]), Err(BootError::BadHeader { .. })));
        assert_eq!(entry_address(&[1, 0, 0, 0]).unwrap(), 1);
    }
}
