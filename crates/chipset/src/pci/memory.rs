//! The bus by memory addresses: ECAM, and the functions' BARs.

use super::{PciBus, PciSlot};
use crate::acpi::pci_isa_interrupt;

/// Where ECAM lies: below the I/O APIC, above the window for BARs.
pub const ECAM_BASE: u64 = 0xe000_0000;
/// One bus: 4 KiB for each function.
pub const ECAM_SIZE: u64 = 1 << 20;

impl PciBus {
    /// Asks all functions which memory they decode.
    pub(super) fn find_ranges(&mut self) {
        let functions = self.functions.iter();
        let ranges =
            functions.flat_map(|(slot, function)| function.memory().into_iter().map(|range| (*slot, range)));
        self.ranges = ranges.collect();
        self.find_bells();
    }

    /// Who decodes all `len` bytes at `at`: the function, its BAR, the offset.
    fn decoder(&self, at: u64, len: usize) -> Option<(PciSlot, u8, u64)> {
        self.ranges.iter().find_map(|(slot, range)| {
            let offset = at.checked_sub(range.start)?;
            let end = offset.checked_add(len as u64)?;
            (end <= range.len).then_some((*slot, range.bar, offset))
        })
    }

    /// Reads 1 to 8 bytes; false if nothing on the bus decodes them.
    pub fn memory_read(&mut self, at: u64, data: &mut [u8]) -> bool {
        if let Some(offset) = ecam_offset(at) {
            self.ecam_read(offset, data);
            return true;
        }
        let Some((slot, bar, offset)) = self.decoder(at, data.len()) else { return false };
        if let Some(function) = self.function(slot) {
            function.memory_read(bar, offset, data);
        }
        true
    }

    /// Writes 1 to 8 bytes; false if nothing on the bus decodes them.
    pub fn memory_write(&mut self, at: u64, data: &[u8]) -> bool {
        if let Some(offset) = ecam_offset(at) {
            self.ecam_write(offset, data);
            return true;
        }
        let Some((slot, bar, offset)) = self.decoder(at, data.len()) else { return false };
        if let Some(function) = self.function(slot) {
            function.memory_write(bar, offset, data);
            // A window onto another BAR, or a reset, may have changed them.
        }
        true
    }

    fn ecam_read(&mut self, offset: u64, data: &mut [u8]) {
        for (at, size, range) in pieces(offset, data.len()) {
            let (slot, register) = place(at);
            let value = self.read_config(slot, register, size).to_le_bytes();
            for (byte, value) in data.iter_mut().skip(range).zip(value).take(usize::from(size)) {
                *byte = value;
            }
        }
    }

    fn ecam_write(&mut self, offset: u64, data: &[u8]) {
        for (at, size, range) in pieces(offset, data.len()) {
            let (slot, register) = place(at);
            let bytes = data.iter().skip(range).take(usize::from(size)).rev();
            let value = bytes.fold(0, |value, byte| value << 8 | u32::from(*byte));
            self.write_config(slot, register, size, value);
        }
    }

    /// Does what firmware would have done before it started a system: places
    /// all BARs from `window` on and notes the interrupt lines.
    pub fn configure(&mut self, window: u32) {
        let mut next = window;
        for (slot, function) in &mut self.functions {
            function.configure(&mut next, pci_isa_interrupt(slot.device, 0));
        }
        self.find_ranges();
    }
}

fn ecam_offset(at: u64) -> Option<u64> {
    at.checked_sub(ECAM_BASE).filter(|offset| *offset < ECAM_SIZE)
}

/// The function and register that an offset in ECAM names.
fn place(offset: u64) -> (PciSlot, u16) {
    let device = (offset >> 15) as u8 & 0x1f;
    let function = (offset >> 12) as u8 & 7;
    (PciSlot { device, function }, offset as u16 & 0xfff)
}

/// An access in pieces that do not cross a dword: where, how long, and at
/// which byte of the data.
fn pieces(offset: u64, len: usize) -> Vec<(u64, u8, usize)> {
    let mut pieces = Vec::new();
    let mut done = 0;
    while done < len {
        let at = offset + done as u64;
        let size = match (at % 4, len - done) {
            (0, 4..) => 4,
            (0 | 2, 2..) => 2,
            _ => 1,
        };
        pieces.push((at, size, done));
        done += usize::from(size);
    }
    pieces
}
