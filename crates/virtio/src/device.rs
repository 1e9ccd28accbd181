//! The contract between a device and its transport.

use memory::GuestMemory;

use crate::{Interrupt, VirtQueue};

/// What kind of device it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceKind {
    /// Its number among virtio's device types (5).
    pub id: u16,
    /// Its PCI class code: base class, sub-class, programming interface.
    pub pci_class: u32,
    /// Its name, for threads and messages.
    pub name: &'static str,
}

/// A device cannot start; the sentence says why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ActivateError(pub String);

/// What a device gets when its driver is ready.
pub struct Activation {
    /// The guest's memory.
    pub memory: GuestMemory,
    /// The features that the driver has accepted.
    pub features: u64,
    /// The queues, one for each of [`VirtioDevice::queue_sizes`]; None for
    /// those that the driver did not enable.
    pub queues: Vec<Option<VirtQueue>>,
    /// For changes of the configuration space.
    pub interrupt: Interrupt,
}

impl Activation {
    /// Takes queue `index`, if the driver has enabled it.
    pub fn take(&mut self, index: usize) -> Option<VirtQueue> {
        self.queues.get_mut(index)?.take()
    }
}

/// A virtio device without its transport. The transport calls it on the
/// vCPUs' threads, one call at a time; what takes long belongs on a
/// [`Worker`](crate::Worker).
pub trait VirtioDevice: Send {
    /// What it is.
    fn kind(&self) -> DeviceKind;

    /// The features that it offers, without those of the transport.
    fn features(&self) -> u64;

    /// The largest size of each queue, a power of two.
    fn queue_sizes(&self) -> Vec<u16>;

    /// Reads the configuration space; [`read_space`] helps.
    fn config_read(&self, offset: u64, data: &mut [u8]);

    /// Writes the configuration space. `features` are the accepted ones.
    fn config_write(&mut self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }

    /// The driver is ready: start.
    ///
    /// # Errors
    /// If the device cannot start. The driver is told that it needs a reset.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;

    /// Stop, and drop all queues: when this returns, the guest's memory is not
    /// touched any more. Also called when it was never activated.
    fn reset(&mut self);
}

/// Reads from a configuration space that lies in `space`; behind it there are
/// zeros.
pub fn read_space(space: &[u8], offset: u64, data: &mut [u8]) {
    let from = usize::try_from(offset).unwrap_or(usize::MAX);
    let source = space.get(from..).unwrap_or_default();
    for (index, byte) in data.iter_mut().enumerate() {
        *byte = source.get(index).copied().unwrap_or(0);
    }
}
