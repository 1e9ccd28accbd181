//! How a function interrupts: by MSI-X, by MSI, by INTA.

use std::time::{Duration, Instant};

use chipset::pci::PciFunction;

use crate::balloon::{Balloon, BalloonHandle};
use crate::feature;
use crate::rng::Rng;
use crate::testing::{Driver, Transport};

const COMMAND: u16 = 4;
const STATUS: u16 = 6;
const INTERRUPT_DISABLE: u32 = 1 << 10;
const STATUS_INTERRUPT: u32 = 1 << 3;

fn rng() -> Driver {
    Driver::new(Transport::Pci, Rng::new(None), feature::VERSION_1)
}

/// Has a buffer filled, and waits until that is told.
fn fill(driver: &mut Driver, told: impl Fn(&Driver) -> bool) {
    driver.send(0, &[], &[(Driver::buffer(0), 16)]);
    driver.used(0);
    let end = Instant::now() + Duration::from_secs(10);
    while !told(driver) {
        assert!(Instant::now() < end, "the guest is not told");
    }
}

fn status(driver: &mut Driver) -> u32 {
    driver.bus.function().config_read(STATUS, 2)
}

fn balloon() -> (Driver, BalloonHandle) {
    let balloon = Balloon::new(0);
    let handle = balloon.handle();
    (Driver::new(Transport::Pci, balloon, feature::VERSION_1), handle)
}

#[test]
fn inta_is_held_until_the_isr_is_read() {
    let mut driver = rng();
    fill(&mut driver, |driver| driver.bus.line.level());
    assert_eq!(status(&mut driver) & STATUS_INTERRUPT, STATUS_INTERRUPT);
    fill(&mut driver, |driver| driver.bus.line.level());
    assert_eq!(driver.bus.line.rises(), 1, "it is a level");
    assert_eq!(driver.bus.take_causes(), 1);
    assert!(!driver.bus.line.level());
    assert_eq!(status(&mut driver) & STATUS_INTERRUPT, 0);
    assert_eq!(driver.bus.take_causes(), 0);
    assert!(driver.messages().is_empty());
}

#[test]
fn a_guest_can_forbid_inta() {
    let mut driver = rng();
    fill(&mut driver, |driver| driver.bus.line.level());
    let command = driver.bus.function().config_read(COMMAND, 2);
    driver.bus.function().config_write(COMMAND, 2, command | INTERRUPT_DISABLE);
    assert!(!driver.bus.line.level());
    driver.bus.function().config_write(COMMAND, 2, command);
    assert!(driver.bus.line.level(), "what was asked for is not lost");
}

#[test]
fn msi_is_one_message_for_everything() {
    let (mut driver, handle) = balloon();
    driver.use_msi(0x4041);
    handle.set_target(1 << 20);
    assert_eq!(driver.messages(), [0x4041]);
    driver.put(Driver::buffer(0), &[0; 4]);
    driver.send(1, &[(Driver::buffer(0), 4)], &[]);
    driver.used(1);
    let end = Instant::now() + Duration::from_secs(10);
    while driver.messages().len() < 2 {
        assert!(Instant::now() < end, "the guest is not told of the queue");
    }
    assert_eq!(driver.messages(), [0x4041, 0x4041]);
    assert_eq!(driver.bus.line.rises(), 0);
    assert_eq!(driver.bus.take_causes(), 3, "the driver reads what for");
    let at = driver.capability(0x05);
    driver.bus.function().config_write(at + 2, 2, 0);
    handle.set_target(2 << 20);
    assert_eq!(driver.messages().len(), 2, "it is off");
    assert!(driver.bus.line.level(), "so the line is used");
}

#[test]
fn msi_offers_one_vector_and_a_64_bit_address() {
    let mut driver = rng();
    let at = driver.capability(0x05);
    let function = driver.bus.function();
    function.config_write(at + 2, 2, 0xffff);
    let control = function.config_read(at + 2, 2);
    assert_eq!(control & 0x0e, 0, "multiple message capable: one");
    assert_eq!(control & 0x81, 0x81, "64 bits, enabled");
    function.config_write(at + 4, 4, u32::MAX);
    assert_eq!(function.config_read(at + 4, 4), 0xffff_fffc);
    function.reset();
    assert_eq!(function.config_read(at + 2, 2), 0x80);
}

#[test]
fn msix_wins_over_msi_and_the_line() {
    let mut driver = rng();
    driver.use_msi(0x41);
    driver.use_msix();
    fill(&mut driver, |driver| !driver.messages().is_empty());
    assert_eq!(driver.messages(), [0]);
    assert_eq!(driver.bus.line.rises(), 0);
}

#[test]
fn a_reset_of_the_function_lowers_the_line() {
    let mut driver = rng();
    fill(&mut driver, |driver| driver.bus.line.level());
    driver.bus.reset();
    assert!(!driver.bus.line.level());
}
