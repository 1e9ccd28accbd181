//! The two states in which kernels start: flat 32-bit protected mode, and
//! 64-bit mode with the first 4 GiB mapped to themselves.

use memory::GuestMemory;
use x86::{
    CpuState, Cr0, Cr4, DescriptorTable, Efer, Gpr, GuestPhysAddr, PAGE_SIZE, Segment, SegmentName, Selector,
};

use crate::BootError;
use crate::layout::{BDA_BASE_MEMORY, BDA_EBDA_SEGMENT, EBDA, GDT, PAGE_TABLES, STACK_TOP};

/// `__BOOT_CS` of the Linux boot protocol; PVH and multiboot do not care.
const CODE: Selector = Selector(0x10);
/// `__BOOT_DS`.
const DATA: Selector = Selector(0x18);
const TSS: Selector = Selector(0x20);

const CODE_32: u64 = 0x00cf_9b00_0000_ffff;
const CODE_64: u64 = 0x00af_9b00_0000_ffff;
const DATA_FLAT: u64 = 0x00cf_9300_0000_ffff;
/// Busy, base 0, limit 0x67, as PVH asks for.
const TSS_BUSY: u64 = 0x0000_8b00_0000_0067;

/// Present and writable.
const TABLE: u64 = 0b11;
/// Present, writable, and a page of 2 MiB.
const LARGE_PAGE: u64 = 0b1000_0011;
const LARGE_PAGE_SIZE: u64 = 2 << 20;
const DIRECTORIES: u64 = 4;

/// MTRRs enabled, everything write-back (SDM 3A 12.11.2.1): what firmware
/// would have left for RAM.
const MTRR_WRITE_BACK: u64 = 0x806;

/// Flat 32-bit protected mode without paging, interrupts off.
pub(crate) fn protected_mode(memory: &GuestMemory, entry: u32) -> Result<CpuState, BootError> {
    let mut state = flat(memory, CODE_32)?;
    state.rip = entry.into();
    Ok(state)
}

/// 64-bit mode with identity mapping, interrupts off.
pub(crate) fn long_mode(memory: &GuestMemory, entry: u64) -> Result<CpuState, BootError> {
    let mut state = flat(memory, CODE_64)?;
    write_page_tables(memory)?;
    state.rip = entry;
    state.cr3 = PAGE_TABLES;
    state.cr4 = Cr4::PAE;
    state.efer = Efer::LME | Efer::LMA;
    state.cr0 |= Cr0::PG;
    Ok(state)
}

fn flat(memory: &GuestMemory, code: u64) -> Result<CpuState, BootError> {
    write_words(memory, GDT, &[0, 0, code, DATA_FLAT, TSS_BUSY, 0])?;
    let mut state = CpuState::reset();
    state.gpr = [0; 16];
    state.set_reg(Gpr::Rsp, STACK_TOP);
    for name in SegmentName::ALL {
        *state.segment_mut(name) = Segment::from_descriptor(DATA, DATA_FLAT);
    }
    *state.segment_mut(SegmentName::Cs) = Segment::from_descriptor(CODE, code);
    state.tr = Segment::from_descriptor(TSS, TSS_BUSY);
    state.gdtr = DescriptorTable { base: GDT, limit: 6 * 8 - 1 };
    // No handler exists yet: a fault shall be a triple fault at once.
    state.idtr = DescriptorTable::default();
    state.cr0 = Cr0::PE | Cr0::ET;
    state.msrs.mtrr_def_type = MTRR_WRITE_BACK;
    Ok(state)
}

fn write_words(memory: &GuestMemory, at: u64, words: &[u64]) -> Result<(), BootError> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    Ok(memory.write(GuestPhysAddr(at), &bytes)?)
}

fn write_page_tables(memory: &GuestMemory) -> Result<(), BootError> {
    let pdpt = PAGE_TABLES + PAGE_SIZE;
    let directories = pdpt + PAGE_SIZE;
    let mut words = vec![0; 2 * 512];
    let upper =
        [(0, pdpt)].into_iter().chain((0..DIRECTORIES).map(|i| (512 + i, directories + i * PAGE_SIZE)));
    for (index, table) in upper {
        if let Some(word) = words.get_mut(index as usize) {
            *word = table | TABLE;
        }
    }
    words.extend((0..DIRECTORIES * 512).map(|page| (page * LARGE_PAGE_SIZE) | LARGE_PAGE));
    write_words(memory, PAGE_TABLES, &words)
}

/// The two words of the BIOS data area from which kernels learn where base
/// memory ends.
pub(crate) fn write_bios_data(memory: &GuestMemory) -> Result<(), BootError> {
    memory.write(GuestPhysAddr(BDA_EBDA_SEGMENT), &((EBDA.start >> 4) as u16).to_le_bytes())?;
    memory.write(GuestPhysAddr(BDA_BASE_MEMORY), &((EBDA.start >> 10) as u16).to_le_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The physical address that the tables give for a linear one.
    fn translate(memory: &GuestMemory, cr3: u64, at: u64) -> u64 {
        let mut table = cr3;
        for shift in [39, 30, 21] {
            let entry =
                memory.read_u64(GuestPhysAddr((table & !0xfff) + ((at >> shift) & 0x1ff) * 8)).unwrap();
            assert_eq!(entry & 3, 3, "{at:#x}");
            if entry & 0x80 != 0 {
                return (entry & !0x1f_ffff) | (at & 0x1f_ffff);
            }
            table = entry;
        }
        panic!("{at:#x} is mapped by no large page");
    }

    #[test]
    fn four_gib_are_mapped_to_themselves() {
        let memory = GuestMemory::new(2 << 20).unwrap();
        memory.write(GuestPhysAddr(PAGE_TABLES), &[0xff; 0x2000]).unwrap();
        let state = long_mode(&memory, 0x100_0200).unwrap();
        for at in [0, 0x12_3456, 0x3fff_ffff, 0x4000_0000, 0xc012_3456, 0xffff_ffff] {
            assert_eq!(translate(&memory, state.cr3, at), at);
        }
        assert_eq!(memory.read_u64(GuestPhysAddr(PAGE_TABLES + 8)).unwrap(), 0);
        assert!(state.mode_64bit() && state.cr0.contains(Cr0::PG | Cr0::PE));
    }

    #[test]
    fn cached_segments_agree_with_the_table() {
        let memory = GuestMemory::new(2 << 20).unwrap();
        for wide in [false, true] {
            let state = if wide { long_mode(&memory, 0x10_0000) } else { protected_mode(&memory, 0x10_0000) };
            let state = state.unwrap();
            for name in SegmentName::ALL {
                let cached = state.segment(name);
                let raw = memory.read_u64(GuestPhysAddr(state.gdtr.base + cached.selector.offset())).unwrap();
                assert_eq!(*cached, Segment::from_descriptor(cached.selector, raw));
            }
            assert_eq!((state.mode_64bit(), state.cr0.contains(Cr0::PG)), (wide, wide));
        }
    }
}
