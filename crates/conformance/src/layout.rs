//! Where everything lies in a guest's first two mebibytes, and how descriptors
//! are written (SDM 3A 3.4.5, 5.8.3).

/// Global descriptor table, 32 entries.
pub(crate) const GDT: u64 = 0x600;
/// Interrupt descriptor table, 256 gates of up to 16 bytes.
pub(crate) const IDT: u64 = 0x800;
/// One stub of four bytes for each vector: `out STUB_PORT, al`, `hlt`, `hlt`.
/// It ends the run; RIP then tells the vector, the stack holds the frame.
pub(crate) const STUBS: u64 = 0x2000;
/// The task-state segment in use.
pub(crate) const TSS: u64 = 0x3000;
/// Limit of that segment: I/O permission bits for ports 0 to FFh.
pub(crate) const TSS_LIMIT: u16 = 0xa8;
/// Offset of the interrupt redirection bitmap in it (SDM 3B 21.3.3).
pub(crate) const TSS_REDIRECTION: u64 = 0x68;
/// Offset of the I/O permission bitmap in it.
pub(crate) const TSS_IO_MAP: u64 = 0x88;
/// Room for a second and a third task.
pub(crate) const TSS2: u64 = 0x3200;
/// The third.
pub(crate) const TSS3: u64 = 0x3400;
/// Local descriptor table, 32 entries.
pub(crate) const LDT: u64 = 0x3800;
/// Top of the ring-0 stack that interrupts of outer rings use.
pub(crate) const RING0_STACK: u64 = 0x5000;
/// Top of the stack that the guest starts with.
pub(crate) const STACK: u64 = 0x6000;
/// Top of the stack that a ring-3 or virtual-8086 guest starts with.
pub(crate) const USER_STACK: u64 = 0x7000;
/// Top of one more stack: IST1, ring 1, other tasks.
pub(crate) const OTHER_STACK: u64 = 0x7800;
/// Where the guest's code starts.
pub(crate) const MAIN: u64 = 0x8000;
/// A page of data; another follows at E000h, and at F000h.
pub(crate) const DATA: u64 = 0xd000;
/// Level-5 table.
pub(crate) const PML5: u64 = 0x1_0000;
/// Level-4 table.
pub(crate) const PML4: u64 = 0x1_1000;
/// Page-directory-pointer table.
pub(crate) const PDPT: u64 = 0x1_2000;
/// Page directory.
pub(crate) const PD: u64 = 0x1_3000;
/// Page table of the first 2 MiB (4 MiB with 32-bit paging).
pub(crate) const PT: u64 = 0x1_4000;
/// Room for one more paging structure.
pub(crate) const SPARE_TABLE: u64 = 0x1_6000;
/// Guest-physical address at which the bench has an MMIO page.
pub(crate) const MMIO: u64 = 0x1000_0000;
/// Bytes of RAM.
pub(crate) const RAM: u64 = 4 << 20;

/// Ring-0 code, as wide as the environment.
pub(crate) const KCODE: u16 = 0x08;
/// Ring-0 data, flat.
pub(crate) const KDATA: u16 = 0x10;
/// Ring-3 32-bit code, with its RPL.
pub(crate) const UCODE32: u16 = 0x1b;
/// Ring-3 data, with its RPL.
pub(crate) const UDATA: u16 = 0x23;
/// Ring-3 64-bit code, with its RPL.
pub(crate) const UCODE64: u16 = 0x2b;
/// Ring-0 16-bit code, based at 0.
pub(crate) const KCODE16: u16 = 0x38;
/// Ring-0 16-bit data, based at 0.
pub(crate) const KDATA16: u16 = 0x40;
/// Ring-0 32-bit code.
pub(crate) const KCODE32: u16 = 0x48;
/// The task-state segment.
pub(crate) const TSS_SELECTOR: u16 = 0x50;
/// The local descriptor table.
pub(crate) const LDT_SELECTOR: u16 = 0x60;
/// First of the GDT entries that belong to the guest: 70h to F8h.
pub(crate) const FREE: u16 = 0x70;

/// Ends the run well.
pub(crate) const EXIT_PORT: u16 = 0xf4;
/// Writing a vector raises the interrupt line with it.
pub(crate) const INTERRUPT_PORT: u16 = 0xf5;
/// Used by the stubs.
pub(crate) const STUB_PORT: u16 = 0xf6;
/// A write raises an NMI.
pub(crate) const NMI_PORT: u16 = 0xf7;
/// Writes are logged: a guest reports here.
pub(crate) const LOG_PORT: u16 = 0xe0;
/// A read gives back what was last written.
pub(crate) const ECHO_PORT: u16 = 0xe4;
/// Reads give A1B2C3D4h, then 01010101h more each time.
pub(crate) const COUNTER_PORT: u16 = 0xe8;

/// Page-table bits: present, writable, accessed, dirty.
pub(crate) const KERNEL_PAGE: u64 = 0x63;
/// The same and user.
pub(crate) const USER_PAGE: u64 = 0x67;
/// Page-table bits of an entry that points to a table.
pub(crate) const TABLE: u64 = 0x27;
/// Execute-disable.
pub(crate) const NX: u64 = 1 << 63;

/// Type and DPL byte of a present 32- or 16-bit code segment.
pub(crate) const CODE: u8 = 0x9b;
/// Of a present writable data segment.
pub(crate) const WRITABLE: u8 = 0x93;
/// DPL 3, to be added.
pub(crate) const DPL3: u8 = 0x60;
/// Granularity and size nibble: 4 KiB pages, 32 bits.
pub(crate) const FLAT32: u8 = 0xc;
/// 4 KiB pages, 64-bit code.
pub(crate) const FLAT64: u8 = 0xa;
/// Byte granularity, 16 bits.
pub(crate) const SMALL16: u8 = 0;
/// Byte granularity, 32 bits.
pub(crate) const SMALL32: u8 = 4;

/// A segment or system-segment descriptor.
pub(crate) const fn descriptor(base: u32, limit: u32, access: u8, flags: u8) -> u64 {
    let (base, limit) = (base as u64, limit as u64);
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | (access as u64) << 40
        | (limit >> 16 & 0xf) << 48
        | (flags as u64) << 52
        | (base >> 24) << 56
}

/// A gate of the 8-byte formats; `count` is the parameter count of call gates.
pub(crate) const fn gate(selector: u16, offset: u32, access: u8, count: u8) -> u64 {
    let offset = offset as u64;
    offset & 0xffff
        | (selector as u64) << 16
        | (count as u64) << 32
        | (access as u64) << 40
        | (offset >> 16) << 48
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_have_the_manuals_layout() {
        assert_eq!(descriptor(0, 0xf_ffff, CODE, FLAT32), 0x00cf_9b00_0000_ffff);
        assert_eq!(descriptor(0x1234_5678, 0x9_abcd, WRITABLE, 0), 0x1209_9334_5678_abcd);
        assert_eq!(gate(8, 0x1234_5678, 0x8e, 3), 0x1234_8e03_0008_5678);
    }
}
