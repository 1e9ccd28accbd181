//! What lies where below 1 MiB when a kernel starts without firmware.
//!
//! | guest-physical        | holds                                                     |
//! |-----------------------|-----------------------------------------------------------|
//! | `0x00000` - `0x003ff` | real-mode interrupt vectors: zero                         |
//! | `0x00400` - `0x004ff` | BIOS data area: EBDA segment, KiB of base memory          |
//! | `0x00500` - `0x7ffff` | free; a kernel's segments may go here                     |
//! | `0x80000` - `0x80fff` | [`GDT`]                                                   |
//! | `0x81000` - `0x81fff` | [`INFO`]: zero page, PVH start info or multiboot info     |
//! | `0x82000` - `0x82fff` | [`MEMORY_MAP`] of PVH or multiboot                        |
//! | `0x83000` - `0x83fff` | [`MODULE_LIST`] of PVH or multiboot                       |
//! | `0x84000` - `0x87fff` | [`MODULE_STRINGS`]                                        |
//! | `0x88000` - `0x8dfff` | [`PAGE_TABLES`]: PML4, PDPT, four page directories        |
//! | `0x8e000` - `0x8efff` | stack, growing down from [`STACK_TOP`]                    |
//! | `0x90000` - `0x9bfff` | [`CMDLINE`]                                               |
//! | `0x9c000` - `0x9fbff` | free: Linux puts its 5-level-paging trampoline here       |
//! | `0x9fc00` - `0x9ffff` | [`EBDA`], reserved                                        |
//! | `0xa0000` - `0xdffff` | no RAM for the guest to use: video memory, option ROMs    |
//! | `0xe0000` - `0xfffff` | [`BIOS_AREA`], reserved: ACPI tables, or firmware's shadow |
//!
//! Kernels go to 1 MiB and above, or where they ask to be; Linux's initrd goes
//! as high as the kernel allows, multiboot's modules behind the kernel.

use std::ops::Range;

/// EBDA segment, a word of the BIOS data area.
pub const BDA_EBDA_SEGMENT: u64 = 0x40e;
/// KiB of base memory, a word of the BIOS data area.
pub const BDA_BASE_MEMORY: u64 = 0x413;
/// Everything that the loader writes for the kernel, apart from the kernel
/// itself and its modules.
pub const LOADER: Range<u64> = 0x8_0000..0x9_c000;
/// The descriptor table that the segment registers refer to.
pub const GDT: u64 = 0x8_0000;
/// The structure that a kernel is handed.
pub const INFO: u64 = 0x8_1000;
/// The memory map that [`INFO`] points to.
pub const MEMORY_MAP: Range<u64> = 0x8_2000..0x8_3000;
/// The module list that [`INFO`] points to.
pub const MODULE_LIST: Range<u64> = 0x8_3000..0x8_4000;
/// The strings of multiboot modules, and the boot loader's name.
pub const MODULE_STRINGS: Range<u64> = 0x8_4000..0x8_8000;
/// Identity mapping of the first 4 GiB by pages of 2 MiB.
pub const PAGE_TABLES: u64 = 0x8_8000;
/// The first stack pointer.
pub const STACK_TOP: u64 = 0x8_f000;
/// The command line with its terminating zero.
pub const CMDLINE: Range<u64> = 0x9_0000..0x9_c000;
/// The extended BIOS data area; base memory ends here.
pub const EBDA: Range<u64> = 0x9_fc00..0xa_0000;
/// Where the BIOS's memory scans look: ACPI tables or the firmware's shadow.
pub const BIOS_AREA: Range<u64> = 0xe_0000..0x10_0000;
/// The end of conventional memory and its adapters.
pub const ONE_MIB: u64 = 1 << 20;
/// What 32-bit addresses reach.
pub const FOUR_GIB: u64 = 1 << 32;

/// The length of a range of addresses.
pub(crate) const fn len(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_area_holds_its_parts_in_order() {
        let page = |start: u64| start..start + 0x1000;
        let parts = [
            page(GDT),
            page(INFO),
            MEMORY_MAP,
            MODULE_LIST,
            MODULE_STRINGS,
            PAGE_TABLES..PAGE_TABLES + 0x6000,
            page(STACK_TOP - 0x1000),
            CMDLINE,
        ];
        assert!(parts.windows(2).all(|pair| pair[0].end <= pair[1].start));
        assert_eq!((parts[0].start, parts[7].end), (LOADER.start, LOADER.end));
        const { assert!(LOADER.end < EBDA.start) };
    }
}
