//! Two timers: the 8254 through the 8259, and the local APIC's own.

use core::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};

use crate::console::println;
use crate::cpu::{self, outb};
use crate::interrupts::APIC_TIMER_VECTOR;
use crate::pic::{lapic_read, lapic_write};
use crate::probe::is;
use crate::report::Report;

/// The 8254's input clock.
const PIT_HZ: u32 = 1_193_182;
/// Our tick.
const TICK_HZ: u32 = 200;
/// Ticks to wait for.
const TICKS_WANTED: u64 = 4;

/// Local APIC: end of interrupt, timer's vector, initial count, divisor.
const EOI: u64 = 0xB0;
const LVT_TIMER: u64 = 0x320;
const INITIAL_COUNT: u64 = 0x380;
const CURRENT_COUNT: u64 = 0x390;
const DIVIDE: u64 = 0x3E0;

/// Ticks of the 8254; where ring 3 can read it.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".user.data")]
static mut TICKS: u64 = 0;
/// Interrupts of the local APIC's timer.
static mut APIC_TICKS: u64 = 0;

/// Starts the 8254: channel 0, mode 2.
pub fn init() {
    let count = PIT_HZ / TICK_HZ;
    outb(0x43, 0x34);
    outb(0x40, count as u8);
    outb(0x40, (count >> 8) as u8);
}

/// Ticks so far.
pub fn ticks() -> u64 {
    // SAFETY: an aligned word, written by the handler only.
    unsafe { read_volatile(addr_of!(TICKS)) }
}

fn apic_ticks() -> u64 {
    // SAFETY: as above.
    unsafe { read_volatile(addr_of!(APIC_TICKS)) }
}

/// IRQ 0.
pub fn pit_tick() {
    // SAFETY: handlers do not nest.
    unsafe { write_volatile(addr_of_mut!(TICKS), ticks() + 1) };
}

/// The local APIC's timer.
pub fn apic_tick() {
    // SAFETY: handlers do not nest.
    unsafe { write_volatile(addr_of_mut!(APIC_TICKS), apic_ticks() + 1) };
    lapic_write(EOI, 0);
}

/// Waits in HLT for both timers and reports that they came.
pub fn demonstrate(report: &mut Report) {
    println!("Interrupts: the 8254 through the remapped 8259 at {TICK_HZ} Hz, then the local APIC's timer.");
    let start = ticks();
    while ticks() - start < TICKS_WANTED {
        cpu::wait();
    }
    let came = ticks() - start;
    report.verify("IRQ 0 in HLT", &[(is("ticks", TICKS_WANTED), came)]);

    lapic_write(DIVIDE, 0xB);
    lapic_write(LVT_TIMER, APIC_TIMER_VECTOR.into());
    lapic_write(INITIAL_COUNT, 100_000);
    while apic_ticks() == 0 {
        cpu::wait();
    }
    let left = lapic_read(CURRENT_COUNT);
    report.verify("APIC timer, one shot", &[(is("fired", 1), apic_ticks()), (is("left", 0), left.into())]);
    lapic_write(LVT_TIMER, 0x1_0000);
}
