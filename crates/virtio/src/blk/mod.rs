//! The block device (5.2): a disk with several queues, each served by a thread
//! of its own.

mod request;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use storage::{Disk, SECTOR};

use crate::{ActivateError, Activation, DeviceKind, VirtQueue, VirtioDevice, Worker, read_space};
use request::Requests;

const KIND: DeviceKind = DeviceKind { id: 2, pci_class: 0x01_8000, name: "virtio-blk" };

const F_SEG_MAX: u64 = 1 << 2;
const F_RO: u64 = 1 << 5;
const F_BLK_SIZE: u64 = 1 << 6;
const F_FLUSH: u64 = 1 << 9;
const F_CONFIG_WCE: u64 = 1 << 11;
const F_MQ: u64 = 1 << 12;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;

const QUEUE_SIZE: u16 = 256;
/// The most queues.
pub const MAX_QUEUES: u16 = 32;
/// Buffers of one request, besides header and status.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// Ranges in one request to discard or to zero.
const MAX_RANGES: u32 = 32;
/// Sectors in one such range: 1 GiB.
const MAX_RANGE_SECTORS: u32 = 1 << 21;

const CONFIG_LENGTH: usize = 60;
/// The write-back cache's switch in the configuration space.
const WRITEBACK: u64 = 32;

/// A block device.
pub struct Block {
    requests: Arc<Requests>,
    queues: u16,
    /// The driver wants writes to be durable only after a flush.
    writeback: Arc<AtomicBool>,
    workers: Vec<Worker<()>>,
}

impl Block {
    /// A device for `disk` with `queues` queues. The guest sees the first 20
    /// bytes of `serial`.
    pub fn new(disk: Arc<Disk>, queues: u16, serial: &str) -> Self {
        let writeback = Arc::new(AtomicBool::new(true));
        let requests = Arc::new(Requests::new(disk, serial, Arc::clone(&writeback)));
        Self { requests, queues: queues.clamp(1, MAX_QUEUES), writeback, workers: Vec::new() }
    }

    fn disk(&self) -> &Disk {
        self.requests.disk()
    }

    fn config(&self) -> [u8; CONFIG_LENGTH] {
        let mut config = [0; CONFIG_LENGTH];
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(field) = config.get_mut(at..at + bytes.len()) {
                field.copy_from_slice(bytes);
            }
        };
        put(0, &(self.disk().size() / SECTOR).to_le_bytes());
        put(12, &SEG_MAX.to_le_bytes());
        put(20, &(SECTOR as u32).to_le_bytes());
        put(32, &[self.writeback.load(Ordering::Acquire).into()]);
        put(34, &self.queues.to_le_bytes());
        put(36, &MAX_RANGE_SECTORS.to_le_bytes());
        put(40, &MAX_RANGES.to_le_bytes());
        put(44, &8_u32.to_le_bytes());
        put(48, &MAX_RANGE_SECTORS.to_le_bytes());
        put(52, &MAX_RANGES.to_le_bytes());
        put(56, &[1]);
        config
    }

    fn start(&self, mut queue: VirtQueue) -> std::io::Result<Worker<()>> {
        let requests = Arc::clone(&self.requests);
        Worker::spawn(&format!("blk-queue-{}", queue.index()), move |stop| {
            queue.serve(&stop, |memory, chain| requests.serve(memory, chain, &stop));
        })
    }
}

impl VirtioDevice for Block {
    fn kind(&self) -> DeviceKind {
        KIND
    }

    fn features(&self) -> u64 {
        let always = F_SEG_MAX | F_BLK_SIZE;
        let writable = F_FLUSH | F_CONFIG_WCE | F_DISCARD | F_WRITE_ZEROES;
        let several = if self.queues > 1 { F_MQ } else { 0 };
        always | several | if self.disk().is_read_only() { F_RO } else { writable }
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; self.queues.into()]
    }

    fn config_read(&self, offset: u64, data: &mut [u8]) {
        read_space(&self.config(), offset, data);
    }

    fn config_write(&mut self, offset: u64, data: &[u8]) {
        if let (WRITEBACK, [value]) = (offset, data) {
            self.writeback.store(*value != 0, Ordering::Release);
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        // Without flushes there is no other way to be durable (5.2.6.2).
        if activation.features & F_FLUSH == 0 {
            self.writeback.store(false, Ordering::Release);
        }
        for queue in activation.queues.into_iter().flatten() {
            let worker = self.start(queue).map_err(|error| ActivateError(error.to_string()))?;
            self.workers.push(worker);
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.workers.clear();
        self.writeback.store(true, Ordering::Release);
    }
}
