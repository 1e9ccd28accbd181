//! What an engine does in the machine's place: interrupt controllers that are
//! its own, and events that pass between guest and devices without the vCPU's
//! thread.
//!
//! The machine asks for it once, before there are vCPUs. Devices know nothing
//! of it: they drive lines, send messages and wait for doorbells as ever.

use std::io;
use std::os::fd::BorrowedFd;

use serde::{Deserialize, Serialize};
use x86::GuestPhysAddr;

/// A message-signalled interrupt: a write of `data` to `address` (SDM 3A
/// 11.11). A destination wider than 8 bits has its upper bits in bits 63:40 of
/// the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterruptMessage {
    /// Where it is written.
    pub address: u64,
    /// What is written.
    pub data: u32,
}

/// A local APIC in the form of its register page (SDM 3A table 11-1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalApicRegisters {
    /// IA32_APIC_BASE.
    pub base: u64,
    /// The page's registers, by their offsets divided by 16.
    pub page: Vec<u32>,
    /// IA32_TSC_DEADLINE.
    pub tsc_deadline: u64,
    /// MSR_KVM_PV_EOI_EN: where the guest may end interrupts without a trap.
    pub eoi_flag: u64,
}

/// The engine's part of one machine. It is called from any thread, with locks
/// held, and must not block.
pub trait Assist: Send + Sync {
    /// Whether the local APICs are the engine's. Then the next four calls have
    /// a meaning, and the [`Platform`](crate::Platform) is not asked for what
    /// belongs to them.
    fn has_local_apics(&self) -> bool;

    /// Delivers a message to the local APICs that it names.
    fn deliver(&self, message: InterruptMessage);

    /// Delivers a message of a device: one of the few that a driver has set up,
    /// and that come again and again.
    fn signal(&self, message: InterruptMessage);

    /// Which level-triggered messages come from the inputs of the I/O APIC, in
    /// their order: the end of each is told by
    /// [`Platform::end_of_interrupt`](crate::Platform::end_of_interrupt).
    fn expect_ends(&self, inputs: &[Option<InterruptMessage>]);

    /// Rings `bell`, an eventfd, whenever a vCPU writes to `at`; the machine is
    /// no longer asked. `value` is what must be written, in 4 bytes; None if
    /// anything rings.
    ///
    /// # Errors
    /// If the engine cannot; writes then go the way of all others.
    fn ring_on_write(&self, at: GuestPhysAddr, value: Option<u32>, bell: BorrowedFd<'_>) -> io::Result<()>;

    /// Takes [`Assist::ring_on_write`] back.
    fn ring_no_more(&self, at: GuestPhysAddr, value: Option<u32>, bell: BorrowedFd<'_>);
}
