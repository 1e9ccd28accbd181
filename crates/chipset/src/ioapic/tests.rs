//! Tests of the I/O APIC.

use super::*;
use crate::lapic::tests_support::Random;
use crate::lapic::{BROADCAST, DeliveryMode, TriggerMode};

const MASKED: u32 = 1 << 16;
const LEVEL: u32 = 1 << 15;
const IRR: u32 = 1 << 14;

fn write(ioapic: &mut IoApic, register: u8, value: u32) -> Vec<ApicMessage> {
    assert!(ioapic.mmio_write(0x00, &u32::from(register).to_le_bytes()).is_empty());
    ioapic.mmio_write(0x10, &value.to_le_bytes())
}

fn read(ioapic: &mut IoApic, register: u8) -> u32 {
    ioapic.mmio_write(0x00, &[register]);
    let mut data = [0; 4];
    ioapic.mmio_read(0x10, &mut data);
    u32::from_le_bytes(data)
}

fn program(ioapic: &mut IoApic, input: u8, high: u32, low: u32) -> Vec<ApicMessage> {
    write(ioapic, 0x11 + 2 * input, high);
    write(ioapic, 0x10 + 2 * input, low)
}

#[test]
fn identifies_itself() {
    let mut ioapic = IoApic::new(2);
    assert_eq!(read(&mut ioapic, 0), 0x0200_0000);
    assert_eq!(read(&mut ioapic, 1), 0x0017_0020);
    assert_eq!(read(&mut ioapic, 2), 0x0200_0000);
    write(&mut ioapic, 0, u32::MAX);
    assert_eq!(read(&mut ioapic, 0), 0x0f00_0000);
    write(&mut ioapic, 1, 0);
    assert_eq!(read(&mut ioapic, 1), 0x0017_0020, "read-only");
}

#[test]
fn comes_up_masked() {
    let mut ioapic = IoApic::new(0);
    for input in 0..24 {
        assert_eq!(read(&mut ioapic, 0x10 + 2 * input), MASKED);
        assert_eq!(ioapic.set_level(input.into(), true), None);
    }
}

#[test]
fn edge_fires_once_for_each_rise() {
    let mut ioapic = IoApic::new(0);
    program(&mut ioapic, 4, 3 << 24, 0x34);
    let message = ioapic.set_level(4, true).unwrap();
    assert_eq!(
        message,
        ApicMessage {
            destination: 3,
            logical: false,
            delivery: DeliveryMode::Fixed,
            vector: 0x34,
            trigger: TriggerMode::Edge,
        }
    );
    assert_eq!(ioapic.set_level(4, true), None);
    assert_eq!(ioapic.set_level(4, false), None);
    assert!(ioapic.set_level(4, true).is_some());
    assert!(!ioapic.awaits_eoi(4));
}

#[test]
fn edge_on_a_masked_input_is_lost() {
    let mut ioapic = IoApic::new(0);
    program(&mut ioapic, 4, 0, MASKED | 0x34);
    assert_eq!(ioapic.set_level(4, true), None);
    assert!(program(&mut ioapic, 4, 0, 0x34).is_empty());
}

#[test]
fn level_lasts_until_its_cause_is_gone() {
    let mut ioapic = IoApic::new(0);
    program(&mut ioapic, 10, 0, LEVEL | 0x41);
    let message = ioapic.set_level(10, true).unwrap();
    assert_eq!(message.trigger, TriggerMode::Level);
    assert_eq!(read(&mut ioapic, 0x10 + 20), LEVEL | IRR | 0x41);
    assert_eq!(ioapic.set_level(10, true), None, "waits for EOI");
    assert!(ioapic.eoi(0x42).is_empty(), "another vector");
    assert_eq!(ioapic.eoi(0x41), [message], "still asserted");
    ioapic.set_level(10, false);
    assert!(ioapic.eoi(0x41).is_empty());
    assert_eq!(read(&mut ioapic, 0x10 + 20), LEVEL | 0x41);
}

#[test]
fn unmasking_an_asserted_level_fires() {
    let mut ioapic = IoApic::new(0);
    program(&mut ioapic, 10, 0, LEVEL | MASKED | 0x41);
    assert_eq!(ioapic.set_level(10, true), None);
    let messages = program(&mut ioapic, 10, 0, LEVEL | 0x41);
    assert_eq!(messages.len(), 1);
    assert!(program(&mut ioapic, 10, 0, LEVEL | 0x41).is_empty());
}

#[test]
fn eoi_register_and_shared_vectors() {
    let mut ioapic = IoApic::new(0);
    for input in [10, 11] {
        program(&mut ioapic, input, 0, LEVEL | 0x41);
        assert!(ioapic.set_level(input.into(), true).is_some());
    }
    assert_eq!(ioapic.mmio_write(0x40, &0x41u32.to_le_bytes()).len(), 2);
}

#[test]
fn switching_to_edge_clears_remote_irr() {
    let mut ioapic = IoApic::new(0);
    program(&mut ioapic, 10, 0, LEVEL | 0x41);
    ioapic.set_level(10, true);
    program(&mut ioapic, 10, 0, MASKED | 0x41);
    assert_eq!(read(&mut ioapic, 0x10 + 20), MASKED | 0x41);
    assert_eq!(program(&mut ioapic, 10, 0, LEVEL | 0x41).len(), 1);
}

#[test]
fn status_bits_are_read_only() {
    let mut ioapic = IoApic::new(0);
    program(&mut ioapic, 0, u32::MAX, u32::MAX);
    assert_eq!(read(&mut ioapic, 0x10), 0x0001_afff);
    assert_eq!(read(&mut ioapic, 0x11), 0xfffe_0000);
}

#[test]
fn delivery_modes() {
    let mut ioapic = IoApic::new(0);
    let modes = [
        (1, Some(DeliveryMode::LowestPriority)),
        (2, Some(DeliveryMode::Smi)),
        (3, None),
        (4, Some(DeliveryMode::Nmi)),
        (5, Some(DeliveryMode::Init)),
        (6, None),
        (7, Some(DeliveryMode::ExtInt)),
    ];
    for (bits, expected) in modes {
        program(&mut ioapic, 5, 0, bits << 8 | 0x30);
        let sent = ioapic.set_level(5, true).map(|message| message.delivery);
        assert_eq!(sent, expected, "mode {bits}");
        ioapic.set_level(5, false);
    }
    // An NMI is an edge even if programmed as a level.
    program(&mut ioapic, 5, 0, LEVEL | 4 << 8);
    assert_eq!(ioapic.set_level(5, true).unwrap().trigger, TriggerMode::Edge);
    assert!(!ioapic.awaits_eoi(5));
}

#[test]
fn destinations() {
    let mut ioapic = IoApic::new(0);
    let cases = [(0xff00_0000, BROADCAST), (0x0102_0000, 0x101), (0xff02_0000, 0x1ff)];
    for (high, destination) in cases {
        program(&mut ioapic, 5, high, 1 << 11 | 0x30);
        let message = ioapic.set_level(5, true).unwrap();
        assert_eq!((message.destination, message.logical), (destination, true));
        ioapic.set_level(5, false);
    }
}

#[test]
fn state_comes_back() {
    let mut ioapic = IoApic::new(0);
    program(&mut ioapic, 10, 0, LEVEL | 0x41);
    ioapic.set_level(10, true);
    let saved = ioapic.state();
    let mut other = IoApic::new(0);
    other.set_state(saved).unwrap();
    assert_eq!(other.state(), saved);
    assert_eq!(other.eoi(0x41).len(), 1);
    let text = serde_json::to_string(&saved).unwrap();
    assert_eq!(serde_json::from_str::<IoApicState>(&text).unwrap(), saved);
    let mut bad = saved;
    bad.redirection[3] |= 1 << 20;
    assert!(other.set_state(bad).is_err());
    bad = saved;
    bad.inputs |= 1 << 24;
    assert!(other.set_state(bad).is_err());
}

#[test]
fn reset_keeps_the_inputs() {
    let mut ioapic = IoApic::new(3);
    program(&mut ioapic, 10, 0, LEVEL | 0x41);
    ioapic.set_level(10, true);
    ioapic.reset();
    assert_eq!(read(&mut ioapic, 0x10 + 20), MASKED);
    assert_eq!(program(&mut ioapic, 10, 0, LEVEL | 0x41).len(), 1);
}

#[test]
fn odd_accesses_are_harmless() {
    let mut ioapic = IoApic::new(0);
    let mut data = [0xaa; 8];
    ioapic.mmio_write(0x00, &[1]);
    ioapic.mmio_read(0x12, &mut data);
    assert_eq!(data, [0x17, 0, 0, 0, 0, 0, 0, 0]);
    ioapic.mmio_read(u64::MAX, &mut data);
    assert_eq!(data, [0; 8]);
    assert!(ioapic.mmio_write(0x11, &[0; 4]).is_empty());
    assert_eq!(ioapic.set_level(24, true), None);
    assert_eq!(ioapic.set_level(u32::MAX, true), None);
}

#[test]
fn survives_random_use() {
    let mut random = Random::new(0x10a9_1c00);
    let mut ioapic = IoApic::new(0);
    let mut sent = 0;
    for _ in 0..200_000 {
        let value = random.next();
        let data = random.next().to_le_bytes();
        let length = (random.next() % 9) as usize;
        match value % 6 {
            0 => sent += ioapic.set_level((random.next() % 26) as u32, value & 64 != 0).iter().len(),
            1 => sent += ioapic.eoi(data[0]).len(),
            2 => sent += ioapic.mmio_write(random.next() & 0x5f, &data[..length]).len(),
            3 => sent += ioapic.mmio_write(0x10, &data[..length]).len(),
            4 => ioapic.mmio_read(random.next() >> (value >> 8 & 63), &mut { data }[..length]),
            _ => sent += ioapic.mmio_write(0, &data[..length]).len(),
        }
        let state = ioapic.state();
        ioapic.set_state(state).unwrap();
    }
    assert!(sent > 1000, "the test must reach what it tests: {sent}");
}
