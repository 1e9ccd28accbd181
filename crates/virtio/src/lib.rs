//! Virtio: devices that exist only in virtual machines (Virtual I/O Device
//! Version 1.2).
//!
//! A device is a [`VirtioDevice`]: features, a configuration space, queues. A
//! transport ([`pci::VirtioPci`], [`mmio::VirtioMmio`]) shows it to the guest
//! and hands it its queues once the driver is ready; from then on the device
//! works on threads of its own ([`Worker`]), woken by doorbells, and asks for
//! interrupts. No device knows a transport, no transport a device.
//!
//! Everything in a queue comes from the guest. [`VirtQueue::pop`] checks each
//! chain as a whole before a device sees any of it; a driver that breaks the
//! rules of the ring has its queue stopped and is told that the device needs a
//! reset.

#![forbid(unsafe_code)]

pub mod balloon;
pub mod blk;
mod chain;
pub mod console;
mod device;
mod doorbell;
pub mod fs;
mod interrupt;
pub mod mmio;
pub mod net;
pub mod pci;
mod queue;
mod registers;
pub mod rng;
#[cfg(test)]
mod testing;
pub mod vsock;
mod worker;

pub use chain::{Buffer, Chain, Slice};
pub use device::{ActivateError, Activation, DeviceKind, VirtioDevice, read_space};
pub use doorbell::Doorbell;
pub use interrupt::{Interrupt, InterruptTarget};
pub use queue::{BrokenQueue, VirtQueue};
pub use worker::{Stop, Worker};

/// Feature bits that belong to the transports and rings (2.2, 6).
pub mod feature {
    /// A chain may be in a table of its own.
    pub const RING_INDIRECT_DESC: u64 = 1 << 28;
    /// Both sides say from which index on they want to be told.
    pub const RING_EVENT_IDX: u64 = 1 << 29;
    /// Virtio 1.0 or later.
    pub const VERSION_1: u64 = 1 << 32;
    /// What every transport here offers.
    pub const ALWAYS: u64 = RING_INDIRECT_DESC | RING_EVENT_IDX | VERSION_1;
}

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`, poisoned or not: the states here are valid between steps.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
