//! How a guest reaches a counter through an 8-bit port: byte order, latches
//! and status.

use serde::{Deserialize, Serialize};

use super::counter::{Mode, Timing};

/// Which bytes of the count are transferred (bits 5 and 4 of the control word).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Bytes {
    Low,
    High,
    #[default]
    LowThenHigh,
}

/// The state of one counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterState {
    pub(super) timing: Timing,
    bytes: Bytes,
    /// The low byte of a count of which the high byte is still to come.
    written_low: Option<u8>,
    /// The next read gives the high byte.
    read_high: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
}

impl CounterState {
    pub(super) fn new(gate: bool) -> Self {
        Self {
            timing: Timing::new(gate),
            bytes: Bytes::default(),
            written_low: None,
            read_high: false,
            latched_count: None,
            latched_status: None,
        }
    }

    pub(super) fn out(&mut self, tick: u64) -> bool {
        self.timing.settle(tick);
        self.timing.out(tick)
    }

    /// A control word for this counter.
    pub(super) fn control(&mut self, tick: u64, value: u8) {
        let bytes = match value >> 4 & 3 {
            0 => return self.latch_count(tick),
            1 => Bytes::Low,
            2 => Bytes::High,
            _ => Bytes::LowThenHigh,
        };
        let mut fresh = Self { bytes, ..Self::new(self.timing.gate()) };
        fresh.timing.set_mode(Mode::from_bits(value >> 1), value & 1 != 0);
        *self = fresh;
    }

    /// The read-back command. What is latched stays latched until it is read.
    pub(super) fn read_back(&mut self, tick: u64, count: bool, status: bool) {
        if count {
            self.latch_count(tick);
        }
        if status && self.latched_status.is_none() {
            self.latched_status = Some(self.status(tick));
        }
    }

    fn latch_count(&mut self, tick: u64) {
        self.timing.settle(tick);
        self.latched_count.get_or_insert(self.timing.count(tick));
    }

    fn status(&mut self, tick: u64) -> u8 {
        let out = u8::from(self.out(tick)) << 7;
        let null = u8::from(self.timing.null_count(tick)) << 6;
        let bytes = match self.bytes {
            Bytes::Low => 0x10,
            Bytes::High => 0x20,
            Bytes::LowThenHigh => 0x30,
        };
        out | null | bytes | self.timing.mode().bits() << 1 | u8::from(self.timing.bcd())
    }

    pub(super) fn read(&mut self, tick: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        self.timing.settle(tick);
        let [low, high] = self.latched_count.unwrap_or_else(|| self.timing.count(tick)).to_le_bytes();
        let (byte, complete) = match self.bytes {
            Bytes::Low => (low, true),
            Bytes::High => (high, true),
            Bytes::LowThenHigh => {
                self.read_high = !self.read_high;
                if self.read_high { (low, false) } else { (high, true) }
            }
        };
        if complete {
            self.latched_count = None;
        }
        byte
    }

    pub(super) fn write(&mut self, tick: u64, value: u8) {
        let count = match (self.bytes, self.written_low.take()) {
            (Bytes::Low, _) => [value, 0],
            (Bytes::High, _) => [0, value],
            (Bytes::LowThenHigh, Some(low)) => [low, value],
            (Bytes::LowThenHigh, None) => {
                self.written_low = Some(value);
                return self.timing.first_byte_written();
            }
        };
        self.timing.write(tick, u16::from_le_bytes(count));
    }
}
