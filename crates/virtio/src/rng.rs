//! The entropy device (5.4): the host's randomness for the guest.

use std::sync::Arc;
use std::time::Instant;

use memory::GuestMemory;
use rustix::rand::{GetRandomFlags, getrandom};

use storage::{RateLimit, RateLimiter};

use crate::{ActivateError, Activation, Chain, DeviceKind, VirtioDevice, Worker};

const KIND: DeviceKind = DeviceKind { id: 4, pci_class: 0x00_ff00, name: "virtio-rng" };
const QUEUE_SIZE: u16 = 64;
/// The most bytes for one request; the guest asks again if it wants more.
const MOST: u64 = 64 << 10;
/// Bytes that the host is asked for at once: such calls are never cut short.
const PIECE: usize = 256;

/// An entropy device.
#[derive(Debug)]
pub struct Rng {
    limiter: Arc<RateLimiter>,
    worker: Option<Worker<()>>,
}

impl Rng {
    /// A device that gives `rate` bytes in a second at most; as many as are
    /// asked for, if that is not said.
    pub fn new(rate: Option<u64>) -> Self {
        let limiter = RateLimiter::new(RateLimit { operations: None, bytes: rate });
        Self { limiter: Arc::new(limiter), worker: None }
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
        let limiter = Arc::clone(&self.limiter);
        let worker = Worker::spawn(KIND.name, move |stop| {
            queue.serve(&stop, |memory, chain| {
                let delay = limiter.request(chain.writable_len().min(MOST), Instant::now());
                let in_time = delay.is_zero() || stop.sleep(delay);
                Some(if in_time { fill(memory, chain) } else { 0 })
            });
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
    use std::time::Duration;

    use super::*;
    use crate::feature;
    use crate::testing::{Driver, Transport, over_each_transport};

    over_each_transport! {
        every_request_gets_other_bytes,
        a_rate_is_kept_and_a_reset_does_not_wait_for_it,
        huge_and_empty_requests_are_answered,
    }

    fn every_request_gets_other_bytes(on: Transport) {
        let mut driver = Driver::new(on, Rng::new(None), feature::VERSION_1);
        let buffers = [(Driver::buffer(0), 1000), (Driver::buffer(1), 24)];
        driver.send(0, &[], &buffers);
        assert_eq!(driver.used(0), (0, 1024));
        let first = [driver.get(buffers[0].0, 1000), driver.get(buffers[1].0, 24)].concat();
        driver.send(0, &[], &buffers);
        driver.used(0);
        assert_ne!(first, [driver.get(buffers[0].0, 1000), driver.get(buffers[1].0, 24)].concat());
        assert!(first.iter().filter(|byte| **byte == 0).count() < 100);
    }

    fn a_rate_is_kept_and_a_reset_does_not_wait_for_it(on: Transport) {
        let mut driver = Driver::new(on, Rng::new(Some(100)), feature::VERSION_1);
        driver.send(0, &[], &[(Driver::buffer(0), 100)]);
        assert_eq!(driver.used(0), (0, 100), "what a second allows comes at once");
        let start = Instant::now();
        driver.send(0, &[], &[(Driver::buffer(0), 50)]);
        assert_eq!(driver.used(0), (0, 50));
        assert!(start.elapsed() > Duration::from_millis(200), "{:?}", start.elapsed());
        driver.send(0, &[], &[(Driver::buffer(0), 60_000)]);
        driver.bus.set_status(0);
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    }

    fn huge_and_empty_requests_are_answered(on: Transport) {
        let mut driver = Driver::new(on, Rng::new(None), feature::VERSION_1);
        driver.send(0, &[], &[(Driver::buffer(0), 8 << 20)]);
        assert_eq!(driver.used(0), (0, 64 << 10));
        driver.send(0, &[(Driver::buffer(0), 16)], &[]);
        assert_eq!(driver.used(0), (0, 0));
    }
}
