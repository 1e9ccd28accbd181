//! The processor's own instructions as functions: ports, MSRs, control registers.

use core::arch::asm;
use core::arch::x86_64::{__cpuid_count, CpuidResult};
use core::cell::UnsafeCell;

/// A static that is shared by the one thread of control and its interrupt handlers.
#[repr(transparent)]
pub struct Shared<T>(UnsafeCell<T>);

// SAFETY: there is one processor; code and handlers take turns, and what both use is
// accessed by volatile operations or while interrupts are off.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Wraps a value.
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Its address.
    pub const fn get(&self) -> *mut T {
        self.0.get()
    }
}

/// Reads a byte from an I/O port.
pub fn inb(port: u16) -> u8 {
    let value: u8;
    // SAFETY: only ports of the platform devices named in this program are read.
    unsafe { asm!("in al, dx", out("al") value, in("dx") port, options(nomem, nostack, preserves_flags)) };
    value
}

/// Writes a byte to an I/O port.
pub fn outb(port: u16, value: u8) {
    // SAFETY: as above; the effect is on the device only.
    unsafe { asm!("out dx, al", in("al") value, in("dx") port, options(nomem, nostack, preserves_flags)) };
}

/// Writes a word to an I/O port.
pub fn outw(port: u16, value: u16) {
    // SAFETY: as above.
    unsafe { asm!("out dx, ax", in("ax") value, in("dx") port, options(nomem, nostack, preserves_flags)) };
}

/// Writes a model-specific register.
///
/// # Safety
/// The value must leave the compiled code's assumptions intact.
pub unsafe fn wrmsr(msr: u32, value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack))
    };
}

/// Defines a reader of a control register.
macro_rules! read_control {
    ($name:ident, $register:literal) => {
        #[doc = concat!("Reads ", $register, ".")]
        pub fn $name() -> u64 {
            let value: u64;
            // SAFETY: reading a control register has no effect.
            unsafe { asm!(concat!("mov {}, ", $register), out(reg) value, options(nomem, nostack)) };
            value
        }
    };
}
read_control!(read_cr2, "cr2");
read_control!(read_cr4, "cr4");

/// Writes CR3.
///
/// # Safety
/// The tables must map everything that is in use where it is.
pub unsafe fn write_cr3(value: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("mov cr3, {}", in(reg) value, options(nostack)) };
}

/// Writes CR4.
///
/// # Safety
/// The bits that compiled code and paging rest on must stay.
pub unsafe fn write_cr4(value: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("mov cr4, {}", in(reg) value, options(nostack)) };
}

/// Drops the translation of one page.
pub fn invlpg(address: u64) {
    // SAFETY: dropping a translation only makes the processor walk the tables again.
    unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack)) };
}

/// CPUID.
pub fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    __cpuid_count(leaf, subleaf)
}

/// Waits for one interrupt with interrupts enabled.
pub fn wait() {
    // SAFETY: the handlers preserve every register; STI's shadow covers HLT.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
}

/// Stops for good.
pub fn stop() -> ! {
    loop {
        // SAFETY: nothing follows.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}
