//! The I/O APIC: 24 interrupt inputs that become messages to local APICs
//! (Intel 82093AA datasheet; version 0x20 with the EOI register of the chips
//! that followed it).
//!
//! It calls nobody: each call returns the messages that it causes, and the
//! machine routes them.

mod entry;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::lapic::ApicMessage;
use entry::{REMOTE_IRR, RedirectionEntry, WRITABLE};

/// How many inputs the I/O APIC has.
pub const IOAPIC_INPUTS: usize = 24;

/// Where the I/O APIC's registers are on a PC.
pub const IOAPIC_BASE: u64 = 0xfec0_0000;

/// Version 0x20, highest redirection entry in bits 23:16.
const VERSION: u32 = ((IOAPIC_INPUTS as u32 - 1) << 16) | 0x20;

const ID_MASK: u32 = 0x0f00_0000;

// Offsets in the register page.
const IOREGSEL: u64 = 0x00;
const IOWIN: u64 = 0x10;
const EOI: u64 = 0x40;

// Indirect registers.
const IOAPICID: u8 = 0x00;
const IOAPICVER: u8 = 0x01;
const IOAPICARB: u8 = 0x02;
const IOREDTBL: u8 = 0x10;

/// All that changes in an I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoApicState {
    /// IOREGSEL: the register that the window shows.
    pub select: u8,
    /// IOAPICID: the id in bits 27:24.
    pub id: u32,
    /// The redirection table.
    pub redirection: [u64; IOAPIC_INPUTS],
    /// The inputs that are asserted, one bit each.
    pub inputs: u32,
}

/// A saved state that no I/O APIC can be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{register} of the I/O APIC has reserved bits set: {value:#x}")]
pub struct InvalidIoApicState {
    register: &'static str,
    value: u64,
}

/// An I/O APIC.
#[derive(Clone, Debug)]
pub struct IoApic {
    initial_id: u8,
    state: IoApicState,
}

impl IoApic {
    /// An I/O APIC in its power-on state, with the id that firmware gives it.
    pub fn new(id: u8) -> Self {
        Self { initial_id: id, state: power_on(id) }
    }

    /// Power-on (or platform) reset. The inputs stay as they are driven.
    pub fn reset(&mut self) {
        self.state = IoApicState { inputs: self.state.inputs, ..power_on(self.initial_id) };
    }

    /// All state that a snapshot must keep.
    pub fn state(&self) -> IoApicState {
        self.state
    }

    /// Takes over a saved state.
    pub fn set_state(&mut self, state: IoApicState) -> Result<(), InvalidIoApicState> {
        let single = [
            ("the id", u64::from(state.id), u64::from(ID_MASK)),
            ("the set of inputs", u64::from(state.inputs), (1 << IOAPIC_INPUTS) - 1),
        ];
        let entries = state.redirection.iter().map(|value| ("an entry", *value, WRITABLE | REMOTE_IRR));
        for (register, value, defined) in single.into_iter().chain(entries) {
            if value & !defined != 0 {
                return Err(InvalidIoApicState { register, value });
            }
        }
        self.state = state;
        Ok(())
    }

    /// Drives `input`. Polarity bits are kept but mean nothing here: `level`
    /// says whether the source is asserted. Unknown inputs do nothing.
    pub fn set_level(&mut self, input: u32, level: bool) -> Option<ApicMessage> {
        let index = usize::try_from(input).ok().filter(|index| *index < IOAPIC_INPUTS)?;
        let bit = 1 << index;
        let rising = level && self.state.inputs & bit == 0;
        if level {
            self.state.inputs |= bit;
        } else {
            self.state.inputs &= !bit;
        }
        let entry = self.entry(index);
        if entry.is_level() {
            return self.fire_level(index);
        }
        // Edges on a masked input are lost (82093AA datasheet 3.2.4).
        if rising && !entry.masked() { entry.message() } else { None }
    }

    /// A processor has ended the level-triggered interrupt `vector`. Inputs
    /// that are still asserted interrupt again.
    pub fn eoi(&mut self, vector: u8) -> Vec<ApicMessage> {
        (0..IOAPIC_INPUTS)
            .filter_map(|index| {
                let entry = self.entry(index);
                if entry.vector() != vector || !entry.remote_irr() {
                    return None;
                }
                self.set_entry(index, entry.with_remote_irr(false));
                self.fire_level(index)
            })
            .collect()
    }

    /// The messages of the level-triggered inputs, whether masked or not: each
    /// is over with the EOI of its vector.
    pub fn level_messages(&self) -> [Option<ApicMessage>; IOAPIC_INPUTS] {
        std::array::from_fn(|index| self.entry(index).message().filter(|_| self.entry(index).is_level()))
    }

    /// Whether `input` waits for the EOI of its level-triggered interrupt.
    pub fn awaits_eoi(&self, input: u32) -> bool {
        usize::try_from(input)
            .ok()
            .and_then(|index| self.state.redirection.get(index))
            .is_some_and(|entry| entry & REMOTE_IRR != 0)
    }

    /// Reads at `offset` in the register page. Registers are 32 bits wide and
    /// stand alone in their 16-byte slots.
    pub fn mmio_read(&mut self, offset: u64, data: &mut [u8]) {
        let value = match offset & !0xf {
            IOREGSEL => self.state.select.into(),
            IOWIN => self.read_register(self.state.select),
            _ => 0,
        };
        let slot = value.to_le_bytes().into_iter().chain([0; 12]).skip((offset & 0xf) as usize);
        data.fill(0);
        for (byte, from) in data.iter_mut().zip(slot) {
            *byte = from;
        }
    }

    /// Writes at `offset` in the register page. Narrow writes are extended
    /// with zeros; unaligned ones do nothing.
    pub fn mmio_write(&mut self, offset: u64, data: &[u8]) -> Vec<ApicMessage> {
        let mut bytes = [0; 4];
        for (byte, from) in bytes.iter_mut().zip(data) {
            *byte = *from;
        }
        let value = u32::from_le_bytes(bytes);
        match offset {
            IOREGSEL => self.state.select = value as u8,
            IOWIN => return self.write_register(self.state.select, value).into_iter().collect(),
            EOI => return self.eoi(value as u8),
            _ => {}
        }
        Vec::new()
    }

    fn read_register(&self, register: u8) -> u32 {
        match register {
            // The arbitration id is loaded from the id.
            IOAPICID | IOAPICARB => self.state.id,
            IOAPICVER => VERSION,
            _ => match table_position(register) {
                Some((index, false)) => self.state.redirection[index] as u32,
                Some((index, true)) => (self.state.redirection[index] >> 32) as u32,
                None => 0,
            },
        }
    }

    fn write_register(&mut self, register: u8, value: u32) -> Option<ApicMessage> {
        if register == IOAPICID {
            self.state.id = value & ID_MASK;
            return None;
        }
        let (index, high) = table_position(register)?;
        let old = self.state.redirection[index];
        let new = if high {
            u64::from(value) << 32 | old & 0xffff_ffff
        } else {
            old & !0xffff_ffff | u64::from(value)
        };
        let mut entry = RedirectionEntry::from_bits(new & WRITABLE | old & REMOTE_IRR);
        if !entry.is_level() {
            // Software that knows no EOI register clears remote IRR so.
            entry.set_remote_irr(false);
        }
        self.set_entry(index, entry);
        self.fire_level(index)
    }

    fn entry(&self, index: usize) -> RedirectionEntry {
        RedirectionEntry::from_bits(self.state.redirection[index])
    }

    fn set_entry(&mut self, index: usize, entry: RedirectionEntry) {
        self.state.redirection[index] = entry.into_bits();
    }

    /// Sends the message of a level-triggered input that is asserted and
    /// unmasked, unless it was sent and not yet ended.
    fn fire_level(&mut self, index: usize) -> Option<ApicMessage> {
        let entry = self.entry(index);
        let asserted = self.state.inputs & (1 << index) != 0;
        if !asserted || !entry.is_level() || entry.masked() || entry.remote_irr() {
            return None;
        }
        let message = entry.message()?;
        self.set_entry(index, entry.with_remote_irr(true));
        Some(message)
    }
}

fn power_on(id: u8) -> IoApicState {
    IoApicState {
        select: 0,
        id: u32::from(id & 0xf) << 24,
        redirection: [RedirectionEntry::new().with_masked(true).into_bits(); IOAPIC_INPUTS],
        inputs: 0,
    }
}

/// Which redirection entry `register` belongs to, and whether it is the high
/// half.
fn table_position(register: u8) -> Option<(usize, bool)> {
    let position = usize::from(register.checked_sub(IOREDTBL)?);
    (position / 2 < IOAPIC_INPUTS).then_some((position / 2, position % 2 == 1))
}
