//! Interrupts from a device to its driver.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// A transport's way to interrupt the guest. Called on the devices' threads.
pub trait InterruptTarget: Send + Sync {
    /// Queue `queue` has used buffers.
    fn queue(&self, queue: u16);

    /// The configuration has changed, or the device needs a reset.
    fn config(&self);
}

/// What device and transport share besides the interrupts themselves.
struct Shared {
    target: Box<dyn InterruptTarget>,
    needs_reset: AtomicBool,
    generation: AtomicU8,
}

/// A device's end of its interrupts; clones are the same.
#[derive(Clone)]
pub struct Interrupt(Arc<Shared>);

impl Interrupt {
    /// Interrupts by way of `target`.
    pub fn new(target: Box<dyn InterruptTarget>) -> Self {
        Self(Arc::new(Shared { target, needs_reset: AtomicBool::new(false), generation: AtomicU8::new(0) }))
    }

    /// Queue `queue` has used buffers.
    pub fn queue(&self, queue: u16) {
        self.0.target.queue(queue);
    }

    /// The configuration space has changed.
    pub fn config_changed(&self) {
        self.0.generation.fetch_add(1, Ordering::AcqRel);
        self.0.target.config();
    }

    /// The device cannot go on until the driver resets it.
    pub fn needs_reset(&self) {
        if !self.0.needs_reset.swap(true, Ordering::AcqRel) {
            self.0.target.config();
        }
    }

    /// Whether the device cannot go on.
    pub(crate) fn is_reset_needed(&self) -> bool {
        self.0.needs_reset.load(Ordering::Acquire)
    }

    /// The driver has reset the device.
    pub(crate) fn was_reset(&self) {
        self.0.needs_reset.store(false, Ordering::Release);
    }

    /// Changes with the configuration space.
    pub(crate) fn generation(&self) -> u8 {
        self.0.generation.load(Ordering::Acquire)
    }
}

impl fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interrupt").field("needs_reset", &self.is_reset_needed()).finish_non_exhaustive()
    }
}
