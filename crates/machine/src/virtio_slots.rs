//! Virtio devices in their places: PCI slots from 1 on, or register pages of
//! their own.

use std::sync::{Arc, Mutex};

use chipset::acpi::VirtioMmio as MmioDescription;
use chipset::pci::{MsiSink, PciBus, PciSlot, PlacedBell};
use memory::GuestMemory;
use virtio::VirtioDevice;
use virtio::mmio::{self, VirtioMmio};
use virtio::pci::VirtioPci;

use crate::MachineError;
use crate::interrupts::Interrupts;
use crate::intx::{IntxLines, WiredOr};
use crate::sync::lock;

/// The most virtio devices on the PCI bus; slot 0 is the host bridge's.
pub const MAX_PCI_DEVICES: usize = 31;
/// The most virtio devices in registers of their own.
pub const MAX_MMIO_DEVICES: usize = 32;

/// The first register page.
const MMIO_BASE: u32 = 0xfe00_0000;
/// The interrupts of the ISA bus that are free. Devices take turns, and share
/// them from the seventh on.
const MMIO_IRQS: [u8; 6] = [5, 6, 7, 3, 14, 15];

/// By what a guest reaches a virtio device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// As a function on the PCI bus.
    #[default]
    Pci,
    /// By memory-mapped registers, which ACPI tells of.
    Mmio,
}

/// A virtio device for a machine.
pub struct VirtioSlot {
    /// The device.
    pub device: Box<dyn VirtioDevice>,
    /// How the guest reaches it.
    pub transport: Transport,
}

impl VirtioSlot {
    /// `device`, reached by `transport`.
    pub fn new(device: impl VirtioDevice + 'static, transport: Transport) -> Self {
        Self { device: Box::new(device), transport }
    }
}

/// Address and interrupt of the MMIO device `index`.
fn mmio_place(index: usize) -> Option<(u32, u8)> {
    let irq = *MMIO_IRQS.get(index % MMIO_IRQS.len())?;
    let number = u32::try_from(index).ok().filter(|_| index < MAX_MMIO_DEVICES)?;
    Some((MMIO_BASE + mmio::SIZE as u32 * number, irq))
}

/// What ACPI tells of the devices that no bus finds.
pub(crate) fn describe(slots: &[VirtioSlot]) -> Vec<MmioDescription> {
    let devices = slots.iter().filter(|slot| slot.transport == Transport::Mmio);
    let places = devices.enumerate().filter_map(|(index, _)| mmio_place(index));
    places.map(|(address, irq)| MmioDescription { address, interrupt: irq.into() }).collect()
}

/// Puts all devices in their places.
pub(crate) fn place(
    slots: Vec<VirtioSlot>,
    memory: &GuestMemory,
    interrupts: &Arc<Interrupts>,
) -> Result<(PciBus, MmioDevices), MachineError> {
    let (on_pci, own): (Vec<_>, Vec<_>) =
        slots.into_iter().partition(|slot| slot.transport == Transport::Pci);
    let mut bus = PciBus::new();
    let lines = IntxLines::new(Arc::clone(interrupts));
    let too_many = |asked, most, transport| MachineError::Slots { asked, most, transport };
    let asked = on_pci.len();
    for (number, slot) in (1_u8..).zip(on_pci) {
        let full = || too_many(asked, MAX_PCI_DEVICES, "PCI");
        let place = PciSlot::new(number, 0).ok_or_else(full)?;
        let function = VirtioPci::new(slot.device, memory.clone(), lines.line(number), messages(interrupts));
        bus.insert(place, Box::new(function.map_err(MachineError::Virtio)?)).map_err(|_| full())?;
    }
    let mut devices = Vec::new();
    let shared = MMIO_IRQS.map(|irq| WiredOr::new(interrupts.line(irq)));
    let asked = own.len();
    for (index, slot) in own.into_iter().enumerate() {
        let full = || too_many(asked, MAX_MMIO_DEVICES, "MMIO");
        let (address, _) = mmio_place(index).ok_or_else(full)?;
        let line = shared.get(index % MMIO_IRQS.len()).ok_or_else(full)?.input(index as u32);
        let device = VirtioMmio::new(slot.device, memory.clone(), line);
        devices.push((u64::from(address), Mutex::new(device.map_err(MachineError::Virtio)?)));
    }
    Ok((bus, MmioDevices(devices)))
}

fn messages(interrupts: &Arc<Interrupts>) -> MsiSink {
    let interrupts = Arc::clone(interrupts);
    Arc::new(move |message| interrupts.message(message))
}

/// The devices in registers of their own, each with its address.
pub(crate) struct MmioDevices(Vec<(u64, Mutex<VirtioMmio>)>);

impl MmioDevices {
    fn find(&self, at: u64) -> Option<(u64, &Mutex<VirtioMmio>)> {
        self.0.iter().find_map(|(base, device)| {
            let offset = at.checked_sub(*base).filter(|offset| *offset < mmio::SIZE)?;
            Some((offset, device))
        })
    }

    pub(crate) fn read(&self, at: u64, data: &mut [u8]) -> bool {
        let found = self.find(at);
        if let Some((offset, device)) = found {
            lock(device).read(offset, data);
        }
        found.is_some()
    }

    pub(crate) fn write(&self, at: u64, data: &[u8]) -> bool {
        let found = self.find(at);
        if let Some((offset, device)) = found {
            lock(device).write(offset, data);
        }
        found.is_some()
    }

    /// Their doorbells, at their places.
    pub(crate) fn bells(&self) -> Vec<PlacedBell> {
        let of_device = |(base, device): &(u64, Mutex<VirtioMmio>)| {
            let at = base + mmio::QUEUE_NOTIFY;
            let bells = lock(device).bells().into_iter();
            bells.map(move |(queue, bell)| PlacedBell { at, value: Some(queue), bell }).collect::<Vec<_>>()
        };
        self.0.iter().flat_map(of_device).collect()
    }

    pub(crate) fn reset(&self) {
        self.0.iter().for_each(|(_, device)| lock(device).reset());
    }
}
