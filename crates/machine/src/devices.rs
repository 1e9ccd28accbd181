//! The parts list of the PC, one function for each group of devices.

use chipset::debugcon::{BOCHS_PORT, DebugConsole, FIRMWARE_PORT};
use chipset::i8042::I8042;
use chipset::pci::PciBus;
use chipset::pic::Pic;
use chipset::pit::Pit;
use chipset::pm::{Pm, RESET_PORT, SCI_IRQ};
use chipset::post::Post;
use chipset::pvpanic::PvPanic;
use chipset::rtc::{CmosMemory, Rtc};
use chipset::testdev::TestDevice;
use chipset::uart::{COM1, Uart};
use memory::RamLayout;
use std::sync::Arc;

use crate::board::Wiring;
use crate::config::Consoles;
use crate::mount::Mounted;
use crate::serial::{Input, SerialPort};

const TIMER_IRQ: u8 = 0;
const KEYBOARD_IRQ: u8 = 1;
const SERIAL_IRQ: u8 = 4;
const CLOCK_IRQ: u8 = 8;
const MOUSE_IRQ: u8 = 12;

/// Interrupt controllers, timer, clock and keyboard: what every PC has had.
pub(crate) fn mount_legacy(wiring: &mut Wiring, wall_clock: i64, ram: RamLayout) {
    let pics = Arc::clone(&wiring.interrupts);
    wiring.ports.claim(Pic::PORTS, pics);
    let timer = Pit::new(wiring.line(TIMER_IRQ));
    wiring.mount(timer, Pit::PORTS);
    let memory = CmosMemory { below_4g: ram.low, above_4g: ram.high };
    let clock = Rtc::new(wall_clock, memory, wiring.line(CLOCK_IRQ));
    wiring.mount(clock, Rtc::PORTS);
    let keyboard = I8042::new(wiring.line(KEYBOARD_IRQ), wiring.line(MOUSE_IRQ), wiring.events());
    wiring.mount(keyboard, I8042::PORTS);
    wiring.mount(Post::new(), Post::PORTS);
}

/// Where a guest prints.
pub(crate) fn mount_consoles(
    wiring: &mut Wiring,
    consoles: Consoles,
    input: Arc<Input>,
) -> Arc<Mounted<SerialPort>> {
    wiring.mount(DebugConsole::new(BOCHS_PORT, consoles.debug), &[BOCHS_PORT..=BOCHS_PORT]);
    wiring.mount(DebugConsole::new(FIRMWARE_PORT, consoles.firmware), &[FIRMWARE_PORT..=FIRMWARE_PORT]);
    let uart = Uart::new(consoles.serial, wiring.line(SERIAL_IRQ));
    wiring.mount(SerialPort::new(uart, input), &[Uart::ports(COM1)])
}

/// The PCI bus with the functions on it.
pub(crate) fn mount_pci(wiring: &mut Wiring, bus: PciBus) -> Arc<Mounted<PciBus>> {
    wiring.mount(bus, PciBus::PORTS)
}

/// Power management and what else concerns the whole machine. The byte at
/// 0xCF9, inside the PCI bus's registers, is the reset register.
pub(crate) fn mount_system(wiring: &mut Wiring) -> Arc<Mounted<Pm>> {
    wiring.mount(PvPanic::new(wiring.events()), PvPanic::PORTS);
    let power = Pm::new(wiring.line(SCI_IRQ), wiring.events());
    let power = wiring.mount(power, Pm::PORTS);
    wiring.ports.claim_byte(RESET_PORT, power.clone());
    power
}

/// The device that test kernels drive.
pub(crate) fn mount_test_device(wiring: &mut Wiring) -> Arc<Mounted<TestDevice>> {
    let lines = std::array::from_fn(|irq| wiring.line(irq as u8));
    wiring.mount(TestDevice::new(lines), TestDevice::PORTS)
}
