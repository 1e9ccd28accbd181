//! The PVH entry (Xen `docs/misc/pvh.pandoc`, `start_info.h`): flat 32-bit
//! protected mode, EBX points to the start info.

use memory::GuestMemory;
use x86::{Gpr, GuestPhysAddr};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{Immutable, IntoBytes};

use crate::cpu;
use crate::e820::E820Entry;
use crate::elf::ElfKernel;
use crate::image::{check_cmdline, load_segments, write_string};
use crate::layout::{CMDLINE, FOUR_GIB, INFO, MEMORY_MAP, MODULE_LIST, ONE_MIB};
use crate::modules::Initrd;
use crate::places::Places;
use crate::{BootError, BootRequest, Entry, KernelKind};

const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;

/// Linux keeps 2048 bytes with the terminating zero (`COMMAND_LINE_SIZE`) and
/// would cut the rest off without a word.
const CMDLINE_LIMIT: u64 = 2047;
/// Where the permanent kernel mapping of 32-bit kernels ends; they want their
/// initrd below it.
const LOWMEM_END: u64 = 0x3800_0000;

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct StartInfo {
    magic: U32,
    version: U32,
    flags: U32,
    nr_modules: U32,
    modlist_paddr: U64,
    cmdline_paddr: U64,
    rsdp_paddr: U64,
    memmap_paddr: U64,
    memmap_entries: U32,
    reserved: U32,
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct ModlistEntry {
    paddr: U64,
    size: U64,
    cmdline_paddr: U64,
    reserved: U64,
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct MemmapEntry {
    addr: U64,
    size: U64,
    kind: U32,
    reserved: U32,
}

/// Loads an ELF kernel for its PVH entry.
pub(crate) fn load(
    memory: &GuestMemory,
    request: &BootRequest<'_>,
    map: &[E820Entry],
    kernel: &ElfKernel<'_>,
    entry: u32,
) -> Result<Entry, BootError> {
    check_cmdline(request.cmdline, CMDLINE_LIMIT)?;
    let mut places = Places::new(map);
    let segments = kernel.segments();
    if !segments.iter().any(|segment| segment.holds(entry.into())) {
        return Err(BootError::EntryOutside(GuestPhysAddr(entry.into())));
    }
    load_segments(memory, &mut places, &segments)?;
    let below = if kernel.wide { FOUR_GIB } else { LOWMEM_END };
    let window = ONE_MIB..below;
    let initrd = Initrd::place(request.modules, &mut places, &[window])?;
    if let Some(initrd) = &initrd {
        initrd.write(memory, request.modules)?;
    }
    write_string(memory, CMDLINE.start, request.cmdline)?;
    write_start_info(memory, request, map, initrd.as_ref())?;
    let mut state = cpu::protected_mode(memory, entry)?;
    state.set_reg(Gpr::Rbx, INFO);
    let bits = if kernel.wide { 64 } else { 32 };
    let summary = format!("{bits}-bit ELF kernel, PVH entry at {entry:#x}");
    Ok(Entry { state, kind: KernelKind::ElfPvh, summary })
}

fn write_start_info(
    memory: &GuestMemory,
    request: &BootRequest<'_>,
    map: &[E820Entry],
    initrd: Option<&Initrd>,
) -> Result<(), BootError> {
    let entries: Vec<u8> = map.iter().flat_map(|entry| memmap_entry(entry).as_bytes().to_vec()).collect();
    memory.write(GuestPhysAddr(MEMORY_MAP.start), &entries)?;
    if let Some(initrd) = initrd {
        let entry = ModlistEntry {
            paddr: initrd.start().into(),
            size: initrd.len().into(),
            cmdline_paddr: 0.into(),
            reserved: 0.into(),
        };
        memory.write(GuestPhysAddr(MODULE_LIST.start), entry.as_bytes())?;
    }
    let info = StartInfo {
        magic: MAGIC.into(),
        version: VERSION.into(),
        flags: 0.into(),
        nr_modules: u32::from(initrd.is_some()).into(),
        modlist_paddr: initrd.map_or(0, |_| MODULE_LIST.start).into(),
        cmdline_paddr: CMDLINE.start.into(),
        rsdp_paddr: request.acpi_rsdp.map_or(0, |at| at.0).into(),
        memmap_paddr: MEMORY_MAP.start.into(),
        memmap_entries: (map.len() as u32).into(),
        reserved: 0.into(),
    };
    Ok(memory.write(GuestPhysAddr(INFO), info.as_bytes())?)
}

fn memmap_entry(entry: &E820Entry) -> MemmapEntry {
    MemmapEntry {
        addr: entry.start.0.into(),
        size: entry.len.into(),
        kind: (entry.kind as u32).into(),
        reserved: 0.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ElfImage, pvh_elf, read_string};
    use crate::{Module, load};

    fn request<'a>(kernel: &'a [u8], modules: &'a [Module<'a>]) -> BootRequest<'a> {
        let acpi_rsdp = Some(GuestPhysAddr(0xe_0000));
        BootRequest { kernel, modules, cmdline: "console=ttyS0", acpi_rsdp, ..BootRequest::default() }
    }

    #[test]
    fn the_start_info_tells_everything() {
        let memory = GuestMemory::new(16 << 20).unwrap();
        memory.write(GuestPhysAddr(0x10_0000), &[0xff; 0x3001]).unwrap();
        let kernel = pvh_elf(true);
        let modules = [Module { data: b"cpio", string: "" }];
        let entry = load(&memory, &request(&kernel, &modules)).unwrap();
        assert_eq!((entry.kind, entry.state.rip), (KernelKind::ElfPvh, 0x10_0010));
        assert!(entry.state.protected_mode() && !entry.state.long_mode());
        let info = entry.state.reg(Gpr::Rbx);
        let word = |offset| memory.read_u64(GuestPhysAddr(info + offset)).unwrap();
        assert_eq!((word(0), word(8)), ((1 << 32) | 0x336e_c578, 1 << 32));
        let initrd = memory.read_u64(GuestPhysAddr(word(16))).unwrap();
        assert_eq!(memory.read_u32(GuestPhysAddr(initrd)).unwrap(), u32::from_le_bytes(*b"cpio"));
        assert_eq!(memory.read_u64(GuestPhysAddr(word(16) + 8)).unwrap(), 4);
        assert_eq!(read_string(&memory, word(24)), "console=ttyS0");
        assert_eq!((word(32), word(48)), (0xe_0000, 4));
        assert_eq!(memory.read_u64(GuestPhysAddr(word(40) + 8)).unwrap(), 0x9_fc00);
        // The bytes of the file, then zeros, then what was there before.
        assert_eq!(memory.read_u32(GuestPhysAddr(0x10_0000)).unwrap(), 0x9090_9090);
        assert_eq!(memory.read_u32(GuestPhysAddr(0x10_2ffd)).unwrap(), 0xff00_0000);
    }

    #[test]
    fn entries_and_segments_stay_inside() {
        let memory = GuestMemory::new(2 << 20).unwrap();
        let file = ElfImage { pvh: Some(0x10_3000), ..ElfImage::default() }.build();
        assert!(matches!(load(&memory, &request(&file, &[])), Err(BootError::EntryOutside(_))));
        let file = ElfImage { paddr: 0x8_1000, pvh: Some(0x8_1000), ..ElfImage::default() }.build();
        assert!(matches!(load(&memory, &request(&file, &[])), Err(BootError::OutsideMemory { .. })));
        let long = "x".repeat(2048);
        let file = pvh_elf(true);
        let request = BootRequest { cmdline: &long, ..request(&file, &[]) };
        assert!(matches!(load(&memory, &request), Err(BootError::CmdlineTooLong { limit: 2047, .. })));
    }
}
