//! A virtio device on a PCI function or in registers of its own, driven by
//! bytes: they are the tables of its queues, the data in its buffers, and what
//! its driver does.
//!
//! The fuzz targets and a test of the crate share this file.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chipset::Line;
use chipset::pci::PciFunction;
use memory::GuestMemory;
use network::user::{Reach, UserConfig, UserNet};
use storage::{Disk, DiskFormat, DiskOptions};
use virtio::VirtioDevice;
use virtio::balloon::Balloon;
use virtio::blk::Block;
use virtio::console::{Console, Port, PortInput};
use virtio::fs::SharedFolder;
use virtio::mmio::VirtioMmio;
use virtio::net::Net;
use virtio::pci::VirtioPci;
use virtio::rng::Rng;
use virtio::vsock::{GUEST_CID, Vsock};
use x86::GuestPhysAddr;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const MEMORY: u64 = 2 << 20;
const QUEUES: u64 = 0x1_0000;
const QUEUE_SPACE: u64 = 0x4000;
const DATA: u64 = 1 << 20;
const SIZE: u16 = 16;
/// How long a device may take for what a driver has thrown at it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Which device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "each fuzz target uses one")]
pub(crate) enum Kind {
    Block,
    Rng,
    Console,
    Balloon,
    Vsock,
    Fs,
    Net,
}

#[allow(dead_code, reason = "for the test")]
pub(crate) const ALL: [Kind; 7] =
    [Kind::Block, Kind::Rng, Kind::Console, Kind::Balloon, Kind::Vsock, Kind::Fs, Kind::Net];

fn device(kind: Kind, folder: &Path) -> io::Result<Box<dyn VirtioDevice>> {
    Ok(match kind {
        Kind::Block => {
            let path = folder.join("disk");
            fs::write(&path, vec![0; 64 << 10])?;
            let options = DiskOptions { path, format: Some(DiskFormat::Raw), ..DiskOptions::default() };
            Box::new(Block::new(Arc::new(Disk::open(&options).map_err(io::Error::other)?), 2, "fuzz"))
        }
        Kind::Rng => Box::new(Rng::new(None)),
        Kind::Console => {
            let input = PortInput::new()?;
            input.push(b"what somebody typed");
            let console = Port::console(Box::new(io::sink()), input);
            let channel = Port::channel("channel", Box::new(io::sink()), PortInput::new()?);
            Box::new(Console::new(vec![console, channel]))
        }
        Kind::Balloon => Box::new(Balloon::new(1 << 20)),
        Kind::Vsock => Box::new(Vsock::new(GUEST_CID, &folder.join("vsock"))?),
        // A network that leads nowhere.
        Kind::Net => {
            let config = UserConfig { reach: Reach::Nothing, ..UserConfig::new(MAC) };
            let network = UserNet::new(config).map_err(io::Error::other)?;
            Box::new(Net::new(MAC, Box::new(network)))
        }
        Kind::Fs => {
            fs::write(folder.join("file"), b"contents")?;
            Box::new(SharedFolder::new(folder, "tag", false)?)
        }
    })
}

/// Bytes, taken one after the other; zeroes when there are no more.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        let count = N.min(self.0.len());
        taken[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        taken
    }

    fn number(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

/// A register: where it is, and its width.
type Register = (u64, usize);

/// Where a transport has its registers (4.1.4.3, 4.2.2).
struct Map {
    device_select: Register,
    device_features: Register,
    driver_select: Register,
    driver_features: Register,
    status: Register,
    queue_select: Register,
    queue_size: Register,
    queue_ready: Register,
    /// Descriptors; the rings are one and two steps behind.
    addresses: u64,
    address_step: u64,
    notify: u64,
    notify_step: u64,
    length: u64,
}

const PCI: Map = Map {
    device_select: (0x00, 4),
    device_features: (0x04, 4),
    driver_select: (0x08, 4),
    driver_features: (0x0c, 4),
    status: (0x14, 1),
    queue_select: (0x16, 2),
    queue_size: (0x18, 2),
    queue_ready: (0x1c, 2),
    addresses: 0x20,
    address_step: 8,
    notify: 0x3000,
    notify_step: 4,
    length: 0x4000,
};

const MMIO: Map = Map {
    device_select: (0x14, 4),
    device_features: (0x10, 4),
    driver_select: (0x24, 4),
    driver_features: (0x20, 4),
    status: (0x70, 4),
    queue_select: (0x30, 4),
    queue_size: (0x38, 4),
    queue_ready: (0x44, 4),
    addresses: 0x80,
    address_step: 0x10,
    notify: 0x50,
    notify_step: 0,
    length: 0x200,
};

enum Bus {
    Pci(Box<VirtioPci>),
    Mmio(Box<VirtioMmio>),
}

impl Bus {
    fn map(&self) -> &'static Map {
        match self {
            Self::Pci(_) => &PCI,
            Self::Mmio(_) => &MMIO,
        }
    }

    fn read(&mut self, offset: u64, data: &mut [u8]) {
        match self {
            Self::Pci(function) => function.memory_read(0, offset, data),
            Self::Mmio(device) => device.read(offset, data),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match self {
            Self::Pci(function) => function.memory_write(0, offset, data),
            Self::Mmio(device) => device.write(offset, data),
        }
    }

    fn set(&mut self, (offset, len): Register, value: u64) {
        self.write(offset, &value.to_le_bytes()[..len]);
    }

    /// The function's own registers.
    fn configure(&mut self, first: u8, second: u8, third: u8) {
        if let Self::Pci(function) = self {
            function.config_write(first.into(), 1, second.into());
            function.config_read(first.into(), 1 + third % 4);
        }
    }

    fn reset(&mut self) {
        match self {
            Self::Pci(function) => function.reset(),
            Self::Mmio(device) => device.reset(),
        }
    }
}

struct Driver {
    bus: Bus,
    memory: GuestMemory,
    queues: u64,
    available: Vec<u16>,
}

impl Driver {
    fn put(&self, at: u64, data: &[u8]) {
        self.memory.write(GuestPhysAddr(at), data).expect("inside memory");
    }

    /// Negotiates `features`, as far as they are offered, and all queues.
    fn start(&mut self, features: u64) {
        let map = self.bus.map();
        self.bus.set(map.status, 0);
        self.bus.set(map.status, 3);
        for half in 0..2_u64 {
            self.bus.set(map.device_select, half);
            let mut offered = [0; 4];
            self.bus.read(map.device_features.0, &mut offered);
            let wanted = (features | 1 << 32) >> (32 * half);
            self.bus.set(map.driver_select, half);
            self.bus.set(map.driver_features, u64::from(u32::from_le_bytes(offered)) & wanted);
        }
        self.bus.set(map.status, 0xb);
        for queue in 0..self.queues {
            let at = QUEUES + queue * QUEUE_SPACE;
            self.put(at + 0x1000, &[0; 0x2000]);
            self.bus.set(map.queue_select, queue);
            self.bus.set(map.queue_size, SIZE.into());
            for part in 0..3 {
                self.bus.set((map.addresses + part * map.address_step, 4), at + part * 0x1000);
            }
            self.bus.set(map.queue_ready, 1);
        }
        self.bus.set(map.status, 0xf);
        self.available.fill(0);
    }

    /// A descriptor: mostly sensible, now and then anything.
    fn describe(&self, bytes: &mut Bytes<'_>) {
        let [queue, index, kind, flags, next, len, ..] = bytes.take::<8>();
        let number = bytes.number();
        let (at, len) = match kind % 8 {
            0 => (number, number as u32),
            1 => (DATA + number % 0x8000, u32::MAX),
            2 => (MEMORY - 16, u32::from(len)),
            3 => (QUEUES, u32::from(len) * 16),
            _ => (DATA + number % 0x8000, u32::from(len) * u32::from(kind >> 3)),
        };
        let table = QUEUES + u64::from(queue) % self.queues * QUEUE_SPACE;
        let slot = table + 16 * (u64::from(index) % u64::from(SIZE));
        self.put(slot, &at.to_le_bytes());
        self.put(slot + 8, &len.to_le_bytes());
        self.put(slot + 12, &[flags & 7, 0, next % 20, 0]);
    }

    fn offer(&mut self, queue: u64, head: u8) {
        let queue = queue % self.queues;
        let ring = QUEUES + queue * QUEUE_SPACE + 0x1000;
        let index = self.available[queue as usize];
        self.put(ring + 4 + 2 * u64::from(index % SIZE), &[head % 17, 0]);
        self.available[queue as usize] = index.wrapping_add(1);
        self.put(ring + 2, &index.wrapping_add(1).to_le_bytes());
        let map = self.bus.map();
        // Over PCI the width does not matter.
        self.bus.set((map.notify + map.notify_step * queue, 4), queue);
    }
}

/// Drives a device by `bytes`, of which the first chooses the transport.
///
/// # Panics
/// If the device does not stop when it is reset.
pub(crate) fn drive(kind: Kind, bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    let device = device(kind, folder.path()).expect("a device");
    let queues = device.queue_sizes().len();
    let memory = GuestMemory::new(MEMORY).expect("memory");
    let mut bytes = Bytes(bytes);
    let [transport] = bytes.take();
    let bus = bus(transport % 2 == 0, device, memory.clone()).expect("a transport");
    let mut driver = Driver { bus, memory, queues: queues as u64, available: vec![0; queues] };
    driver.start(bytes.number());
    while !bytes.0.is_empty() {
        step(&mut driver, &mut bytes);
    }
    let start = Instant::now();
    driver.bus.reset();
    assert!(start.elapsed() < PATIENCE, "the device does not stop");
}

fn bus(pci: bool, device: Box<dyn VirtioDevice>, memory: GuestMemory) -> io::Result<Bus> {
    if !pci {
        return Ok(Bus::Mmio(Box::new(VirtioMmio::new(device, memory, Line::unconnected())?)));
    }
    let mut function = VirtioPci::new(device, memory, Line::unconnected(), Arc::new(|_| {}))?;
    function.configure(&mut 0xc000_0000, 11);
    Ok(Bus::Pci(Box::new(function)))
}

/// One thing that a driver does.
fn step(driver: &mut Driver, bytes: &mut Bytes<'_>) {
    let [what, first, second, third] = bytes.take();
    let len = 1 + usize::from(third % 8);
    match what % 16 {
        0..=5 => driver.describe(bytes),
        6..=9 => driver.offer(first.into(), second),
        10 | 11 => {
            let at = DATA + u64::from(first) * 128 + u64::from(second % 16) * 8;
            driver.put(at, &bytes.take::<24>());
        }
        12 => driver.start(bytes.number()),
        13 | 14 => {
            let offset = u64::from(u16::from_le_bytes([first, second])) % driver.bus.map().length;
            match what % 2 {
                0 => driver.bus.read(offset, &mut [0; 8][..len]),
                _ => driver.bus.set((offset, len), bytes.number()),
            }
        }
        _ => driver.bus.configure(first, second, third),
    }
}
