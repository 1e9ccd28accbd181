//! The configuration space of a function with a type 0 header (PCI Local Bus
//! 3.0, 6.1 and 6.2.5): identity, command and status, memory BARs, and a list
//! of capabilities.

use serde::{Deserialize, Serialize};

/// Bytes of the space that capabilities and header share.
const SIZE: usize = 256;
const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const CACHE_LINE: usize = 0x0c;
const LATENCY: usize = 0x0d;
const BARS: usize = 0x10;
const SUBSYSTEM: usize = 0x2c;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const INTERRUPT_PIN: usize = 0x3d;
/// Capabilities lie from here on.
const FIRST_CAPABILITY: usize = 0x40;

const COMMAND_MEMORY: u8 = 1 << 1;
/// Memory, bus master and parity enables.
const COMMAND_LOW_WRITABLE: u8 = 0x46;
/// SERR enable and interrupt disable.
const COMMAND_HIGH_WRITABLE: u8 = 0x05;
const INTERRUPT_DISABLE: u8 = 0x04;
const STATUS_INTERRUPT: u8 = 1 << 3;
const STATUS_CAPABILITIES: u8 = 1 << 4;

/// The smallest memory BAR: its low four bits are flags.
const MIN_BAR: u32 = 16;

/// Who a function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Revision ID.
    pub revision: u8,
    /// Class code: base class, sub-class, programming interface.
    pub class: u32,
    /// Subsystem vendor ID and subsystem ID.
    pub subsystem: (u16, u16),
}

/// A range of memory addresses that a function decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// Which BAR.
    pub bar: u8,
    /// Its first address.
    pub start: u64,
    /// Its length in bytes.
    pub len: u64,
}

/// What a guest has written; the rest is the function's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigState {
    bytes: Vec<u8>,
}

/// A configuration space.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    writable: [u8; SIZE],
    initial: [u8; SIZE],
    bar_sizes: [u32; 6],
    /// Where the next capability goes, and where its offset is to be written.
    next: usize,
    link: usize,
}

impl ConfigSpace {
    /// A space with no BARs and no capabilities.
    pub fn new(identity: Identity) -> Self {
        let mut space = Self {
            bytes: [0; SIZE],
            writable: [0; SIZE],
            initial: [0; SIZE],
            bar_sizes: [0; 6],
            next: FIRST_CAPABILITY,
            link: CAPABILITIES,
        };
        space.preset(0, &identity.vendor.to_le_bytes());
        space.preset(2, &identity.device.to_le_bytes());
        space.preset(8, &(identity.class << 8 | u32::from(identity.revision)).to_le_bytes());
        space.preset(SUBSYSTEM, &identity.subsystem.0.to_le_bytes());
        space.preset(SUBSYSTEM + 2, &identity.subsystem.1.to_le_bytes());
        space.allow(COMMAND, &[COMMAND_LOW_WRITABLE, COMMAND_HIGH_WRITABLE]);
        space.allow(CACHE_LINE, &[0xff]);
        space.allow(LATENCY, &[0xff]);
        space.allow(INTERRUPT_LINE, &[0xff]);
        space
    }

    fn preset(&mut self, at: usize, bytes: &[u8]) {
        for (index, byte) in bytes.iter().enumerate() {
            if let (Some(now), Some(initial)) =
                (self.bytes.get_mut(at + index), self.initial.get_mut(at + index))
            {
                (*now, *initial) = (*byte, *byte);
            }
        }
    }

    fn allow(&mut self, at: usize, mask: &[u8]) {
        for (byte, mask) in self.writable.iter_mut().skip(at).zip(mask) {
            *byte = *mask;
        }
    }

    /// Makes BAR `index` decode `size` bytes of 32-bit memory; `size` is a
    /// power of two.
    pub fn add_memory_bar(&mut self, index: u8, size: u32) {
        let size = size.max(MIN_BAR).next_power_of_two();
        if let Some(slot) = self.bar_sizes.get_mut(usize::from(index)) {
            *slot = size;
            self.allow(BARS + 4 * usize::from(index), &(!(size - 1)).to_le_bytes());
        }
    }

    /// The function uses INTA.
    pub fn use_interrupt_pin(&mut self) {
        self.preset(INTERRUPT_PIN, &[1]);
    }

    /// Appends a capability: its identity, what follows the link, and which of
    /// that can be written. Returns its offset, None if there is no room.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Option<u8> {
        let at = self.next;
        let end = at + 2 + body.len();
        let offset = u8::try_from(at).ok().filter(|_| end <= SIZE)?;
        self.preset(self.link, &[offset]);
        self.preset(at, &[id, 0]);
        self.preset(at + 2, body);
        self.allow(at + 2, writable);
        self.preset(STATUS, &[STATUS_CAPABILITIES]);
        self.link = at + 1;
        self.next = end.next_multiple_of(4);
        Some(offset)
    }

    /// Returns to the state at power-on.
    pub fn reset(&mut self) {
        self.bytes = self.initial;
    }

    /// What a guest has written.
    pub fn state(&self) -> ConfigState {
        ConfigState { bytes: self.bytes.to_vec() }
    }

    /// Restores what [`ConfigSpace::state`] returned; only what a guest could
    /// have written is taken.
    pub fn set_state(&mut self, state: &ConfigState) {
        self.bytes = self.initial;
        for (offset, value) in state.bytes.iter().enumerate().take(SIZE) {
            self.write_byte(offset, *value);
        }
    }

    /// Reads `size` (1, 2 or 4) bytes; what lies behind the space is zero.
    pub fn read(&self, offset: u16, size: u8) -> u32 {
        let bytes = self.bytes.iter().skip(usize::from(offset)).take(usize::from(size.min(4)));
        bytes.rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
    }

    /// Writes `size` (1, 2 or 4) bytes.
    pub fn write(&mut self, offset: u16, size: u8, value: u32) {
        for (index, byte) in value.to_le_bytes().iter().enumerate().take(usize::from(size)) {
            self.write_byte(usize::from(offset) + index, *byte);
        }
    }

    fn write_byte(&mut self, offset: usize, value: u8) {
        let mask = self.writable.get(offset).copied().unwrap_or(0);
        if let Some(byte) = self.bytes.get_mut(offset) {
            *byte = (*byte & !mask) | (value & mask);
        }
    }

    fn byte(&self, offset: usize) -> u8 {
        self.bytes.get(offset).copied().unwrap_or(0)
    }

    /// Whether the guest has forbidden INTx.
    pub fn interrupt_disabled(&self) -> bool {
        self.byte(COMMAND + 1) & INTERRUPT_DISABLE != 0
    }

    /// Shows in the status register whether an interrupt is asked for.
    pub fn show_interrupt(&mut self, asserted: bool) {
        if let Some(status) = self.bytes.get_mut(STATUS) {
            *status = *status & !STATUS_INTERRUPT | if asserted { STATUS_INTERRUPT } else { 0 };
        }
    }

    /// The memory that the function decodes at present.
    pub fn memory(&self) -> Vec<MemoryRange> {
        if self.byte(COMMAND) & COMMAND_MEMORY == 0 {
            return Vec::new();
        }
        let bars = (0_u8..).zip(self.bar_sizes).filter(|(_, size)| *size != 0);
        let range = |(bar, size)| {
            let start = u64::from(self.read(BARS as u16 + 4 * u16::from(bar), 4) & !0xf);
            MemoryRange { bar, start, len: u64::from(size) }
        };
        bars.map(range).filter(|range| range.start != 0).collect()
    }

    /// Does what firmware would: puts the BARs at `next` and behind, switches
    /// decoding on, and notes the interrupt line.
    pub fn configure(&mut self, next: &mut u32, line: u8) {
        for (index, size) in self.bar_sizes.into_iter().enumerate().filter(|(_, size)| *size != 0) {
            // Pages of their own, so that nothing else is mapped with them.
            let size = size.max(0x1000);
            *next = next.checked_next_multiple_of(size).unwrap_or(!(size - 1));
            self.write((BARS + 4 * index) as u16, 4, *next);
            *next = next.saturating_add(size);
        }
        self.write_byte(COMMAND, self.byte(COMMAND) | COMMAND_MEMORY);
        if self.byte(INTERRUPT_PIN) != 0 {
            self.write_byte(INTERRUPT_LINE, line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> ConfigSpace {
        let mut space = ConfigSpace::new(Identity {
            vendor: 0x1af4,
            device: 0x1042,
            revision: 1,
            class: 0x01_0000,
            subsystem: (0x1af4, 0x40),
        });
        space.add_memory_bar(0, 0x4000);
        space.add_memory_bar(1, 0x1000);
        space.use_interrupt_pin();
        space
    }

    #[test]
    fn a_bar_tells_its_size_and_moves() {
        let mut space = space();
        assert_eq!(space.read(0, 4), 0x1042_1af4);
        assert_eq!(space.read(8, 4), 0x0100_0001);
        space.write(0x10, 4, u32::MAX);
        space.write(0x14, 4, u32::MAX);
        space.write(0x18, 4, u32::MAX);
        assert_eq!([0x10, 0x14, 0x18].map(|bar| space.read(bar, 4)), [0xffff_c000, 0xffff_f000, 0]);
        space.write(0x10, 4, 0xd123_4567);
        assert!(space.memory().is_empty(), "decoding is off");
        space.write(4, 2, 0x0006);
        assert_eq!(space.memory()[0], MemoryRange { bar: 0, start: 0xd123_4000, len: 0x4000 });
        space.reset();
        assert!(space.memory().is_empty());
        assert_eq!(space.read(0x10, 4), 0);
    }

    #[test]
    fn capabilities_are_linked() {
        let mut space = space();
        assert_eq!(space.read(6, 2), 0);
        let first = space.add_capability(0x09, &[0; 14], &[]).unwrap();
        let second = space.add_capability(0x11, &[0xff, 0xff, 1], &[0, 0x80]).unwrap();
        assert_eq!((first, second), (0x40, 0x50));
        assert_eq!((space.read(6, 2), space.read(0x34, 1)), (0x10, 0x40));
        assert_eq!((space.read(0x40, 2), space.read(0x50, 2)), (0x5009, 0x0011));
        space.write(0x52, 2, 0);
        assert_eq!(space.read(0x52, 2), 0x7fff);
        assert_eq!(space.add_capability(9, &[0; 200], &[]), None);
    }

    #[test]
    fn configuring_aligns_and_enables() {
        let mut space = space();
        let mut next = 0xc000_1000;
        space.configure(&mut next, 11);
        let starts: Vec<_> = space.memory().iter().map(|range| range.start).collect();
        assert_eq!((starts, next), (vec![0xc000_4000, 0xc000_8000], 0xc000_9000));
        assert_eq!(space.read(0x3c, 2), 0x010b);
        let state = space.state();
        let mut other = self::space();
        other.set_state(&state);
        assert_eq!(other.memory(), space.memory());
    }
}
