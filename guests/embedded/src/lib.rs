//! The guest of `ringmaster demo --embedded`.
//!
//! A bare-metal program that walks an x86 PC from the PVH entry through real mode,
//! protected mode and long mode, sets up segmentation, paging, interrupts and a ring-3
//! task, executes the sensitive instructions of Robin and Irvine and a set of
//! privileged ones in each of them, says for each what it saw and whether hardware
//! would have shown the same, and powers off.
//!
//! It is built by `build.rs` from `kernel/` with nothing but `rustc` and the C
//! compiler's linker, and is carried inside this library.
//!
//! # What it asks of its machine
//!
//! - Entry by PVH (ELF note 18) or multiboot 1: 32-bit protected mode, paging off.
//! - 64 MiB of RAM from address 0, 8259 pair, 8254, local APIC at `0xFEE0_0000`.
//! - A serial port at `0x3F8` for its report.
//! - ACPI's PM1a control register at port `0x604`; writing `SLP_EN` with sleep type 0
//!   powers off.
//! - When a check fails it writes 1 (guest panicked) to the pvpanic port `0x505` before
//!   it powers off, so that the exit status tells.

/// The guest as a static 64-bit ELF with a PVH entry note and a multiboot 1 header.
pub static IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest.elf"));

/// What the summary line contains when every check was as on hardware.
pub const SUCCESS_MARKER: &str = ", 0 differ";

/// The last line the guest prints.
pub const LAST_LINE: &str = "powering off";
