//! A virtio device on a PCI function, driven by bytes: they are the tables of
//! its queues, the data in its buffers, and what its driver does.
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
const NOTIFY: u64 = 0x3000;
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
        Kind::Rng => Box::new(Rng::new()),
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

struct Driver {
    function: VirtioPci,
    memory: GuestMemory,
    queues: u64,
    available: Vec<u16>,
}

impl Driver {
    fn write(&mut self, offset: u64, len: usize, value: u64) {
        self.function.memory_write(0, offset, &value.to_le_bytes()[..len]);
    }

    fn put(&self, at: u64, data: &[u8]) {
        self.memory.write(GuestPhysAddr(at), data).expect("inside memory");
    }

    /// Negotiates `features`, as far as they are offered, and all queues.
    fn start(&mut self, features: u64) {
        self.write(0x14, 1, 0);
        self.write(0x14, 1, 3);
        for half in 0..2_u64 {
            self.write(0, 4, half);
            let mut offered = [0; 4];
            self.function.memory_read(0, 4, &mut offered);
            let wanted = (features | 1 << 32) >> (32 * half);
            self.write(8, 4, half);
            self.write(0xc, 4, u64::from(u32::from_le_bytes(offered)) & wanted);
        }
        self.write(0x14, 1, 0xb);
        for queue in 0..self.queues {
            let at = QUEUES + queue * QUEUE_SPACE;
            self.put(at + 0x1000, &[0; 0x1000]);
            self.put(at + 0x2000, &[0; 0x1000]);
            self.write(0x16, 2, queue);
            self.write(0x18, 2, SIZE.into());
            self.write(0x20, 8, at);
            self.write(0x28, 8, at + 0x1000);
            self.write(0x30, 8, at + 0x2000);
            self.write(0x1c, 2, 1);
        }
        self.write(0x14, 1, 0xf);
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
        self.write(NOTIFY + 4 * queue, 2, queue);
    }
}

/// Drives a device by `bytes`.
///
/// # Panics
/// If the device does not stop when it is reset.
pub(crate) fn drive(kind: Kind, bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    let device = device(kind, folder.path()).expect("a device");
    let queues = device.queue_sizes().len();
    let memory = GuestMemory::new(MEMORY).expect("memory");
    let sink = Arc::new(|_| {});
    let function = VirtioPci::new(device, memory.clone(), Line::unconnected(), sink).expect("a function");
    let mut driver = Driver { function, memory, queues: queues as u64, available: vec![0; queues] };
    driver.function.configure(&mut 0xc000_0000, 11);
    let mut bytes = Bytes(bytes);
    driver.start(bytes.number());
    while !bytes.0.is_empty() {
        let [what, first, second, third] = bytes.take();
        match what % 16 {
            0..=5 => driver.describe(&mut bytes),
            6..=9 => driver.offer(first.into(), second),
            10 | 11 => {
                let at = DATA + u64::from(first) * 128 + u64::from(second % 16) * 8;
                driver.put(at, &bytes.take::<24>());
            }
            12 => driver.start(bytes.number()),
            13 => {
                let offset = u64::from(u16::from_le_bytes([first, second])) % 0x4000;
                driver.write(offset, 1 + usize::from(third % 8), bytes.number());
            }
            14 => {
                let offset = u64::from(u16::from_le_bytes([first, second])) % 0x4000;
                driver.function.memory_read(0, offset, &mut [0; 8][..1 + usize::from(third % 8)]);
            }
            _ => {
                driver.function.config_write(first.into(), 1, second.into());
                driver.function.config_read(first.into(), 1 + third % 4);
            }
        }
    }
    let start = Instant::now();
    driver.function.reset();
    assert!(start.elapsed() < PATIENCE, "the device does not stop");
}
