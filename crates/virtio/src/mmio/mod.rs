//! Virtio over memory-mapped registers (4.2), version 2.

#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use chipset::Line;
use memory::GuestMemory;

use crate::registers::{Registers, RingPart};
use crate::{Interrupt, InterruptTarget, VirtioDevice, lock};

/// Bytes of the registers.
pub const SIZE: u64 = 0x1000;
const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"RING");
/// Where queues are notified.
pub const QUEUE_NOTIFY: u64 = 0x50;
const CONFIG: u64 = 0x100;

const USED_BUFFER: u32 = 1;
const CONFIG_CHANGE: u32 = 2;

struct Status {
    bits: u32,
    line: Line,
}

impl Status {
    fn set(&mut self, bits: u32) {
        self.bits = bits;
        self.line.set(bits != 0);
    }
}

/// The interrupt status, shared with the device's threads.
#[derive(Clone)]
struct Shared(Arc<Mutex<Status>>);

impl Shared {
    fn raise(&self, bit: u32) {
        let mut status = lock(&self.0);
        let bits = status.bits | bit;
        status.set(bits);
    }
}

impl InterruptTarget for Shared {
    fn queue(&self, _queue: u16) {
        self.raise(USED_BUFFER);
    }

    fn config(&self) {
        self.raise(CONFIG_CHANGE);
    }
}

/// A virtio device in memory-mapped registers.
pub struct VirtioMmio {
    registers: Registers,
    shared: Shared,
}

impl VirtioMmio {
    /// Registers for `device`, which interrupts by `line`.
    ///
    /// # Errors
    /// If the host has no more file descriptors.
    pub fn new(device: Box<dyn VirtioDevice>, memory: GuestMemory, line: Line) -> io::Result<Self> {
        let shared = Shared(Arc::new(Mutex::new(Status { bits: 0, line })));
        let interrupt = Interrupt::new(Box::new(shared.clone()));
        Ok(Self { registers: Registers::new(device, memory, interrupt)?, shared })
    }

    /// Platform reset.
    pub fn reset(&mut self) {
        self.registers.reset();
        lock(&self.shared.0).set(0);
    }

    /// Reads 1 to 8 bytes. Registers are dwords.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some(at) = offset.checked_sub(CONFIG) {
            return self.registers.config_read(at, data);
        }
        data.fill(0);
        if data.len() == 4 && offset.is_multiple_of(4) {
            data.copy_from_slice(&self.register(offset).to_le_bytes());
        }
    }

    /// What the notification of each queue rings: the value that is written to
    /// [`QUEUE_NOTIFY`], and the bell.
    pub fn bells(&self) -> Vec<(u32, Arc<OwnedFd>)> {
        self.registers.bells().map(|(queue, bell)| (queue.into(), bell)).collect()
    }

    fn register(&self, offset: u64) -> u32 {
        let registers = &self.registers;
        match offset {
            0x00 => MAGIC,
            0x04 => VERSION,
            0x08 => registers.kind().id.into(),
            0x0c => VENDOR,
            0x10 => registers.device_features(),
            0x34 => registers.queue_max().into(),
            0x44 => registers.queue_enabled().into(),
            0x60 => lock(&self.shared.0).bits,
            0x70 => registers.status().into(),
            // There is no shared memory: its length reads as ones (4.2.2).
            0xb0..=0xbc => u32::MAX,
            0xfc => registers.generation().into(),
            _ => 0,
        }
    }

    /// Writes 1 to 8 bytes.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(at) = offset.checked_sub(CONFIG) {
            return self.registers.config_write(at, data);
        }
        if let Ok(bytes) = data.try_into() {
            self.set_register(offset, u32::from_le_bytes(bytes));
        }
    }

    fn set_register(&mut self, offset: u64, value: u32) {
        let registers = &mut self.registers;
        let word = u16::try_from(value).unwrap_or(u16::MAX);
        match offset {
            0x14 => registers.device_features_select = value,
            0x20 => registers.set_driver_features(value),
            0x24 => registers.driver_features_select = value,
            0x30 => registers.queue_select = word,
            0x38 => registers.set_queue_size(word),
            0x44 if value == 1 => registers.enable_queue(),
            0x44 => registers.disable_queue(),
            QUEUE_NOTIFY => registers.notify(word),
            0x64 => {
                let mut status = lock(&self.shared.0);
                let bits = status.bits & !value;
                status.set(bits);
            }
            0x70 if registers.set_status(value as u8) => lock(&self.shared.0).set(0),
            0x80 | 0x84 => registers.set_queue_address(RingPart::Descriptors, offset == 0x84, value),
            0x90 | 0x94 => registers.set_queue_address(RingPart::Available, offset == 0x94, value),
            0xa0 | 0xa4 => registers.set_queue_address(RingPart::Used, offset == 0xa4, value),
            _ => {}
        }
    }
}
