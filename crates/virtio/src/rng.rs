//! The entropy device (5.4): the host's randomness for the guest.

use memory::GuestMemory;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::{ActivateError, Activation, Chain, DeviceKind, VirtioDevice, Worker};

const KIND: DeviceKind = DeviceKind { id: 4, pci_class: 0x00_ff00, name: "virtio-rng" };
const QUEUE_SIZE: u16 = 64;
/// The most bytes for one request; the guest asks again if it wants more.
const MOST: u64 = 64 << 10;
/// Bytes that the host is asked for at once: such calls are never cut short.
const PIECE: usize = 256;

/// An entropy device.
#[derive(Debug, Default)]
pub struct Rng {
    worker: Option<Worker<()>>,
}

impl Rng {
    /// A device that is not started.
    pub fn new() -> Self {
        Self::default()
    }
}

/// Fills a request's buffers; how much was written.
fn fill(memory: &GuestMemory, chain: &Chain) -> u64 {
    let wanted = chain.writable_len().min(MOST);
    let mut piece = [0; PIECE];
    let mut done = 0;
    while done < wanted {
        let want = (wanted - done).min(PIECE as u64) as usize;
        let Some(room) = piece.get_mut(..want) else { break };
        let Ok(got) = getrandom(&mut *room, GetRandomFlags::empty()) else { break };
        let written = chain.write(memory, done, room.get(..got).unwrap_or_default());
        if written == 0 {
            break;
        }
        done += written as u64;
    }
    done
}

impl VirtioDevice for Rng {
    fn kind(&self) -> DeviceKind {
        KIND
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn config_read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let Some(mut queue) = activation.take(0) else { return Ok(()) };
        let worker = Worker::spawn(KIND.name, move |stop| {
            queue.serve(&stop, |memory, chain| Some(fill(memory, chain)));
        });
        self.worker = Some(worker.map_err(|error| ActivateError(error.to_string()))?);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feature;
    use crate::testing::{Driver, Transport, over_each_transport};

    over_each_transport! {
        every_request_gets_other_bytes,
        huge_and_empty_requests_are_answered,
    }

    fn every_request_gets_other_bytes(on: Transport) {
        let mut driver = Driver::new(on, Rng::new(), feature::VERSION_1);
        let buffers = [(Driver::buffer(0), 1000), (Driver::buffer(1), 24)];
        driver.send(0, &[], &buffers);
        assert_eq!(driver.used(0), (0, 1024));
        let first = [driver.get(buffers[0].0, 1000), driver.get(buffers[1].0, 24)].concat();
        driver.send(0, &[], &buffers);
        driver.used(0);
        assert_ne!(first, [driver.get(buffers[0].0, 1000), driver.get(buffers[1].0, 24)].concat());
        assert!(first.iter().filter(|byte| **byte == 0).count() < 100);
    }

    fn huge_and_empty_requests_are_answered(on: Transport) {
        let mut driver = Driver::new(on, Rng::new(), feature::VERSION_1);
        driver.send(0, &[], &[(Driver::buffer(0), 8 << 20)]);
        assert_eq!(driver.used(0), (0, 64 << 10));
        driver.send(0, &[(Driver::buffer(0), 16)], &[]);
        assert_eq!(driver.used(0), (0, 0));
    }
}
