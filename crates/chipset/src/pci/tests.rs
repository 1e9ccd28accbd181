use super::*;
use crate::testing::{Prng, assert_serializes, hammer, survive_damaged_states};

/// Echoes its offset and counts what is done to it.
struct Echo;

impl PciFunction for Echo {
    fn reset(&mut self) {}

    fn config_read(&mut self, offset: u16, size: u8) -> u32 {
        let bytes = [0, 1, 2, 3].map(|index| (offset + index) as u8);
        u32::from_le_bytes(bytes) & u32::MAX >> (32 - 8 * u32::from(size))
    }

    fn config_write(&mut self, offset: u16, size: u8, _value: u32) {
        assert!((offset & 3) + u16::from(size) <= 4, "crosses a dword");
    }
}

fn slot(device: u8, function: u8) -> PciSlot {
    PciSlot::new(device, function).unwrap()
}

fn select(bus: &mut PciBus, devfn: u32, register: u32) {
    let address = 0x8000_0000 | devfn << 8 | register;
    bus.port_write(VmTime::ZERO, CONFIG_ADDRESS_PORT, 4, address);
}

fn read(bus: &mut PciBus, port: u16, size: u8) -> u32 {
    let value = bus.port_read(VmTime::ZERO, port, size);
    value & u32::MAX >> (32 - 8 * u32::from(size))
}

#[test]
fn the_host_bridge_is_found() {
    let mut bus = PciBus::new();
    select(&mut bus, 0, 0);
    assert_eq!(read(&mut bus, 0xcfc, 4), 0x1237_8086);
    assert_eq!((read(&mut bus, 0xcfc, 2), read(&mut bus, 0xcfe, 2)), (0x8086, 0x1237));
    assert_eq!(read(&mut bus, 0xcff, 1), 0x12);
    select(&mut bus, 0, 8);
    assert_eq!(read(&mut bus, 0xcfc, 4) >> 16, 0x0600);
    select(&mut bus, 0, 0x2c);
    assert_eq!(read(&mut bus, 0xcfc, 4), 0x1100_1af4);
}

#[test]
fn config_address_takes_dwords_only() {
    let mut bus = PciBus::new();
    bus.port_write(VmTime::ZERO, 0xcf8, 4, 0xffff_ffff);
    assert_eq!(read(&mut bus, 0xcf8, 4), 0x80ff_fffc);
    bus.port_write(VmTime::ZERO, 0xcf8, 4, 0x8000_0000);
    for (port, size) in [(0xcf9, 1), (0xcf8, 1), (0xcf8, 2), (0xcfa, 2), (0xcfb, 4)] {
        bus.port_write(VmTime::ZERO, port, size, 0x0606_0606);
        assert_eq!(bus.port_read(VmTime::ZERO, port, size), u32::MAX);
        assert_eq!(read(&mut bus, 0xcf8, 4), 0x8000_0000);
    }
}

#[test]
fn absent_functions_and_disabled_accesses_read_ones() {
    let mut bus = PciBus::new();
    for address in [0x8000_0800, 0x8000_0100, 0x8001_0000, 0x0000_0000] {
        bus.port_write(VmTime::ZERO, 0xcf8, 4, address);
        assert_eq!(read(&mut bus, 0xcfc, 4), u32::MAX, "{address:#x}");
        bus.port_write(VmTime::ZERO, 0xcfc, 4, 0);
    }
    select(&mut bus, 0, 0);
    assert_eq!(read(&mut bus, 0xcfd, 4), u32::MAX, "no access crosses its dword");
}

#[test]
fn functions_are_reached_by_every_width() {
    let mut bus = PciBus::new();
    bus.insert(slot(31, 7), Box::new(Echo)).unwrap();
    assert_eq!(bus.insert(slot(31, 7), Box::new(Echo)), Err(SlotTaken(slot(31, 7))));
    assert_eq!(bus.insert(slot(0, 0), Box::new(Echo)).unwrap_err().to_string(), "PCI slot 00.0 is taken");
    assert_eq!((PciSlot::new(32, 0), PciSlot::new(0, 8)), (None, None));
    select(&mut bus, 0xff, 0x40);
    assert_eq!(read(&mut bus, 0xcfc, 4), 0x4342_4140);
    assert_eq!(read(&mut bus, 0xcfe, 2), 0x4342);
    assert_eq!(read(&mut bus, 0xcfd, 1), 0x41);
}

#[test]
fn function_0_tells_of_the_others() {
    let mut bus = PciBus::new();
    select(&mut bus, 0, 0x0c);
    assert_eq!(read(&mut bus, 0xcfe, 1), 0);
    bus.insert(slot(0, 3), Box::new(Echo)).unwrap();
    assert_eq!(read(&mut bus, 0xcfe, 1), 0x80);
    assert_eq!(read(&mut bus, 0xcfc, 4), 0x0080_0000);
    assert_eq!(read(&mut bus, 0xcfc, 1), 0);
}

#[test]
fn only_writable_bits_change() {
    let mut bus = PciBus::new();
    for (register, expected) in [(0x00, 0x1237_8086), (0x04, 0x0000_0107), (0x58, 0xffff_ffff)] {
        select(&mut bus, 0, register);
        bus.port_write(VmTime::ZERO, 0xcfc, 4, u32::MAX);
        assert_eq!(read(&mut bus, 0xcfc, 4), expected);
    }
    select(&mut bus, 0, 0x58);
    bus.port_write(VmTime::ZERO, 0xcfd, 1, 0x30);
    assert_eq!(read(&mut bus, 0xcfc, 4), 0xffff_30ff);
    let state = bus.state();
    assert_serializes(&state);
    bus.reset(VmTime::ZERO);
    select(&mut bus, 0, 0x58);
    assert_eq!(read(&mut bus, 0xcfc, 4), 0);
    bus.set_state(state);
    assert_eq!(read(&mut bus, 0xcfc, 4), 0xffff_30ff);
}

#[test]
fn survives_random_use() {
    let mut bus = PciBus::new();
    bus.insert(slot(1, 0), Box::new(Echo)).unwrap();
    bus.insert(slot(31, 7), Box::new(Echo)).unwrap();
    hammer(&mut bus, PciBus::PORTS, 9);
    let mut rng = Prng::new(10);
    for _ in 0..150_000 {
        let devfn = [0, 8, 0xff, 0x10][rng.below(4) as usize];
        select(&mut bus, devfn, rng.next() as u32 & 0xff);
        let (port, size) = (0xcfc + rng.below(4) as u16, [1, 2, 4][rng.below(3) as usize]);
        bus.port_write(VmTime::ZERO, port, size, rng.next() as u32);
        bus.port_read(VmTime::ZERO, port, size);
    }
    select(&mut bus, 0, 0);
    assert_eq!(read(&mut bus, 0xcfc, 4), 0x1237_8086);
}

#[test]
fn survives_damaged_states() {
    survive_damaged_states(PciBus::new, PciBus::PORTS, PciBus::state, PciBus::set_state);
}

/// Decodes a page, and remembers its last byte.
struct Memory(u8);

impl PciFunction for Memory {
    fn reset(&mut self) {}

    fn config_read(&mut self, _offset: u16, _size: u8) -> u32 {
        self.0.into()
    }

    fn config_write(&mut self, _offset: u16, _size: u8, value: u32) {
        self.0 = value as u8;
    }

    fn memory(&self) -> Vec<MemoryRange> {
        let on = self.0 & 1 != 0;
        on.then_some(MemoryRange { bar: 2, start: 0xd000_0000, len: 0x1000 }).into_iter().collect()
    }

    fn memory_read(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
        data.fill(bar + offset as u8);
    }

    fn memory_write(&mut self, _bar: u8, _offset: u64, data: &[u8]) {
        self.0 = data[0];
    }
}

#[test]
fn ecam_reaches_all_registers_by_every_width() {
    let mut bus = PciBus::new();
    bus.insert(slot(3, 1), Box::new(Echo)).unwrap();
    let at = ECAM_BASE + (3 << 15) + (1 << 12);
    let read = |bus: &mut PciBus, at, len| {
        let mut data = vec![0; len];
        assert!(bus.memory_read(at, &mut data));
        data
    };
    assert_eq!(read(&mut bus, ECAM_BASE, 4), [0x86, 0x80, 0x37, 0x12]);
    assert_eq!(read(&mut bus, at + 0x41, 1), [0x41]);
    assert_eq!(read(&mut bus, at + 0x43, 8), [0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4a]);
    assert_eq!(read(&mut bus, at + 0xf02, 2), [2, 3]);
    assert_eq!(read(&mut bus, ECAM_BASE + 0x8000, 4), [0xff; 4]);
    assert!(bus.memory_write(at + 3, &[0; 8]));
    assert!(!bus.memory_read(ECAM_BASE + ECAM_SIZE, &mut [0; 4]));
    assert!(!bus.memory_write(ECAM_BASE - 4, &[0; 4]));
}

#[test]
fn bars_are_decoded_as_they_are_configured() {
    let mut bus = PciBus::new();
    bus.insert(slot(1, 0), Box::new(Memory(0))).unwrap();
    let mut data = [0; 2];
    assert!(!bus.memory_read(0xd000_0010, &mut data));
    select(&mut bus, 8, 4);
    bus.port_write(VmTime::ZERO, 0xcfc, 2, 1);
    assert!(bus.memory_read(0xd000_0010, &mut data));
    assert_eq!(data, [0x12; 2]);
    assert!(!bus.memory_read(0xd000_0fff, &mut data), "not all of it is decoded");
    assert!(bus.memory_write(0xd000_0000, &[3]));
}
