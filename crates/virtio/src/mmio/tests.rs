//! The registers themselves (4.2.2).

use std::sync::Arc;
use std::time::{Duration, Instant};

use chipset::Line;
use memory::GuestMemory;

use super::*;
use crate::balloon::Balloon;
use crate::feature;
use crate::rng::Rng;
use crate::testing::{Driver, MIB, Transport};

fn registers() -> VirtioMmio {
    VirtioMmio::new(Box::new(Rng::new(None)), GuestMemory::new(2 * MIB).unwrap(), Line::unconnected())
        .unwrap()
}

fn read(device: &mut VirtioMmio, offset: u64) -> u32 {
    let mut data = [0; 4];
    device.read(offset, &mut data);
    u32::from_le_bytes(data)
}

fn write(device: &mut VirtioMmio, offset: u64, value: u32) {
    device.write(offset, &value.to_le_bytes());
}

#[test]
fn the_device_tells_what_it_is() {
    let mut device = registers();
    assert_eq!(read(&mut device, 0x000), 0x7472_6976, "\"virt\"");
    assert_eq!((read(&mut device, 0x004), read(&mut device, 0x008)), (2, 4));
    write(&mut device, 0x014, 1);
    assert_eq!(read(&mut device, 0x010) & 1, 1, "virtio 1");
    write(&mut device, 0x014, 2);
    assert_eq!(read(&mut device, 0x010), 0, "there are 64 features");
}

#[test]
fn there_is_no_shared_memory() {
    let mut device = registers();
    for region in [0, 1, u32::MAX] {
        write(&mut device, 0x0ac, region);
        assert_eq!([0x0b0, 0x0b4].map(|at| read(&mut device, at)), [u32::MAX; 2], "length");
        assert_eq!([0x0b8, 0x0bc].map(|at| read(&mut device, at)), [u32::MAX; 2], "address");
    }
}

#[test]
fn only_dwords_reach_registers() {
    let mut device = registers();
    for len in [1, 2, 3, 5, 8] {
        let mut data = vec![0xff; len];
        device.read(0, &mut data);
        assert_eq!(data, vec![0; len]);
        device.write(0x070, &vec![1; len]);
    }
    let mut data = [0xff; 4];
    device.read(2, &mut data);
    assert_eq!((data, read(&mut device, 0x070)), ([0; 4], 0));
}

#[test]
fn queues_that_are_not_there_have_no_size() {
    let mut device = registers();
    assert_eq!(read(&mut device, 0x034), 64);
    for queue in [1, 0x1_0000, u32::MAX] {
        write(&mut device, 0x030, queue);
        write(&mut device, 0x044, 1);
        assert_eq!([0x034, 0x044].map(|at| read(&mut device, at)), [0, 0], "{queue}");
    }
}

#[test]
fn a_queue_can_be_taken_back_until_the_device_runs() {
    let mut device = registers();
    write(&mut device, 0x044, 1);
    assert_eq!(read(&mut device, 0x044), 1);
    write(&mut device, 0x044, 0);
    assert_eq!(read(&mut device, 0x044), 0);
}

#[test]
fn the_line_is_high_until_all_causes_are_acknowledged() {
    let balloon = Balloon::new(0);
    let handle = balloon.handle();
    let mut driver = Driver::new(Transport::Mmio, balloon, feature::VERSION_1);
    let line = Arc::clone(&driver.bus.line);
    handle.set_target(MIB);
    assert!(line.level());
    driver.put(Driver::buffer(0), &[0; 4]);
    driver.send(1, &[(Driver::buffer(0), 4)], &[]);
    driver.used(1);
    let end = Instant::now() + Duration::from_secs(10);
    while driver.bus.causes() != 3 {
        assert!(Instant::now() < end, "the queue is not among the causes");
    }
    driver.bus.acknowledge(1);
    assert!(line.level(), "the other cause is left");
    assert_eq!(driver.bus.causes(), 2);
    driver.bus.acknowledge(2);
    assert!(!line.level());
    handle.set_target(0);
    assert!(line.level());
    driver.bus.set_status(0);
    assert!(!line.level(), "a reset takes the interrupt back");
}

#[test]
fn the_generation_changes_with_the_configuration() {
    let balloon = Balloon::new(0);
    let handle = balloon.handle();
    let mut driver = Driver::new(Transport::Mmio, balloon, feature::VERSION_1);
    let before = driver.bus.generation();
    assert_eq!(driver.bus.generation(), before);
    handle.set_target(MIB);
    assert_ne!(driver.bus.generation(), before);
}
