//! The network card (5.1).
//!
//! One thread serves all its queues and what the card is connected to, a
//! [`NetBackend`]. Frames that the backend has for the guest stay there until
//! the guest has room; those of the guest stay in their queue until the
//! backend takes them.

mod control;
mod features;
mod filter;
mod receive;
#[cfg(test)]
mod tests;
mod transmit;
mod worker;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use network::{Mac, NetBackend, Offloads};

use crate::{ActivateError, Activation, DeviceKind, VirtioDevice, Worker, lock, read_space};
use worker::Card;

const KIND: DeviceKind = DeviceKind { id: 1, pci_class: 0x02_0000, name: "virtio-net" };

/// Queues: from the network, to it, and of commands.
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const CONTROL: usize = 2;
/// Unsegmented frames take many small buffers.
const RECEIVE_SIZE: u16 = 1024;
const TRANSMIT_SIZE: u16 = 256;
const CONTROL_SIZE: u16 = 64;

/// The bit of the status in the configuration space.
const LINK_UP: u16 = 1;

/// What the configuration space shows and the thread changes.
struct Shared {
    mac: Mutex<Mac>,
    up: AtomicBool,
}

/// Where the backend is.
enum Place {
    /// No driver uses the card.
    Idle(Box<dyn NetBackend>),
    /// The card's thread has it.
    Working(Worker<Box<dyn NetBackend>>),
    /// Its thread has died, or could not be made.
    Lost,
}

/// A network card.
pub struct Net {
    mac: Mac,
    offloads: Offloads,
    shared: Arc<Shared>,
    place: Place,
}

impl Net {
    /// A card with the address `mac` on `backend`.
    pub fn new(mac: Mac, backend: Box<dyn NetBackend>) -> Self {
        let shared = Shared { mac: Mutex::new(mac), up: AtomicBool::new(backend.is_up()) };
        Self { mac, offloads: backend.offloads(), shared: Arc::new(shared), place: Place::Idle(backend) }
    }
}

impl VirtioDevice for Net {
    fn kind(&self) -> DeviceKind {
        KIND
    }

    fn features(&self) -> u64 {
        features::offered(self.offloads)
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![RECEIVE_SIZE, TRANSMIT_SIZE, CONTROL_SIZE]
    }

    fn config_read(&self, offset: u64, data: &mut [u8]) {
        let status = if self.shared.up.load(Ordering::Acquire) { LINK_UP } else { 0 };
        let mut space = lock(&self.shared.mac).to_vec();
        space.extend_from_slice(&status.to_le_bytes());
        read_space(&space, offset, data);
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let Place::Idle(mut backend) = std::mem::replace(&mut self.place, Place::Lost) else {
            return Err(ActivateError("the network is gone".to_owned()));
        };
        let offloads = features::chosen(activation.features, self.offloads);
        backend.choose(offloads);
        let queues = (activation.take(RECEIVE), activation.take(TRANSMIT));
        let (Some(receive), Some(transmit)) = queues else {
            // A driver that wants no frames gets none.
            self.place = Place::Idle(backend);
            return Ok(());
        };
        let control = activation.take(CONTROL);
        let shared = Arc::clone(&self.shared);
        let Activation { features, interrupt, .. } = activation;
        let card = Card::new(backend, shared, features, offloads, interrupt);
        let work = move |stop| card.run(&stop, receive, transmit, control);
        let worker = Worker::spawn("net", work).map_err(|error| ActivateError(error.to_string()))?;
        self.place = Place::Working(worker);
        Ok(())
    }

    fn reset(&mut self) {
        let backend = match std::mem::replace(&mut self.place, Place::Lost) {
            Place::Idle(backend) => Some(backend),
            Place::Working(worker) => worker.stop(),
            Place::Lost => None,
        };
        if let Some(mut backend) = backend {
            backend.reset();
            self.place = Place::Idle(backend);
        }
        *lock(&self.shared.mac) = self.mac;
    }
}
