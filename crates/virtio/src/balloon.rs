//! The memory balloon (5.5): pages that the guest can do without go back to
//! the host, on demand and, by free-page reporting, of the guest's own accord.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use memory::GuestMemory;
use x86::{GuestPhysAddr, PAGE_SIZE};

use crate::{
    ActivateError, Activation, Chain, DeviceKind, Interrupt, VirtQueue, VirtioDevice, Worker, lock,
    read_space,
};

const KIND: DeviceKind = DeviceKind { id: 5, pci_class: 0x00_ff00, name: "virtio-balloon" };
const QUEUE_SIZE: u16 = 128;

const F_DEFLATE_ON_OOM: u64 = 1 << 2;
const F_REPORTING: u64 = 1 << 5;

/// Page frame numbers that are read at once.
const BATCH: usize = 256;
const NUMBER: usize = 4;
/// Where the guest says how much it holds.
const ACTUAL: u64 = 4;

#[derive(Debug, Default)]
struct Shared {
    /// Pages that the balloon is to hold.
    target: AtomicU32,
    /// Pages that it holds, as the guest says.
    actual: AtomicU32,
    interrupt: std::sync::Mutex<Option<Interrupt>>,
}

/// Sets a balloon's size and sees how far the guest is.
#[derive(Clone, Debug)]
pub struct BalloonHandle(Arc<Shared>);

impl BalloonHandle {
    /// Asks the guest to give up `bytes` in all.
    pub fn set_target(&self, bytes: u64) {
        let pages = u32::try_from(bytes / PAGE_SIZE).unwrap_or(u32::MAX);
        self.0.target.store(pages, Ordering::Release);
        let interrupt = lock(&self.0.interrupt).clone();
        if let Some(interrupt) = interrupt {
            interrupt.config_changed();
        }
    }

    /// How many bytes the guest has given up.
    pub fn actual(&self) -> u64 {
        u64::from(self.0.actual.load(Ordering::Acquire)) * PAGE_SIZE
    }
}

/// A memory balloon.
#[derive(Debug)]
pub struct Balloon {
    shared: Arc<Shared>,
    workers: Vec<Worker<()>>,
}

impl Balloon {
    /// A balloon that asks for `bytes` of the guest's memory at first.
    pub fn new(bytes: u64) -> Self {
        let balloon = Self { shared: Arc::default(), workers: Vec::new() };
        balloon.handle().set_target(bytes);
        balloon
    }

    /// A handle for other threads.
    pub fn handle(&self) -> BalloonHandle {
        BalloonHandle(Arc::clone(&self.shared))
    }

    fn serve(
        &mut self,
        queue: Option<VirtQueue>,
        each: fn(&GuestMemory, &Chain),
    ) -> Result<(), ActivateError> {
        let Some(mut queue) = queue else { return Ok(()) };
        let worker = Worker::spawn(KIND.name, move |stop| {
            queue.serve(&stop, |memory, chain| {
                each(memory, chain);
                Some(0)
            });
        });
        self.workers.push(worker.map_err(|error| ActivateError(error.to_string()))?);
        Ok(())
    }
}

/// Gives the pages back to the host that the guest names by their numbers.
fn inflate(memory: &GuestMemory, chain: &Chain) {
    let mut batch = [0; BATCH * NUMBER];
    let mut offset = 0;
    loop {
        let read = chain.read(memory, offset, &mut batch);
        let numbers = batch.get(..read).unwrap_or_default().chunks_exact(NUMBER);
        for number in numbers {
            let number = number.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
            memory.discard(GuestPhysAddr(number * PAGE_SIZE), PAGE_SIZE);
        }
        if read < batch.len() {
            return;
        }
        offset += read as u64;
    }
}

/// Pages of a balloon that shrinks need nothing: they are there when touched.
fn deflate(_memory: &GuestMemory, _chain: &Chain) {}

/// Gives free pages back: the buffers are the pages.
fn report(memory: &GuestMemory, chain: &Chain) {
    for buffer in chain.writable() {
        memory.discard(GuestPhysAddr(buffer.at.0), buffer.len.into());
    }
}

impl VirtioDevice for Balloon {
    fn kind(&self) -> DeviceKind {
        KIND
    }

    fn features(&self) -> u64 {
        F_DEFLATE_ON_OOM | F_REPORTING
    }

    /// Inflate, deflate, reporting: queues of features that are not offered
    /// have no place (5.5.2).
    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 3]
    }

    fn config_read(&self, offset: u64, data: &mut [u8]) {
        let mut space = [0; 8];
        let (target, actual) = space.split_at_mut(ACTUAL as usize);
        target.copy_from_slice(&self.shared.target.load(Ordering::Acquire).to_le_bytes());
        actual.copy_from_slice(&self.shared.actual.load(Ordering::Acquire).to_le_bytes());
        read_space(&space, offset, data);
    }

    fn config_write(&mut self, offset: u64, data: &[u8]) {
        if let (ACTUAL, Ok(value)) = (offset, data.try_into()) {
            self.shared.actual.store(u32::from_le_bytes(value), Ordering::Release);
        }
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        *lock(&self.shared.interrupt) = Some(activation.interrupt.clone());
        let queues = [activation.take(0), activation.take(1), activation.take(2)];
        for (queue, each) in queues.into_iter().zip([inflate, deflate, report]) {
            self.serve(queue, each)?;
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.workers.clear();
        *lock(&self.shared.interrupt) = None;
        self.shared.actual.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feature;
    use crate::testing::{Driver, Transport, over_each_transport};

    over_each_transport! {
        pages_in_the_balloon_lose_their_contents_and_others_do_not,
        free_pages_are_reported,
        the_target_is_told,
    }

    fn driver(on: Transport, balloon: Balloon) -> Driver {
        Driver::new(on, balloon, feature::VERSION_1 | F_REPORTING)
    }

    fn pages_in_the_balloon_lose_their_contents_and_others_do_not(on: Transport) {
        let mut driver = driver(on, Balloon::new(0));
        driver.put(0x40_0000, &[1; 0x3000]);
        driver.memory.mark_code(GuestPhysAddr(0x40_1000), 16);
        let version = driver.memory.code_version(GuestPhysAddr(0x40_1000));
        let numbers = [0x401_u32, u32::MAX, 0xfee00, 0x10_0000].map(u32::to_le_bytes).concat();
        driver.put(Driver::buffer(0), &numbers);
        driver.send(0, &[(Driver::buffer(0), 15)], &[]);
        driver.used(0);
        assert_eq!(driver.get(0x40_0fff, 0x1002), [&[1][..], &[0; 0x1000], &[1]].concat());
        assert_ne!(driver.memory.code_version(GuestPhysAddr(0x40_1000)), version, "code is gone too");
        driver.send(1, &[(Driver::buffer(0), 4)], &[]);
        driver.used(1);
        driver.put(0x40_1000, &[2]);
        assert_eq!(driver.get(0x40_1000, 1), [2]);
    }

    fn free_pages_are_reported(on: Transport) {
        let mut driver = driver(on, Balloon::new(0));
        driver.put(0x80_0000, &[1; 0x3000]);
        // Only whole pages go.
        driver.send(2, &[], &[(0x80_0800, 0x2000)]);
        driver.used(2);
        let mut expected = vec![1; 0x3000];
        expected[0x1000..0x2000].fill(0);
        assert_eq!(driver.get(0x80_0000, 0x3000), expected);
    }

    fn the_target_is_told(on: Transport) {
        let balloon = Balloon::new(5 << 20);
        let handle = balloon.handle();
        let mut driver = driver(on, balloon);
        assert_eq!(driver.config(0, 4), 1280);
        let generation = driver.bus.generation();
        handle.set_target(1 << 20);
        assert_eq!((driver.config(0, 4), driver.bus.generation()), (256, generation + 1));
        driver.bus.set_config(4, &77_u32.to_le_bytes());
        assert_eq!(handle.actual(), 77 * PAGE_SIZE);
    }
}
