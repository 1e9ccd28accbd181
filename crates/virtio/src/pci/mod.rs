//! Virtio over PCI (4.1): a modern function, without the legacy interface.
//!
//! BAR 0 has the four structures, each in a page of its own; BAR 1 the MSI-X
//! table. Interrupts are MSI-X, or MSI, or INTA by level until the ISR status
//! is read, whichever the guest has switched on.

mod common;
mod interrupts;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use chipset::Line;
use chipset::pci::{ConfigSpace, Identity, MSIX_REGION, MemoryRange, MsiSink, PciFunction, RegisterBell};
use memory::GuestMemory;

use crate::registers::Registers;
use crate::{Interrupt, VirtioDevice};
use interrupts::{FunctionInterrupts, Shared};

/// Red Hat's vendor ID, which virtio uses (4.1.2).
const VENDOR: u16 = 0x1af4;
/// Device IDs of modern devices are this plus the device type.
const MODERN: u16 = 0x1040;
const REVISION: u8 = 1;

const REGISTER_BAR: u8 = 0;
const MSIX_BAR: u8 = 1;
const PAGE: u64 = 0x1000;
/// The structures' pages in BAR 0.
const COMMON: u64 = 0;
const ISR: u64 = PAGE;
const DEVICE: u64 = 2 * PAGE;
const NOTIFY: u64 = 3 * PAGE;
const REGISTERS: u32 = 4 * PAGE as u32;
/// Each queue has a notification address of its own, this far apart.
const NOTIFY_STEP: u32 = 4;

// Types of virtio's capabilities (4.1.4).
const CFG_COMMON: u8 = 1;
const CFG_NOTIFY: u8 = 2;
const CFG_ISR: u8 = 3;
const CFG_DEVICE: u8 = 4;
const CFG_PCI: u8 = 5;
const VENDOR_CAPABILITY: u8 = 0x09;
const EXPRESS_CAPABILITY: u8 = 0x10;
const POWER_CAPABILITY: u8 = 0x01;

/// A virtio device as a PCI function.
pub struct VirtioPci {
    config: ConfigSpace,
    registers: Registers,
    shared: Arc<Shared>,
    /// Offset of the capability that is a window onto the BARs.
    window: u16,
}

impl VirtioPci {
    /// A function for `device`. Interrupts go to `messages`, or to `line` if
    /// the guest does not use messages.
    ///
    /// # Errors
    /// If the host has no more file descriptors.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: GuestMemory,
        line: Line,
        messages: MsiSink,
    ) -> io::Result<Self> {
        let kind = device.kind();
        let queues = u16::try_from(device.queue_sizes().len()).unwrap_or(u16::MAX);
        let mut config = ConfigSpace::new(Identity {
            vendor: VENDOR,
            device: MODERN + kind.id,
            revision: REVISION,
            class: kind.pci_class,
            subsystem: (VENDOR, MODERN + kind.id),
        });
        config.add_memory_bar(REGISTER_BAR, REGISTERS);
        config.add_memory_bar(MSIX_BAR, MSIX_REGION);
        config.use_interrupt_pin();
        let interrupts = FunctionInterrupts::new(&mut config, queues, MSIX_BAR, line, messages);
        let window = add_capabilities(&mut config);
        let shared = Arc::new(Shared::new(interrupts));
        let interrupt = Interrupt::new(Box::new(Arc::clone(&shared)));
        let registers = Registers::new(device, memory, interrupt)?;
        Ok(Self { config, registers, shared, window })
    }

    fn register_read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match offset & !(PAGE - 1) {
            COMMON => self.common_read(offset, data),
            ISR if offset == ISR => {
                if let Some(byte) = data.first_mut() {
                    *byte = self.shared.take_isr();
                }
                self.config.show_interrupt(false);
            }
            DEVICE => self.registers.config_read(offset - DEVICE, data),
            _ => {}
        }
    }

    fn register_write(&mut self, offset: u64, data: &[u8]) {
        match offset & !(PAGE - 1) {
            COMMON => self.common_write(offset, data),
            DEVICE => self.registers.config_write(offset - DEVICE, data),
            NOTIFY => {
                let queue = (offset - NOTIFY) / u64::from(NOTIFY_STEP);
                self.registers.notify(u16::try_from(queue).unwrap_or(u16::MAX));
            }
            _ => {}
        }
    }

    /// What the window capability shows: BAR, offset, length.
    fn window(&self) -> Option<(u8, u64, usize)> {
        let bar = self.config.read(self.window + 4, 1) as u8;
        let offset = u64::from(self.config.read(self.window + 8, 4));
        let len = self.config.read(self.window + 12, 4);
        let known = matches!(len, 1 | 2 | 4) && offset.is_multiple_of(u64::from(len));
        known.then_some((bar, offset, len as usize))
    }

    /// Whether an access touches the window's data.
    fn is_window(&self, offset: u16, size: u8) -> bool {
        let data = self.window + 16;
        offset < data + 4 && offset + u16::from(size) > data
    }

    fn show_interrupt(&mut self) {
        let asserted = self.shared.line_is_asserted();
        self.config.show_interrupt(asserted);
    }
}

/// A virtio capability: what follows its identity and its link (4.1.4).
fn structure(kind: u8, page: u64, length: u32, more: &[u8]) -> Vec<u8> {
    let mut body = vec![16 + more.len() as u8, kind, REGISTER_BAR, 0, 0, 0];
    body.extend((page as u32).to_le_bytes());
    body.extend(length.to_le_bytes());
    body.extend(more);
    body
}

/// Virtio's capabilities, power management, and that of PCI Express; returns
/// where the window is.
fn add_capabilities(config: &mut ConfigSpace) -> u16 {
    let page = PAGE as u32;
    for (kind, at, more) in [
        (CFG_COMMON, COMMON, &[] as &[u8]),
        (CFG_NOTIFY, NOTIFY, &NOTIFY_STEP.to_le_bytes()),
        (CFG_ISR, ISR, &[]),
        (CFG_DEVICE, DEVICE, &[]),
    ] {
        config.add_capability(VENDOR_CAPABILITY, &structure(kind, at, page, more), &[]);
    }
    // The window: BAR, offset and length are the guest's; the data is handled
    // at each access.
    let mut writable = [0; 14];
    writable[2] = 0xff;
    writable[6..].fill(0xff);
    let window = config.add_capability(VENDOR_CAPABILITY, &structure(CFG_PCI, 0, 0, &[0; 4]), &writable);
    // Version 3; no soft reset between power states D3hot and D0.
    config.add_capability(POWER_CAPABILITY, &[0x03, 0x00, 0x08, 0x00, 0x00, 0x00], &[0, 0, 0x03]);
    // A root complex integrated endpoint, version 2, with role-based errors.
    let mut express = [0; 58];
    express[0] = 0x92;
    express[3] = 0x80;
    config.add_capability(EXPRESS_CAPABILITY, &express, &[0, 0, 0, 0, 0, 0, 0x0f, 0]);
    window.unwrap_or(0xf0).into()
}

impl PciFunction for VirtioPci {
    fn reset(&mut self) {
        self.registers.reset();
        self.config.reset();
        self.shared.reset();
    }

    fn config_read(&mut self, offset: u16, size: u8) -> u32 {
        if self.is_window(offset, size)
            && let Some((bar, at, len)) = self.window()
        {
            let mut data = [0; 4];
            if let Some(data) = data.get_mut(..len) {
                self.memory_read(bar, at, data);
            }
            self.config.write(self.window + 16, 4, u32::from_le_bytes(data));
        }
        self.show_interrupt();
        self.config.read(offset, size)
    }

    fn config_write(&mut self, offset: u16, size: u8, value: u32) {
        self.config.write(offset, size, value);
        if self.is_window(offset, size)
            && let Some((bar, at, len)) = self.window()
        {
            let data = self.config.read(self.window + 16, 4).to_le_bytes();
            self.memory_write(bar, at, data.get(..len).unwrap_or_default());
        }
        self.shared.configured(&self.config);
    }

    fn memory(&self) -> Vec<MemoryRange> {
        self.config.memory()
    }

    fn bells(&self) -> Vec<RegisterBell> {
        let place = |queue: u16| NOTIFY + u64::from(queue) * u64::from(NOTIFY_STEP);
        let bells = self.registers.bells();
        bells.map(|(queue, bell)| RegisterBell { bar: REGISTER_BAR, offset: place(queue), bell }).collect()
    }

    fn memory_read(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
        match bar {
            REGISTER_BAR => self.register_read(offset, data),
            MSIX_BAR => self.shared.table_read(offset, data),
            _ => data.fill(0xff),
        }
    }

    fn memory_write(&mut self, bar: u8, offset: u64, data: &[u8]) {
        match bar {
            REGISTER_BAR => self.register_write(offset, data),
            MSIX_BAR => self.shared.table_write(offset, data),
            _ => {}
        }
    }

    fn configure(&mut self, next: &mut u32, line: u8) {
        self.config.configure(next, line);
        self.shared.configured(&self.config);
    }
}
