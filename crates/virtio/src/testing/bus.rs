//! How a driver reaches a device's registers: over PCI or over MMIO.

use std::sync::{Arc, Mutex};

use chipset::pci::{MsiMessage, PciFunction};
use chipset::{Line, LineTarget};
use memory::GuestMemory;

use crate::mmio::VirtioMmio;
use crate::pci::VirtioPci;
use crate::{VirtioDevice, lock};

/// Which transport a test is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Pci,
    Mmio,
}

/// Makes two tests of each function: one for each transport.
macro_rules! over_each_transport {
    ($($test:ident),+ $(,)?) => {
        mod over_pci {
            $(#[test] fn $test() { super::$test(crate::testing::Transport::Pci); })+
        }
        mod over_mmio {
            $(#[test] fn $test() { super::$test(crate::testing::Transport::Mmio); })+
        }
    };
}
pub(crate) use over_each_transport;

const PCI_DEVICE: u64 = 0x2000;
const PCI_NOTIFY: u64 = 0x3000;
const PCI_ISR: u64 = 0x1000;
const MMIO_DEVICE: u64 = 0x100;

/// The level of an interrupt line, and how often it rose.
#[derive(Debug, Default)]
pub(crate) struct Watched(Mutex<(bool, u32)>);

impl Watched {
    pub(crate) fn level(&self) -> bool {
        lock(&self.0).0
    }

    pub(crate) fn rises(&self) -> u32 {
        lock(&self.0).1
    }
}

impl LineTarget for Watched {
    fn set_level(&self, _input: u32, level: bool) {
        let mut state = lock(&self.0);
        state.1 += u32::from(level && !state.0);
        state.0 = level;
    }
}

enum Registers {
    Pci(Box<VirtioPci>),
    Mmio(Box<VirtioMmio>),
}

/// A device's registers, and where its interrupts arrive.
pub(crate) struct Bus {
    registers: Registers,
    pub(crate) line: Arc<Watched>,
    pub(crate) messages: Arc<Mutex<Vec<MsiMessage>>>,
}

impl Bus {
    pub(crate) fn new(on: Transport, device: Box<dyn VirtioDevice>, memory: GuestMemory) -> Self {
        let line = Arc::new(Watched::default());
        let interrupt = Line::new(line.clone(), 0);
        let messages: Arc<Mutex<Vec<MsiMessage>>> = Arc::default();
        let sink = Arc::clone(&messages);
        let sink = Arc::new(move |message| lock(&sink).push(message));
        let registers = match on {
            Transport::Pci => {
                let mut function = VirtioPci::new(device, memory, interrupt, sink).unwrap();
                function.configure(&mut 0xc000_0000, 11);
                Registers::Pci(Box::new(function))
            }
            Transport::Mmio => Registers::Mmio(Box::new(VirtioMmio::new(device, memory, interrupt).unwrap())),
        };
        Self { registers, line, messages }
    }

    /// The function, of a test that is about PCI.
    pub(crate) fn function(&mut self) -> &mut VirtioPci {
        match &mut self.registers {
            Registers::Pci(function) => function,
            Registers::Mmio(_) => panic!("this test is about PCI"),
        }
    }

    /// Reads a register that lies at `pci` or at `mmio`.
    fn read(&mut self, (pci, len): (u64, usize), mmio: u64) -> u64 {
        let mut data = [0; 8];
        match &mut self.registers {
            Registers::Pci(function) => function.memory_read(0, pci, &mut data[..len]),
            Registers::Mmio(device) => device.read(mmio, &mut data[..4]),
        }
        u64::from_le_bytes(data)
    }

    fn write(&mut self, (pci, len): (u64, usize), mmio: u64, value: u64) {
        let bytes = value.to_le_bytes();
        match &mut self.registers {
            Registers::Pci(function) => function.memory_write(0, pci, &bytes[..len]),
            Registers::Mmio(device) => device.write(mmio, &bytes[..4]),
        }
    }

    pub(crate) fn status(&mut self) -> u64 {
        self.read((0x14, 1), 0x70)
    }

    pub(crate) fn set_status(&mut self, value: u64) {
        self.write((0x14, 1), 0x70, value);
    }

    pub(crate) fn offered(&mut self) -> u64 {
        self.write((0, 4), 0x14, 1);
        let high = self.read((4, 4), 0x10);
        self.write((0, 4), 0x14, 0);
        high << 32 | self.read((4, 4), 0x10)
    }

    pub(crate) fn accept(&mut self, features: u64) {
        for half in 0..2 {
            self.write((8, 4), 0x24, half);
            self.write((0xc, 4), 0x20, features >> (32 * half) & 0xffff_ffff);
        }
    }

    pub(crate) fn select_queue(&mut self, queue: u64) {
        self.write((0x16, 2), 0x30, queue);
    }

    /// The largest size of the selected queue, before one was chosen.
    pub(crate) fn queue_max(&mut self) -> u64 {
        self.read((0x18, 2), 0x34)
    }

    pub(crate) fn set_queue_size(&mut self, size: u64) {
        self.write((0x18, 2), 0x38, size);
    }

    /// Descriptors, available ring, used ring.
    pub(crate) fn set_queue_addresses(&mut self, addresses: [u64; 3]) {
        for (part, address) in (0..).zip(addresses) {
            for half in [0, 4] {
                let (pci, mmio) = (0x20 + 8 * part + half, 0x80 + 0x10 * part + half);
                self.write((pci, 4), mmio, address >> (8 * half) & 0xffff_ffff);
            }
        }
    }

    pub(crate) fn enable_queue(&mut self) {
        self.write((0x1c, 2), 0x44, 1);
    }

    pub(crate) fn queue_is_enabled(&mut self) -> bool {
        self.read((0x1c, 2), 0x44) == 1
    }

    pub(crate) fn notify(&mut self, queue: u64) {
        self.write((PCI_NOTIFY + 4 * queue, 2), 0x50, queue);
    }

    pub(crate) fn generation(&mut self) -> u64 {
        self.read((0x15, 1), 0xfc)
    }

    /// Takes the causes of the interrupt: 1 for used buffers, 2 for a change.
    pub(crate) fn take_causes(&mut self) -> u64 {
        let causes = self.causes();
        if matches!(self.registers, Registers::Mmio(_)) {
            self.acknowledge(causes);
        }
        causes
    }

    /// Reads the causes, which over PCI takes them.
    pub(crate) fn causes(&mut self) -> u64 {
        self.read((PCI_ISR, 1), 0x60)
    }

    /// MMIO's way to take causes.
    pub(crate) fn acknowledge(&mut self, causes: u64) {
        self.write((0, 0), 0x64, causes);
    }

    pub(crate) fn config(&mut self, offset: u64, data: &mut [u8]) {
        match &mut self.registers {
            Registers::Pci(function) => function.memory_read(0, PCI_DEVICE + offset, data),
            Registers::Mmio(device) => device.read(MMIO_DEVICE + offset, data),
        }
    }

    pub(crate) fn set_config(&mut self, offset: u64, data: &[u8]) {
        match &mut self.registers {
            Registers::Pci(function) => function.memory_write(0, PCI_DEVICE + offset, data),
            Registers::Mmio(device) => device.write(MMIO_DEVICE + offset, data),
        }
    }

    pub(crate) fn reset(&mut self) {
        match &mut self.registers {
            Registers::Pci(function) => function.reset(),
            Registers::Mmio(device) => device.reset(),
        }
    }
}
