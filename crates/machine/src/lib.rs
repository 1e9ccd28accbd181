//! The machine: builds a virtual machine from a description and owns its life
//! (run, pause, reset, stop).
//!
//! [`Machine::build`] reads like a parts list. The parts are the devices of the
//! chipset, each on its ports with one lock of its own; the interrupt fabric
//! that joins device lines, 8259As, I/O APIC and local APICs; the clock that
//! all of them share; and one thread that wakes them at their deadlines. The
//! engine sees all of it through [`engine::Platform`].
//!
//! Locks are taken in this order, and nothing is called with a later one held
//! that takes an earlier one:
//!
//! 1. a device (one at a time), the PCI bus among them; then, of a function on
//!    it, its interrupts, and where INTA lines meet,
//! 2. the 8259As, or the I/O APIC (never both); then, for reading, who has the
//!    local APICs,
//! 3. a local APIC (one at a time),
//! 4. leaves: the doorbells, the timers' queue, the console's input queue, the machine's
//!    control word, a vCPU's signals.

mod bells;
mod board;
mod clock;
mod config;
mod control;
mod devices;
mod error;
mod firmware;
mod handle;
mod host;
mod interrupts;
mod intx;
mod load;
mod machine;
mod mount;
mod moving;
mod platform;
mod ports;
mod processor;
mod serial;
mod sync;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod threads;
mod timers;
mod virtio_slots;

pub use boot::{Module, Protocol};
pub use clock::TickSource;
pub use config::{
    BootSource, Consoles, InterruptChip, MachineConfig, Mitigations, OnReset, OwnedModule, Paravirt, no_sink,
};
pub use error::MachineError;
pub use handle::{MachineHandle, WeakMachineHandle};
pub use host::{HostProcessor, begin_calibration};
pub use machine::{MAX_CPUS, Machine, Outcome};
pub use virtio_slots::{MAX_MMIO_DEVICES, MAX_PCI_DEVICES, Transport, VirtioSlot};
