//! The two 8259A interrupt controllers of a PC, the second one cascaded into
//! input 2 of the first, with the edge/level control registers (ELCR) of the
//! PIIX.
//!
//! Where the machine differs from the bare chip: an edge, once seen, stays
//! requested until it is acknowledged, even if the line falls before (devices
//! here pulse their lines in no time).

mod chip;
#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::bytes::{read_bytes, write_bytes};
use crate::{Device, VmTime};
use chip::Cascade;
pub use chip::ChipState;

const MASTER: u16 = 0x20;
const SLAVE: u16 = 0xa0;
const ELCR: u16 = 0x4d0;
/// The master's input that the slave drives.
const CASCADE_IRQ: u8 = 2;
/// What a spurious interrupt looks like.
const SPURIOUS_IRQ: u8 = 7;
/// IRQ 0 to 2, 8 and 13 are always edge-triggered.
const ELCR_MASKS: [u8; 2] = [0xf8, 0xde];

/// The state of both chips.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PicState {
    master: ChipState,
    slave: ChipState,
}

/// The 8259A pair.
#[derive(Debug, Default)]
pub struct Pic {
    state: PicState,
}

impl Pic {
    /// The ports that the pair decodes.
    pub const PORTS: &'static [RangeInclusive<u16>] =
        &[MASTER..=MASTER + 1, SLAVE..=SLAVE + 1, ELCR..=ELCR + 1];

    /// A pair in power-on state, all masked.
    pub fn new() -> Self {
        Self::default()
    }

    /// The whole state.
    pub fn state(&self) -> PicState {
        self.state.clone()
    }

    /// Restores what [`Pic::state`] returned.
    pub fn set_state(&mut self, state: PicState) {
        self.state = state;
    }

    /// Drives input `irq` (0 to 15, others are ignored). Input 2 belongs to the
    /// cascade.
    pub fn set_irq(&mut self, irq: u8, level: bool) {
        match irq {
            CASCADE_IRQ => {}
            0..8 => self.state.master.set_line(irq, level),
            8..16 => self.state.slave.set_line(irq - 8, level),
            _ => {}
        }
    }

    /// Whether the master's INT output asks the processor for an interrupt.
    pub fn intr_asserted(&self) -> bool {
        self.state.master.pending(self.cascade()).is_some()
    }

    /// The processor's INTA cycle: the vector of the interrupt that it must
    /// take; that of input 7 if the request is gone.
    pub fn acknowledge(&mut self) -> u8 {
        let Some(irq) = self.state.master.pending(self.cascade()) else {
            return self.state.master.vector(SPURIOUS_IRQ);
        };
        self.state.master.acknowledge(irq);
        if irq != CASCADE_IRQ {
            return self.state.master.vector(irq);
        }
        let slave = &mut self.state.slave;
        match slave.pending(Cascade::default()) {
            Some(irq) => {
                slave.acknowledge(irq);
                slave.vector(irq)
            }
            None => slave.vector(SPURIOUS_IRQ),
        }
    }

    fn cascade(&self) -> Cascade {
        let inputs = 1 << CASCADE_IRQ;
        let active = self.state.slave.pending(Cascade::default()).map_or(0, |_| inputs);
        Cascade { inputs, active }
    }

    fn read(&mut self, port: u16) -> u8 {
        let cascade = self.cascade();
        let PicState { master, slave } = &mut self.state;
        match port {
            0x20 | 0x21 => master.read(port & 1 != 0, cascade),
            0xa0 | 0xa1 => slave.read(port & 1 != 0, Cascade::default()),
            0x4d0 => master.elcr(),
            0x4d1 => slave.elcr(),
            _ => 0xff,
        }
    }

    fn write(&mut self, port: u16, value: u8) {
        let PicState { master, slave } = &mut self.state;
        let [master_levels, slave_levels] = ELCR_MASKS;
        match port {
            0x20 => master.write_even(value),
            0x21 => master.write_odd(value),
            0xa0 => slave.write_even(value),
            0xa1 => slave.write_odd(value),
            0x4d0 => master.set_elcr(value & master_levels),
            0x4d1 => slave.set_elcr(value & slave_levels),
            _ => {}
        }
    }
}

impl Device for Pic {
    fn reset(&mut self, _now: VmTime) {
        self.state.master.reset();
        self.state.slave.reset();
    }

    fn port_read(&mut self, _now: VmTime, port: u16, size: u8) -> u32 {
        read_bytes(port, size, |port| self.read(port))
    }

    fn port_write(&mut self, _now: VmTime, port: u16, size: u8, value: u32) {
        write_bytes(port, size, value, |port, byte| self.write(port, byte));
    }
}
