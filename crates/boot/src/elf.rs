//! ELF kernels of both classes: what to load, and the PVH entry note.

use object::LittleEndian;
use object::elf::{EM_386, EM_X86_64, FileHeader32, FileHeader64, PT_LOAD, PT_NOTE, ProgramType};
use object::read::elf::{FileHeader, NoteIterator, ProgramHeader};
use x86::GuestPhysAddr;

use crate::BootError;
use crate::image::{Segment, bytes};

const MAGIC: &[u8] = b"\x7fELF";
/// Offset of the class in the identification, and its value for 64 bits.
const EI_CLASS: usize = 4;
const ELFCLASS64: u8 = 2;

/// The note by which a kernel offers the PVH entry (Xen `elfnote.h`).
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;

/// What the headers say, without a look at what they describe.
#[derive(Debug)]
pub(crate) struct Headers {
    pub(crate) wide: bool,
    pub(crate) entry: u64,
    programs: Vec<Program>,
}

/// A segment or note, as its program header has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program {
    kind: ProgramType,
    align: u64,
    virtual_start: u64,
    /// Where it goes. By physical address: Debian's vmlinux has a segment (the
    /// per-CPU area) whose virtual address is 0.
    pub(crate) start: u64,
    /// Bytes in memory.
    pub(crate) len: u64,
    /// Where its bytes lie in the file, and how many there are.
    pub(crate) offset: u64,
    pub(crate) filled: u64,
}

impl Headers {
    /// Parses and checks the headers, which lie in the first bytes of a file.
    pub(crate) fn parse(head: &[u8]) -> Result<Self, BootError> {
        if head.get(EI_CLASS) == Some(&ELFCLASS64) {
            Self::parse_class::<FileHeader64<LittleEndian>>(head)
        } else {
            Self::parse_class::<FileHeader32<LittleEndian>>(head)
        }
    }

    fn parse_class<H: FileHeader<Endian = LittleEndian>>(head: &[u8]) -> Result<Self, BootError> {
        bytes(head, 0, size_of::<H>() as u64, "ELF header")?;
        let header = H::parse(head).map_err(BootError::BadElf)?;
        let endian = header.endian().map_err(BootError::BadElf)?;
        let machine = header.e_machine(endian);
        if ![EM_386, EM_X86_64].contains(&machine) {
            return Err(BootError::ElfMachine(machine.0));
        }
        let programs = header.program_headers(endian, head).map_err(BootError::BadElf)?;
        let programs =
            programs.iter().map(|program| Program::of(program, endian)).collect::<Result<_, _>>()?;
        Ok(Self { wide: header.is_type_64(), entry: header.e_entry(endian).into(), programs })
    }

    /// What is to be loaded.
    pub(crate) fn loads(&self) -> impl Iterator<Item = &Program> {
        self.programs.iter().filter(|program| program.kind == PT_LOAD && program.len > 0)
    }

    fn notes(&self) -> impl Iterator<Item = &Program> {
        self.programs.iter().filter(|program| program.kind == PT_NOTE)
    }

    /// The physical address of the ELF entry, which counts as a virtual one
    /// where a segment maps it.
    pub(crate) fn physical_entry(&self) -> u64 {
        let mapped = self.loads().find_map(|load| {
            let offset = self.entry.checked_sub(load.virtual_start)?;
            (offset < load.len).then(|| load.start.wrapping_add(offset))
        });
        mapped.unwrap_or(self.entry)
    }
}

impl Program {
    fn of<P: ProgramHeader<Endian = LittleEndian>>(
        program: &P,
        endian: LittleEndian,
    ) -> Result<Self, BootError> {
        let (len, filled) = (program.p_memsz(endian).into(), program.p_filesz(endian).into());
        let kind = program.p_type(endian);
        if filled > len && kind == PT_LOAD {
            return Err(BootError::BadHeader { field: "p_filesz", value: filled });
        }
        Ok(Self {
            kind,
            align: program.p_align(endian).into(),
            virtual_start: program.p_vaddr(endian).into(),
            start: program.p_paddr(endian).into(),
            len,
            offset: program.p_offset(endian).into(),
            filled,
        })
    }
}

/// What a loader needs to know of an ELF kernel.
#[derive(Debug)]
pub(crate) struct ElfKernel<'a> {
    headers: Headers,
    pub(crate) wide: bool,
    pub(crate) pvh_entry: Option<u32>,
    segments: Vec<Segment<'a>>,
}

/// Whether `file` starts like an ELF file.
pub(crate) fn is_elf(file: &[u8]) -> bool {
    file.starts_with(MAGIC)
}

impl<'a> ElfKernel<'a> {
    /// Parses and checks `file`.
    pub(crate) fn parse(file: &'a [u8]) -> Result<Self, BootError> {
        let headers = Headers::parse(file)?;
        let segment = |load: &Program| {
            let data = bytes(file, load.offset, load.filled, "ELF segment")?;
            Ok(Segment { start: load.start, data, len: load.len })
        };
        let segments = headers.loads().map(segment).collect::<Result<Vec<_>, BootError>>()?;
        if segments.is_empty() {
            return Err(BootError::NoSegments);
        }
        let mut pvh_entry = None;
        for note in headers.notes() {
            let data = bytes(file, note.offset, note.filled, "ELF note")?;
            pvh_entry = pvh_entry.or(pvh_note(data, note.align, headers.wide)?);
        }
        Ok(Self { wide: headers.wide, headers, pvh_entry, segments })
    }

    /// What to load, by physical address.
    pub(crate) fn segments(&self) -> Vec<Segment<'a>> {
        self.segments.clone()
    }

    /// The physical address of the ELF entry.
    pub(crate) fn physical_entry(&self) -> u64 {
        self.headers.physical_entry()
    }
}

/// The PVH entry among the notes of one segment.
fn pvh_note(data: &[u8], align: u64, wide: bool) -> Result<Option<u32>, BootError> {
    if wide {
        find_pvh_note::<FileHeader64<LittleEndian>>(data, align)
    } else {
        let align = u32::try_from(align).unwrap_or(u32::MAX);
        find_pvh_note::<FileHeader32<LittleEndian>>(data, align)
    }
}

fn find_pvh_note<H: FileHeader<Endian = LittleEndian>>(
    data: &[u8],
    align: H::Word,
) -> Result<Option<u32>, BootError> {
    let mut notes = NoteIterator::<H>::new(LittleEndian, align, data).map_err(BootError::BadElf)?;
    while let Some(note) = notes.next().map_err(BootError::BadElf)? {
        if note.name() == b"Xen" && note.n_type(LittleEndian).0 == XEN_ELFNOTE_PHYS32_ENTRY {
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
