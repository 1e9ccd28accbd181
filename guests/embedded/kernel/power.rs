//! The end: ACPI power-off, after a word to pvpanic when a check failed.

use crate::console::println;
use crate::cpu::{self, outb, outw};

/// ACPI PM1a control, where QEMU's q35 (after its firmware) and Ringmaster have it.
const PM1A_CONTROL: u16 = 0x604;
/// SLP_EN (ACPI 4.8.3.2.1), with sleep type 0, which is S5 on both machines.
const SLEEP: u16 = 0x2000;
/// The pvpanic device and its event "guest panicked".
const PVPANIC: (u16, u8) = (0x505, 1);

/// Powers off. `failed` is told to pvpanic first, so that the monitor's status shows it.
pub fn off(failed: bool) -> ! {
    println!("powering off");
    if failed {
        outb(PVPANIC.0, PVPANIC.1);
    }
    outw(PM1A_CONTROL, SLEEP);
    cpu::stop()
}
