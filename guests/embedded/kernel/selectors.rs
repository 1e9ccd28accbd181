//! Selectors of the two descriptor tables.
//!
//! The protected-mode table ([`crate::protected`]) and the long-mode table
//! ([`crate::descriptors`]) keep the same things in the same places, so that one
//! 32-bit probe runs unchanged in protected mode and in compatibility mode. The order
//! of the user segments is what SYSRET wants (SDM 2B SYSRET): 32-bit code, data,
//! 64-bit code.

/// Ring-0 code: 32-bit in protected mode, 64-bit in long mode.
pub const KERNEL_CODE: u16 = 0x08;
/// Ring-0 data, flat.
pub const KERNEL_DATA: u16 = 0x10;
/// Ring-3 32-bit code, with RPL 3.
pub const USER_CODE32: u16 = 0x18 | 3;
/// Ring-3 data, with RPL 3.
pub const USER_DATA: u16 = 0x20 | 3;
/// Ring-3 64-bit code, with RPL 3; long mode only.
pub const USER_CODE64: u16 = 0x28 | 3;
/// The task-state segment (two slots in long mode).
pub const TSS: u16 = 0x30;
/// The local descriptor table (two slots in long mode).
pub const LDT: u16 = 0x40;
/// A call gate with DPL 3 to ring 0, with RPL 3 (two slots in long mode).
pub const CALL_GATE: u16 = 0x50 | 3;
/// A data segment with DPL 3 that is not present, with RPL 3.
pub const NOT_PRESENT: u16 = 0x60 | 3;
/// 16-bit code at the real-mode segment's base; protected mode only.
pub const CODE16: u16 = 0x68;
/// 16-bit data at the same base with a 64 KiB limit; protected mode only.
pub const DATA16: u16 = 0x70;

/// Limit of both tables: the last byte of the last descriptor.
pub const GDT_LIMIT: u16 = 0x77;

/// SYSCALL and SYSRET selectors as STAR wants them (SDM 3A 6.8.8).
pub const STAR: u64 = (KERNEL_CODE as u64) << 32 | (USER_CODE32 as u64) << 48;

/// Descriptor of ring-0 32-bit code; all here have their accessed bit set.
pub const CODE32_DESCRIPTOR: u64 = 0x00CF_9B00_0000_FFFF;
/// Descriptor of ring-0 64-bit code.
pub const CODE64_DESCRIPTOR: u64 = 0x00AF_9B00_0000_FFFF;
/// Descriptor of ring-0 data.
pub const DATA_DESCRIPTOR: u64 = 0x00CF_9300_0000_FFFF;
/// Descriptor of ring-3 32-bit code.
pub const USER_CODE32_DESCRIPTOR: u64 = 0x00CF_FB00_0000_FFFF;
/// Descriptor of ring-3 64-bit code.
pub const USER_CODE64_DESCRIPTOR: u64 = 0x00AF_FB00_0000_FFFF;
/// Descriptor of ring-3 data.
pub const USER_DATA_DESCRIPTOR: u64 = 0x00CF_F300_0000_FFFF;
/// Descriptor of ring-3 data whose present bit is clear.
pub const NOT_PRESENT_DESCRIPTOR: u64 = 0x00CF_7300_0000_FFFF;
