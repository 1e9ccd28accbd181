//! Doorbells: how a vCPU, or anybody else, wakes a device's thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

/// An event that can be waited for together with sockets and files. Clones
/// ring the same bell.
#[derive(Clone, Debug)]
pub struct Doorbell(Arc<OwnedFd>);

impl Doorbell {
    /// A silent bell.
    ///
    /// # Errors
    /// If the host has no more file descriptors.
    pub fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self(Arc::new(fd)))
    }

    /// Rings it.
    pub fn ring(&self) {
        // The only error is that it has been rung 2^64 times already.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// The eventfd that is the bell.
    pub(crate) fn event(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.0)
    }

    /// Whether it has been rung since the last time; silences it.
    pub fn take(&self) -> bool {
        rustix::io::read(&self.0, &mut [0_u8; 8]).is_ok()
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
