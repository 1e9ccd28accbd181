//! The 8254 interval timer and system control port B (0x61), which holds the
//! gate of counter 2, the speaker and the refresh toggle.
//!
//! Counter 0 drives the system timer interrupt, counter 1 once refreshed memory
//! and counter 2 sounds the speaker.

mod access;
mod counter;
#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::bytes::{read_bytes, write_bytes};
use crate::{Device, Line, VmTime};
pub use access::CounterState;

/// Ticks per second of all three counters.
pub const PIT_HZ: u64 = 1_193_182;

const COUNTER_0: u16 = 0x40;
const CONTROL: u16 = 0x43;
const PORT_B: u16 = 0x61;
/// Port 0x61: gate 2, speaker data and the two NMI enables can be written.
const PORT_B_WRITABLE: u8 = 0x0f;
const GATE_2: u8 = 0x01;
const REFRESH_TOGGLE: u8 = 0x10;
const OUT_2: u8 = 0x20;
/// Counter 1 refreshes memory every 18 ticks: 15 us.
const REFRESH_TICKS: u64 = 18;

/// The state of the timer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PitState {
    counters: [CounterState; 3],
    port_b: u8,
    /// The tick up to which OUT0 was brought to the line.
    seen: u64,
    out0: bool,
}

impl Default for PitState {
    fn default() -> Self {
        Self { counters: [true, true, false].map(CounterState::new), port_b: 0, seen: 0, out0: false }
    }
}

/// The 8254 and port 0x61.
#[derive(Debug)]
pub struct Pit {
    state: PitState,
    irq: Line,
}

impl Pit {
    /// The ports that the timer decodes.
    pub const PORTS: &'static [RangeInclusive<u16>] = &[COUNTER_0..=CONTROL, PORT_B..=PORT_B];

    /// A timer whose counter 0 drives `irq`.
    pub fn new(irq: Line) -> Self {
        Self { state: PitState::default(), irq }
    }

    /// The whole state.
    pub fn state(&self) -> PitState {
        self.state.clone()
    }

    /// Restores what [`Pit::state`] returned and drives the line accordingly.
    pub fn set_state(&mut self, state: PitState) {
        self.state = state;
        self.irq.set(self.state.out0);
    }

    /// Whether the speaker is on and what it is driven with.
    pub fn speaker(&mut self, now: VmTime) -> bool {
        let [_, _, counter_2] = &mut self.state.counters;
        self.state.port_b & 0x02 != 0 && counter_2.out(tick(now))
    }

    /// Brings the line to where OUT0 is. However late the call, the line sees
    /// at most one pulse and one change.
    fn drive(&mut self, tick: u64) {
        let [counter_0, ..] = &mut self.state.counters;
        let mut rose = counter_0.timing.rose(self.state.seen, tick);
        counter_0.timing.settle(tick);
        rose |= counter_0.timing.rose(self.state.seen, tick);
        let level = counter_0.out(tick);
        self.state.seen = tick;
        if rose {
            self.irq.set(false);
            self.irq.set(true);
        }
        self.state.out0 = level;
        self.irq.set(level);
    }

    fn read(&mut self, tick: u64, port: u16) -> u8 {
        let [counter_0, counter_1, counter_2] = &mut self.state.counters;
        match port {
            0x40 => counter_0.read(tick),
            0x41 => counter_1.read(tick),
            0x42 => counter_2.read(tick),
            PORT_B => {
                let refresh = if tick / REFRESH_TICKS % 2 == 1 { REFRESH_TOGGLE } else { 0 };
                let out2 = if counter_2.out(tick) { OUT_2 } else { 0 };
                (self.state.port_b & PORT_B_WRITABLE) | refresh | out2
            }
            _ => 0xff,
        }
    }

    fn write(&mut self, tick: u64, port: u16, value: u8) {
        let [counter_0, counter_1, counter_2] = &mut self.state.counters;
        match port {
            0x40 => counter_0.write(tick, value),
            0x41 => counter_1.write(tick, value),
            0x42 => counter_2.write(tick, value),
            CONTROL => self.control(tick, value),
            PORT_B => {
                self.state.port_b = value & PORT_B_WRITABLE;
                counter_2.timing.set_gate(tick, value & GATE_2 != 0);
            }
            _ => {}
        }
    }

    /// The control word: select a mode, latch a count, or read back.
    fn control(&mut self, tick: u64, value: u8) {
        let counters = &mut self.state.counters;
        match usize::from(value >> 6) {
            3 => {
                let selected = counters.iter_mut().enumerate();
                for (_, counter) in selected.filter(|(index, _)| value & (2 << index) != 0) {
                    counter.read_back(tick, value & 0x20 == 0, value & 0x10 == 0);
                }
            }
            index => {
                if let Some(counter) = counters.get_mut(index) {
                    counter.control(tick, value);
                }
            }
        }
    }
}

fn tick(now: VmTime) -> u64 {
    now.ticks(PIT_HZ)
}

impl Device for Pit {
    fn reset(&mut self, now: VmTime) {
        self.state = PitState { seen: tick(now), ..PitState::default() };
        self.irq.set(false);
    }

    fn port_read(&mut self, now: VmTime, port: u16, size: u8) -> u32 {
        let tick = tick(now);
        self.drive(tick);
        read_bytes(port, size, |port| self.read(tick, port))
    }

    fn port_write(&mut self, now: VmTime, port: u16, size: u8, value: u32) {
        let tick = tick(now);
        self.drive(tick);
        write_bytes(port, size, value, |port, byte| self.write(tick, port, byte));
        self.drive(tick);
    }

    fn deadline(&self) -> Option<VmTime> {
        let [counter_0, ..] = &self.state.counters;
        let next = counter_0.timing.next_change(self.state.seen)?;
        Some(VmTime::of_tick(next, PIT_HZ))
    }

    fn advance(&mut self, now: VmTime) {
        self.drive(tick(now));
    }
}
