//! What the tables describe: a plain description that the machine fills in.

use std::ops::RangeInclusive;

use crate::pci::{ECAM_BASE, ECAM_SIZE};
use crate::pm;

/// The platform as its operating system is to see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlatformLayout {
    /// APIC ids of the processors, boot processor first; at most 4096.
    pub apic_ids: Vec<u32>,
    /// Physical address of the local APICs' register pages.
    pub local_apic_address: u32,
    /// Id of the I/O APIC, whose inputs are interrupts 0 to 23.
    pub io_apic_id: u8,
    /// Physical address of the I/O APIC's register page.
    pub io_apic_address: u32,
    /// The power-management registers.
    pub power: PowerPorts,
    /// The PCI host bridge.
    pub pci: PciWindows,
    /// The 16550A serial ports.
    pub serial: Vec<SerialPort>,
    /// Whether there is an i8042 with keyboard and mouse.
    pub i8042: bool,
    /// I/O port of the pvpanic device, if there is one.
    pub pvpanic: Option<u16>,
    /// CMOS register that holds the century; 0 if none does.
    pub century: u8,
    /// The virtio devices that are on no bus.
    pub virtio_mmio: Vec<VirtioMmio>,
}

/// The fixed hardware of ACPI (ACPI 6.5 section 4.8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PowerPorts {
    /// PM1a event block: status and enable, 2 bytes each.
    pub pm1a_event: u16,
    /// PM1a control register, 2 bytes.
    pub pm1a_control: u16,
    /// PM timer, 4 bytes.
    pub timer: u16,
    /// Whether the PM timer counts 32 bits rather than 24.
    pub timer_is_32_bits: bool,
    /// General-purpose event block 0.
    pub gpe0: u16,
    /// Length of that block, status and enable together.
    pub gpe0_length: u8,
    /// SMI command port.
    pub smi_command: u16,
    /// What to write there to switch to ACPI mode.
    pub acpi_enable: u8,
    /// What to write there to switch back.
    pub acpi_disable: u8,
    /// The interrupt that the fixed hardware raises, level-triggered.
    pub sci: u8,
    /// SLP_TYP of the soft-off state S5.
    pub s5_sleep_type: u8,
    /// Reset register, 1 byte.
    pub reset: u16,
    /// What to write there.
    pub reset_value: u8,
}

/// The address ranges that the PCI host bridge passes on to bus 0. Ranges are
/// inclusive and not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciWindows {
    /// Number of the last bus behind the host bridge.
    pub last_bus: u8,
    /// Memory below 4 GiB.
    pub memory32: RangeInclusive<u32>,
    /// Memory above, if any.
    pub memory64: Option<RangeInclusive<u64>>,
    /// Where ECAM lies: 1 MiB for each bus.
    pub ecam: u32,
}

/// A virtio device in memory-mapped registers of its own, which no bus finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtioMmio {
    /// Physical address of its register page.
    pub address: u32,
    /// Its interrupt: level-triggered, active high, perhaps shared.
    pub interrupt: u32,
}

/// BARs lie from here on.
pub const PCI_MEMORY: u32 = 0xc000_0000;

/// A serial port of the PC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SerialPort {
    /// First of its eight I/O ports.
    pub port: u16,
    /// Its ISA interrupt, 0 to 15.
    pub irq: u8,
}

impl PciWindows {
    /// Bytes of ECAM.
    pub(super) fn ecam_size(&self) -> u32 {
        ECAM_SIZE as u32 * (u32::from(self.last_bus) + 1)
    }
}

impl PlatformLayout {
    /// The standard platform with processors of the given APIC ids.
    pub fn new(apic_ids: Vec<u32>) -> Self {
        Self {
            apic_ids,
            local_apic_address: 0xfee0_0000,
            io_apic_id: 0,
            io_apic_address: 0xfec0_0000,
            power: PowerPorts::default(),
            pci: PciWindows::default(),
            serial: vec![SerialPort { port: 0x3f8, irq: 4 }],
            i8042: true,
            pvpanic: Some(0x505),
            century: 0x32,
            virtio_mmio: Vec::new(),
        }
    }
}

impl Default for PowerPorts {
    fn default() -> Self {
        Self {
            pm1a_event: pm::PM1A_EVT_PORT,
            pm1a_control: pm::PM1A_CNT_PORT,
            timer: pm::PM_TMR_PORT,
            timer_is_32_bits: true,
            gpe0: pm::GPE0_PORT,
            gpe0_length: pm::GPE0_LEN,
            smi_command: pm::SMI_CMD_PORT,
            acpi_enable: pm::ACPI_ENABLE,
            acpi_disable: pm::ACPI_DISABLE,
            sci: pm::SCI_IRQ,
            s5_sleep_type: pm::SLP_TYP_S5,
            reset: pm::RESET_PORT,
            // A hard reset that keeps the power on, as PCs name it here.
            reset_value: 0x06,
        }
    }
}

impl Default for PciWindows {
    fn default() -> Self {
        let memory32 = PCI_MEMORY..=ECAM_BASE as u32 - 1;
        Self { last_bus: 0, memory32, memory64: None, ecam: ECAM_BASE as u32 }
    }
}

/// The interrupt (I/O APIC input) that pin `pin` (0 is INTA) of PCI device
/// `device` on bus 0 raises. Neighbouring devices use different ones.
pub const fn pci_interrupt(device: u8, pin: u8) -> u32 {
    16 + ((device & 7) as u32 + (pin & 3) as u32) % 8
}

/// The ISA interrupt that stands in for [`pci_interrupt`] while the operating
/// system uses the 8259As.
pub const fn pci_isa_interrupt(device: u8, pin: u8) -> u8 {
    if pci_interrupt(device, pin).is_multiple_of(2) { 10 } else { 11 }
}
