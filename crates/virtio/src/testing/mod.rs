//! A driver for tests: it finds a device on a PCI bus or in registers of its
//! own, negotiates, and puts chains into its queues.

mod bus;

use std::time::{Duration, Instant};

use chipset::pci::PciFunction;
use memory::GuestMemory;
use x86::GuestPhysAddr;

pub(crate) use bus::{Bus, Transport, over_each_transport};

use crate::{VirtioDevice, lock};

pub(crate) const MIB: u64 = 1 << 20;
const QUEUES: u64 = 0x1_0000;
const QUEUE_SPACE: u64 = 0x4000;
const DATA: u64 = MIB;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// A descriptor as it lies in memory.
pub(crate) type RawDescriptor = (u64, u32, u16, u16);

/// A device with a driver that uses it.
pub(crate) struct Driver {
    pub(crate) bus: Bus,
    pub(crate) memory: GuestMemory,
    size: u16,
    available: Vec<u16>,
    used: Vec<u16>,
}

impl Driver {
    /// Takes `device` as far as DRIVER_OK with all queues and `features`.
    pub(crate) fn new(on: Transport, device: impl VirtioDevice + 'static, features: u64) -> Self {
        let mut driver = Self::found(on, device);
        driver.start(features);
        driver
    }

    /// A device that is found, but not started.
    pub(crate) fn found(on: Transport, device: impl VirtioDevice + 'static) -> Self {
        let memory = GuestMemory::new(16 * MIB).unwrap();
        let queues = device.queue_sizes().len();
        let bus = Bus::new(on, Box::new(device), memory.clone());
        Self { bus, memory, size: 16, available: vec![0; queues], used: vec![0; queues] }
    }

    pub(crate) fn config(&mut self, offset: u64, len: usize) -> u64 {
        let mut data = [0; 8];
        self.bus.config(offset, &mut data[..len]);
        u64::from_le_bytes(data)
    }

    pub(crate) fn status(&mut self) -> u64 {
        self.bus.status()
    }

    pub(crate) fn start(&mut self, features: u64) {
        for status in [0, 1, 3] {
            self.bus.set_status(status);
        }
        self.bus.accept(features);
        self.bus.set_status(0xb);
        assert_eq!(self.status(), 0xb, "features are accepted");
        for queue in 0..self.available.len() as u64 {
            self.set_up_queue(queue);
        }
        self.bus.set_status(0xf);
        self.available.fill(0);
        self.used.fill(0);
    }

    fn set_up_queue(&mut self, queue: u64) {
        let at = QUEUES + queue * QUEUE_SPACE;
        self.memory.write(GuestPhysAddr(at), &vec![0; QUEUE_SPACE as usize]).unwrap();
        self.bus.select_queue(queue);
        let size = self.bus.queue_max().min(16);
        self.size = size as u16;
        self.bus.set_queue_size(size);
        self.bus.set_queue_addresses([at, at + 0x1000, at + 0x2000]);
        self.bus.enable_queue();
    }

    /// Switches MSI-X on: queue *n* has vector *n*, whose message is *n*.
    pub(crate) fn use_msix(&mut self) {
        let at = self.capability(0x11);
        let queues = self.available.len() as u64;
        let function = self.bus.function();
        function.config_write(at + 2, 2, 0x8000);
        for queue in 0..queues {
            let entry = queue * 16;
            for (field, value) in [(0, 0xfee0_0000), (4, 0), (8, queue as u32), (12, 0_u32)] {
                function.memory_write(1, entry + field, &value.to_le_bytes());
            }
            function.memory_write(0, 0x16, &(queue as u16).to_le_bytes());
            function.memory_write(0, 0x1a, &(queue as u16).to_le_bytes());
        }
    }

    /// Switches MSI on, with this message.
    pub(crate) fn use_msi(&mut self, message: u16) {
        let at = self.capability(0x05);
        let function = self.bus.function();
        for (field, size, value) in
            [(4, 4, 0xfee0_0000), (8, 4, 0), (12, 2, u32::from(message)), (2, 2, 0x81)]
        {
            function.config_write(at + field, size, value);
        }
    }

    /// Where the function's capability `id` is.
    pub(crate) fn capability(&mut self, id: u32) -> u16 {
        let function = self.bus.function();
        let mut at = function.config_read(0x34, 1) as u16;
        while function.config_read(at, 1) != id {
            at = function.config_read(at + 1, 1) as u16;
            assert_ne!(at, 0, "no capability {id:#x}");
        }
        at
    }

    /// The messages that have come so far.
    pub(crate) fn messages(&self) -> Vec<u32> {
        lock(&self.bus.messages).iter().map(|message| message.data).collect()
    }

    /// Where buffer `index` of the test's data is; they are 64 KiB apart.
    pub(crate) fn buffer(index: u64) -> u64 {
        DATA + index * 0x1_0000
    }

    pub(crate) fn put(&self, at: u64, data: &[u8]) {
        self.memory.write(GuestPhysAddr(at), data).unwrap();
    }

    pub(crate) fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.memory.read(GuestPhysAddr(at), &mut data).unwrap();
        data
    }

    /// Writes descriptor `index` of a queue's table.
    pub(crate) fn describe(&self, queue: u64, index: u64, descriptor: RawDescriptor) {
        self.describe_at(QUEUES + queue * QUEUE_SPACE + 16 * index, descriptor);
    }

    pub(crate) fn describe_at(&self, at: u64, (address, len, flags, next): RawDescriptor) {
        self.put(at, &address.to_le_bytes());
        self.put(at + 8, &len.to_le_bytes());
        self.put(at + 12, &flags.to_le_bytes());
        self.put(at + 14, &next.to_le_bytes());
    }

    /// Makes the chain at `head` available and rings.
    pub(crate) fn offer(&mut self, queue: u64, head: u16) {
        let ring = QUEUES + queue * QUEUE_SPACE + 0x1000;
        let index = self.available[queue as usize];
        self.put(ring + 4 + 2 * u64::from(index % self.size), &head.to_le_bytes());
        self.available[queue as usize] = index.wrapping_add(1);
        self.put(ring + 2, &index.wrapping_add(1).to_le_bytes());
        self.bus.notify(queue);
    }

    /// Offers buffers, those to read first, as a chain from descriptor 0 on.
    pub(crate) fn send(&mut self, queue: u64, readable: &[(u64, u32)], writable: &[(u64, u32)]) {
        let count = readable.len() + writable.len();
        let all =
            readable.iter().map(|buffer| (buffer, 0)).chain(writable.iter().map(|buffer| (buffer, WRITE)));
        for (index, (&(at, len), flags)) in all.enumerate() {
            let next = if index + 1 < count { NEXT } else { 0 };
            self.describe(queue, index as u64, (at, len, flags | next, index as u16 + 1));
        }
        self.offer(queue, 0);
    }

    /// The same by an indirect table.
    pub(crate) fn send_indirect(&mut self, queue: u64, readable: &[(u64, u32)], writable: &[(u64, u32)]) {
        let table = Self::buffer(100);
        let count = readable.len() + writable.len();
        let all =
            readable.iter().map(|buffer| (buffer, 0)).chain(writable.iter().map(|buffer| (buffer, WRITE)));
        for (index, (&(at, len), flags)) in all.enumerate() {
            let next = if index + 1 < count { NEXT } else { 0 };
            self.describe_at(table + 16 * index as u64, (at, len, flags | next, index as u16 + 1));
        }
        self.describe(queue, 0, (table, 16 * count as u32, INDIRECT, 0));
        self.offer(queue, 0);
    }

    /// Waits for the next used chain: its head and how much was written.
    pub(crate) fn used(&mut self, queue: u64) -> (u32, u32) {
        self.used_within(queue, Duration::from_secs(10)).expect("the device answers")
    }

    pub(crate) fn used_within(&mut self, queue: u64, limit: Duration) -> Option<(u32, u32)> {
        let ring = QUEUES + queue * QUEUE_SPACE + 0x2000;
        let end = Instant::now() + limit;
        let seen = self.used[queue as usize];
        while self.get(ring + 2, 2) == seen.to_le_bytes() {
            if Instant::now() > end {
                return None;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        self.used[queue as usize] = seen.wrapping_add(1);
        let entry = self.get(ring + 4 + 8 * u64::from(seen % self.size), 8);
        let number = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().unwrap());
        Some((number(0), number(4)))
    }

    /// Waits until the device asks for a reset.
    pub(crate) fn wait_for_failure(&mut self) {
        let end = Instant::now() + Duration::from_secs(10);
        while self.status() & 0x40 == 0 {
            assert!(Instant::now() < end, "the device takes everything");
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}
