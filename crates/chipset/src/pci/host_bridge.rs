//! The host bridge: an Intel 440FX as far as firmware configures it.

use serde::{Deserialize, Serialize};

use super::PciFunction;

const SIZE: usize = 256;
/// Intel 440FX host bridge, revision 2, class 06-00-00.
const IDENTITY: [(u16, u32); 3] = [(0x00, 0x1237_8086), (0x08, 0x0600_0002), (SUBSYSTEM, 0x1100_1af4)];
/// Firmware knows a virtual machine by the subsystem's vendor and identity.
const SUBSYSTEM: u16 = 0x2c;
const COMMAND: usize = 0x04;
const LATENCY: usize = 0x0d;
/// I/O, memory, bus master and SERR enables of the command register.
const COMMAND_WRITABLE: [u8; 2] = [0x07, 0x01];
/// From here on the chip's own registers, shadow RAM (PAM, 0x59) and SMRAM
/// (0x72) control among them, which are kept but change nothing.
const DEVICE_SPECIFIC: usize = 0x40;

/// The configuration space of the host bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostBridgeState {
    config: Vec<u8>,
}

/// The host bridge.
#[derive(Debug)]
pub struct HostBridge {
    config: [u8; SIZE],
}

fn power_on() -> [u8; SIZE] {
    let mut config = [0; SIZE];
    for (offset, value) in IDENTITY {
        for (byte, from) in config.iter_mut().skip(usize::from(offset)).zip(value.to_le_bytes()) {
            *byte = from;
        }
    }
    config
}

fn writable(offset: usize) -> u8 {
    match offset {
        COMMAND => COMMAND_WRITABLE[0],
        _ if offset == COMMAND + 1 => COMMAND_WRITABLE[1],
        LATENCY => 0xff,
        DEVICE_SPECIFIC.. => 0xff,
        _ => 0,
    }
}

impl HostBridge {
    pub(super) fn new() -> Self {
        Self { config: power_on() }
    }

    pub(super) fn state(&self) -> HostBridgeState {
        HostBridgeState { config: self.config.to_vec() }
    }

    /// Only what a guest could have written is taken from `state`.
    pub(super) fn set_state(&mut self, state: HostBridgeState) {
        self.config = power_on();
        for (offset, value) in state.config.into_iter().enumerate().take(SIZE) {
            self.write_byte(offset, value);
        }
    }

    fn write_byte(&mut self, offset: usize, value: u8) {
        let mask = writable(offset);
        if let Some(byte) = self.config.get_mut(offset) {
            *byte = (*byte & !mask) | (value & mask);
        }
    }
}

impl PciFunction for HostBridge {
    fn reset(&mut self) {
        self.config = power_on();
    }

    fn config_read(&mut self, offset: u16, size: u8) -> u32 {
        let bytes = self.config.iter().skip(usize::from(offset)).take(usize::from(size.min(4)));
        bytes.rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
    }

    fn config_write(&mut self, offset: u16, size: u8, value: u32) {
        let bytes = value.to_le_bytes();
        for (index, byte) in bytes.iter().enumerate().take(usize::from(size)) {
            self.write_byte(usize::from(offset) + index, *byte);
        }
    }
}
