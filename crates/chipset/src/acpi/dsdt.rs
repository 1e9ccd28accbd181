//! The DSDT: the devices that cannot be enumerated, in AML.

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Arg, Device, EISAName, Equal, IO, If, Interrupt, Memory32Fixed,
    Method, Name, Package, PackageBuilder, Path, ResourceTemplate, Return, Scope, Store, ZERO,
};
use acpi_tables::{Aml, AmlSink};

use super::layout::{PciWindows, PlatformLayout, VirtioMmio, pci_interrupt, pci_isa_interrupt};

/// Length of a page of registers.
const PAGE: u32 = 0x1000;
/// PCI devices on a bus.
const PCI_DEVICES: u8 = 32;

/// AML that was made before.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

impl Raw {
    fn of(aml: &dyn Aml) -> Self {
        let mut bytes = Vec::new();
        aml.to_aml_bytes(&mut bytes);
        Self(bytes)
    }
}

/// The definition block.
pub(super) fn aml(layout: &PlatformLayout) -> Vec<u8> {
    let mut bytes = Vec::new();
    interrupt_model(&mut bytes);
    let sleep_type = layout.power.s5_sleep_type;
    let s5 = Package::new(vec![&sleep_type, &sleep_type, &ZERO, &ZERO]);
    Name::new("\\_S5_".into(), &s5).to_aml_bytes(&mut bytes);
    for (uid, _) in layout.apic_ids.iter().take(super::MAX_PROCESSORS).enumerate() {
        processor(uid as u16, &mut bytes);
    }
    host_bridge(layout, &mut bytes);
    for (uid, device) in (0..).zip(&layout.virtio_mmio) {
        virtio_mmio(uid, *device, &mut bytes);
    }
    bytes
}

/// A virtio device in registers of its own.
fn virtio_mmio(uid: u8, device: VirtioMmio, bytes: &mut Vec<u8>) {
    let hid = Name::new("_HID".into(), &"LNRO0005");
    let number = Name::new("_UID".into(), &uid);
    let interrupt = Raw::of(&Interrupt::new(true, false, false, true, device.interrupt));
    let crs = current_resources(&[memory(device.address, PAGE), interrupt]);
    let name = format!("VM{uid:02X}");
    let device = Device::new(name.as_str().into(), vec![&hid, &number, &crs]);
    Scope::new("\\_SB_".into(), vec![&device]).to_aml_bytes(bytes);
}

/// `\_PIC`: the operating system says which interrupt controllers it uses.
fn interrupt_model(bytes: &mut Vec<u8>) {
    Name::new("\\PICF".into(), &ZERO).to_aml_bytes(bytes);
    let store = Raw::of(&Store::new(&Path::new("\\PICF"), &Arg(0)));
    Method::new("\\_PIC".into(), 1, false, vec![&store]).to_aml_bytes(bytes);
}

fn processor(uid: u16, bytes: &mut Vec<u8>) {
    let hid = Name::new("_HID".into(), &"ACPI0007");
    let number = Name::new("_UID".into(), &uid);
    let name = format!("C{uid:03X}");
    let device = Device::new(name.as_str().into(), vec![&hid, &number]);
    Scope::new("\\_SB_".into(), vec![&device]).to_aml_bytes(bytes);
}

/// The PCI host bridge, and behind it the devices of the ISA bus.
fn host_bridge(layout: &PlatformLayout, bytes: &mut Vec<u8>) {
    let mut children = vec![
        Raw::of(&Name::new("_HID".into(), &EISAName::new("PNP0A03"))),
        Raw::of(&Name::new("_UID".into(), &ZERO)),
        Raw::of(&Name::new("_BBN".into(), &ZERO)),
        Raw::of(&Name::new("_SEG".into(), &ZERO)),
        windows(&layout.pci),
        Raw::of(&Name::new("PRTA".into(), &routing(pci_interrupt))),
        Raw::of(&Name::new("PRTP".into(), &routing(|device, pin| pci_isa_interrupt(device, pin).into()))),
        routing_method(),
    ];
    children.extend(isa_devices(layout));
    let children = children.iter().map(|child| child as &dyn Aml).collect();
    let bridge = Device::new("PCI0".into(), children);
    Scope::new("\\_SB_".into(), vec![&bridge]).to_aml_bytes(bytes);
}

/// `_CRS` of the host bridge: its configuration ports, and what it passes on.
fn windows(pci: &PciWindows) -> Raw {
    use AddressSpaceCacheable::NotCacheable;
    let buses = AddressSpace::new_bus_number(0u16, u16::from(pci.last_bus));
    let configuration = IO::new(0xcf8, 0xcf8, 1, 8);
    let ports_below = AddressSpace::new_io(0u16, 0xcf7, None);
    let ports_above = AddressSpace::new_io(0xd00u16, 0xffff, None);
    let vga = AddressSpace::new_memory(NotCacheable, true, 0xa_0000u32, 0xb_ffff, None);
    let (first, last) = (*pci.memory32.start(), *pci.memory32.end());
    let memory32 = AddressSpace::new_memory(NotCacheable, true, first, last, None);
    let memory64 = pci
        .memory64
        .as_ref()
        .map(|range| AddressSpace::new_memory(NotCacheable, true, *range.start(), *range.end(), None));
    let mut resources: Vec<&dyn Aml> =
        vec![&buses, &configuration, &ports_below, &ports_above, &vga, &memory32];
    if let Some(memory64) = &memory64 {
        resources.push(memory64);
    }
    Raw::of(&Name::new("_CRS".into(), &ResourceTemplate::new(resources)))
}

/// A `_PRT` package: for each device and pin the interrupt, hardwired.
fn routing(interrupt: impl Fn(u8, u8) -> u32) -> PackageBuilder {
    let mut table = PackageBuilder::new();
    for device in 0..PCI_DEVICES {
        for pin in 0..4u8 {
            // Any function: the low half of the address is all ones.
            let address = u32::from(device) << 16 | 0xffff;
            let number = interrupt(device, pin);
            table.add_element(&Package::new(vec![&address, &pin, &ZERO, &number]));
        }
    }
    table
}

fn routing_method() -> Raw {
    let (model, with_8259) = (Path::new("\\PICF"), Path::new("PRTP"));
    let (is_8259, with_apic) = (Equal::new(&model, &ZERO), Path::new("PRTA"));
    let (return_8259, return_apic) = (Return::new(&with_8259), Return::new(&with_apic));
    let choose = If::new(&is_8259, vec![&return_8259]);
    Raw::of(&Method::new("_PRT".into(), 0, false, vec![&choose, &return_apic]))
}

/// A `_CRS` object of these resources.
fn current_resources(resources: &[Raw]) -> Name {
    let children = resources.iter().map(|resource| resource as &dyn Aml).collect();
    Name::new("_CRS".into(), &ResourceTemplate::new(children))
}

/// A device with a PNP id, a unit number and resources.
fn pnp_device(name: &str, id: &str, uid: u8, resources: &[Raw]) -> Raw {
    let hid = Name::new("_HID".into(), &EISAName::new(id));
    let unit = Name::new("_UID".into(), &uid);
    Raw::of(&Device::new(name.into(), vec![&hid, &unit, &current_resources(resources)]))
}

fn ports(first: u16, length: u8) -> Raw {
    Raw::of(&IO::new(first, first, 1, length))
}

/// An IRQ descriptor of ISA: edge-triggered, active high, not shared (ACPI 6.5
/// section 6.4.2.1).
fn irq(number: u8) -> Raw {
    let [low, high] = (1u16 << (number & 15)).to_le_bytes();
    Raw(vec![0x22, low, high])
}

fn memory(address: u32, length: u32) -> Raw {
    Raw::of(&Memory32Fixed::new(true, address, length))
}

fn isa_devices(layout: &PlatformLayout) -> Vec<Raw> {
    let mut devices = vec![
        pnp_device("PIC_", "PNP0000", 0, &[ports(0x20, 2), ports(0xa0, 2), irq(2)]),
        pnp_device("TIMR", "PNP0100", 0, &[ports(0x40, 4), irq(0)]),
        pnp_device("SPKR", "PNP0800", 0, &[ports(0x61, 1)]),
        pnp_device("RTC_", "PNP0B00", 0, &[ports(0x70, 2), irq(8)]),
    ];
    if layout.i8042 {
        let keyboard = [ports(0x60, 1), ports(0x64, 1), irq(1)];
        devices.push(pnp_device("KBD_", "PNP0303", 0, &keyboard));
        devices.push(pnp_device("MOU_", "PNP0F13", 0, &[irq(12)]));
    }
    for (number, serial) in (1..=9).zip(&layout.serial) {
        let resources = [ports(serial.port, 8), irq(serial.irq)];
        devices.push(pnp_device(&format!("COM{number}"), "PNP0501", number, &resources));
    }
    devices.extend(layout.pvpanic.map(pvpanic));
    devices.push(motherboard(layout));
    devices
}

fn pvpanic(port: u16) -> Raw {
    let hid = Name::new("_HID".into(), &"QEMU0001");
    // Present, enabled and working, but nothing to show to a user.
    let status = Name::new("_STA".into(), &0x0bu8);
    let crs = current_resources(&[ports(port, 1)]);
    Raw::of(&Device::new("PEVT".into(), vec![&hid, &status, &crs]))
}

/// Addresses that are taken but belong to no other device.
fn motherboard(layout: &PlatformLayout) -> Raw {
    let power = &layout.power;
    let resources = [
        ports(power.pm1a_event, 4),
        ports(power.pm1a_control, 2),
        ports(power.timer, 4),
        ports(power.gpe0, power.gpe0_length),
        ports(power.smi_command, 2),
        memory(layout.io_apic_address, PAGE),
        memory(layout.local_apic_address, PAGE),
        memory(layout.pci.ecam, layout.pci.ecam_size()),
    ];
    pnp_device("MBRD", "PNP0C02", 0, &resources)
}
