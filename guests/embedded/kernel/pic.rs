//! The 8259 pair, remapped behind the exceptions, and the local APIC's virtual wire.

use core::ptr::{read_volatile, write_volatile};

use crate::cpu::outb;
use crate::interrupts::IRQ_BASE;

/// Command and data port of the first 8259.
const MASTER: (u16, u16) = (0x20, 0x21);
/// Command and data port of the second.
const SLAVE: (u16, u16) = (0xA0, 0xA1);
/// Everything masked but IRQ 0.
pub const MASK: u8 = 0xFE;

/// The local APIC's registers.
pub const LAPIC: u64 = 0xFEE0_0000;
/// Spurious-interrupt vector register.
const SPURIOUS: u64 = 0xF0;
/// Local vector table, LINT0.
const LINT0: u64 = 0x350;

/// Reads a register of the local APIC.
pub fn lapic_read(register: u64) -> u32 {
    // SAFETY: the page is mapped uncached by paging::init; reading has no effect.
    unsafe { read_volatile((LAPIC + register) as *const u32) }
}

/// Writes a register of the local APIC.
pub fn lapic_write(register: u64, value: u32) {
    // SAFETY: as above; the effect is on interrupts that this guest handles.
    unsafe { write_volatile((LAPIC + register) as *mut u32, value) }
}

/// Vectors 0x20 to 0x2F, IRQ 0 open, and LINT0 as ExtINT: without it a local APIC that
/// no firmware has set up keeps the 8259 away (SDM 3A 12.5.1).
pub fn init() {
    for (port, value) in [
        (MASTER.0, 0x11),
        (SLAVE.0, 0x11),
        (MASTER.1, IRQ_BASE),
        (SLAVE.1, IRQ_BASE + 8),
        (MASTER.1, 4),
        (SLAVE.1, 2),
        (MASTER.1, 1),
        (SLAVE.1, 1),
        (MASTER.1, MASK),
        (SLAVE.1, 0xFF),
    ] {
        outb(port, value);
    }
    lapic_write(SPURIOUS, 0x1FF);
    lapic_write(LINT0, 0x700);
}

/// Acknowledges an interrupt of the first 8259.
pub fn end_of_interrupt() {
    outb(MASTER.0, 0x20);
}
