//! One counter of the 8254 as a function of time (Intel 231164, "8254
//! Programmable Interval Timer").
//!
//! Nothing happens per tick: the counting element remembers when it was loaded
//! with what, and everything else is computed from that.

use serde::{Deserialize, Serialize};

/// The counting modes, numbered as in the control word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Mode {
    #[default]
    TerminalCount,
    OneShot,
    RateGenerator,
    SquareWave,
    SoftwareStrobe,
    HardwareStrobe,
}

impl Mode {
    /// From bits 3 to 1 of the control word; the top bit of modes 2 and 3 is
    /// "don't care".
    pub(super) fn from_bits(bits: u8) -> Self {
        match bits & 7 {
            0 => Self::TerminalCount,
            1 => Self::OneShot,
            4 => Self::SoftwareStrobe,
            5 => Self::HardwareStrobe,
            bits if bits & 1 == 0 => Self::RateGenerator,
            _ => Self::SquareWave,
        }
    }

    pub(super) fn bits(self) -> u8 {
        self as u8
    }

    fn periodic(self) -> bool {
        matches!(self, Self::RateGenerator | Self::SquareWave)
    }

    /// Whether a rising gate starts the count (modes 1 and 5).
    fn triggered(self) -> bool {
        matches!(self, Self::OneShot | Self::HardwareStrobe)
    }
}

/// The counting element, loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Element {
    /// What it was loaded with: 1 to 65536.
    initial: u32,
    /// The tick of the load, or of the last resumption.
    since: u64,
    /// Ticks that had been counted by then.
    counted: u64,
    running: bool,
}

impl Element {
    fn elapsed(&self, tick: u64) -> u64 {
        let ticks = if self.running { tick.saturating_sub(self.since) } else { 0 };
        self.counted.saturating_add(ticks)
    }

    /// The tick at which `elapsed` reaches `count`, if it has or will.
    fn tick_of(&self, count: u64) -> Option<u64> {
        let ahead = count.checked_sub(self.counted)?;
        if self.running { self.since.checked_add(ahead) } else { None }
    }

    fn freeze(&mut self, tick: u64) {
        self.counted = self.elapsed(tick);
        self.running = false;
    }
}

/// A count that waits for the end of the running period or half-period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Reload {
    at: u64,
    initial: u32,
}

/// Mode, gate and counting element of one counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Timing {
    mode: Mode,
    bcd: bool,
    gate: bool,
    /// The count register, once it was written.
    register: Option<u32>,
    element: Option<Element>,
    reload: Option<Reload>,
    /// The tick from which the element holds what was written.
    null_until: u64,
}

const NEVER: u64 = u64::MAX;

impl Timing {
    pub(super) fn new(gate: bool) -> Self {
        Self {
            mode: Mode::TerminalCount,
            bcd: false,
            gate,
            register: None,
            element: None,
            reload: None,
            null_until: NEVER,
        }
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    pub(super) fn bcd(&self) -> bool {
        self.bcd
    }

    pub(super) fn gate(&self) -> bool {
        self.gate
    }

    /// The control word: counting stops until a count is written.
    pub(super) fn set_mode(&mut self, mode: Mode, bcd: bool) {
        *self = Self { mode, bcd, ..Self::new(self.gate) };
    }

    /// The first byte of a two-byte count stops mode 0.
    pub(super) fn first_byte_written(&mut self) {
        if self.mode == Mode::TerminalCount {
            self.element = None;
        }
    }

    /// A whole count was written to the count register.
    pub(super) fn write(&mut self, tick: u64, raw: u16) {
        self.settle(tick);
        let initial = self.decode(raw);
        self.register = Some(initial);
        self.null_until = NEVER;
        match self.mode {
            Mode::TerminalCount | Mode::SoftwareStrobe => self.load(tick, initial),
            Mode::OneShot | Mode::HardwareStrobe => {}
            Mode::RateGenerator | Mode::SquareWave => match self.element.filter(|e| e.running) {
                Some(element) => {
                    let at = self.half_end(&element, tick);
                    self.reload = Some(Reload { at, initial });
                    self.null_until = at;
                }
                None if self.gate => self.load(tick, initial),
                None => {}
            },
        }
    }

    pub(super) fn set_gate(&mut self, tick: u64, gate: bool) {
        if gate == self.gate {
            return;
        }
        self.settle(tick);
        self.gate = gate;
        if self.mode.triggered() || self.mode.periodic() {
            match (gate, self.register) {
                (true, Some(initial)) => self.load(tick, initial),
                (false, _) if self.mode.periodic() => self.freeze(tick),
                _ => {}
            }
        } else if !gate {
            self.freeze(tick);
        } else if let Some(element) = &mut self.element {
            element.since = tick;
            element.running = true;
        }
    }

    /// The element takes the count with the next clock.
    fn load(&mut self, tick: u64, initial: u32) {
        let since = tick.saturating_add(1);
        let running = self.gate || self.mode.triggered();
        self.element = Some(Element { initial, since, counted: 0, running });
        self.reload = None;
        self.null_until = since;
    }

    fn freeze(&mut self, tick: u64) {
        self.reload = None;
        if let Some(element) = &mut self.element {
            element.freeze(tick);
        }
    }

    /// Makes a reload that has become due the present.
    pub(super) fn settle(&mut self, tick: u64) {
        let Some(Reload { at, initial }) = self.reload.filter(|reload| reload.at <= tick) else {
            return;
        };
        let Some(old) = self.element else { return };
        // In mode 3 the new count may begin with its low half.
        let low =
            self.mode == Mode::SquareWave && old.elapsed(at) % period(old.initial) == high_half(old.initial);
        let counted = if low { high_half(initial) } else { 0 };
        self.element = Some(Element { initial, since: at, counted, running: true });
        self.reload = None;
    }

    fn half_end(&self, element: &Element, tick: u64) -> u64 {
        let phase = element.elapsed(tick) % period(element.initial);
        let high = high_half(element.initial);
        let end = if self.mode == Mode::SquareWave && phase < high { high } else { period(element.initial) };
        tick.max(element.since).saturating_add(end - phase)
    }

    /// The OUT pin. [`Timing::settle`] comes first. Mode 1 falls with the
    /// trigger, not a tick later, which only counter 2 could show.
    pub(super) fn out(&self, tick: u64) -> bool {
        let Some(element) = &self.element else {
            return self.mode != Mode::TerminalCount;
        };
        let elapsed = element.elapsed(tick);
        let initial = u64::from(element.initial);
        match self.mode {
            Mode::TerminalCount | Mode::OneShot => elapsed >= initial,
            Mode::SoftwareStrobe | Mode::HardwareStrobe => elapsed != initial,
            // A count of 1 is illegal in modes 2 and 3: OUT stays high.
            _ if !self.gate || initial < 2 => true,
            Mode::RateGenerator => elapsed % initial != initial - 1,
            Mode::SquareWave => elapsed % initial < high_half(element.initial),
        }
    }

    /// Whether OUT has risen after tick `after`, up to `tick`, by counting.
    pub(super) fn rose(&self, after: u64, tick: u64) -> bool {
        let Some(element) = &self.element else { return false };
        let tick = self.reload.map_or(tick, |reload| reload.at.min(tick));
        let initial = u64::from(element.initial);
        let last = match self.mode {
            Mode::TerminalCount | Mode::OneShot => element.tick_of(initial),
            Mode::SoftwareStrobe | Mode::HardwareStrobe => element.tick_of(initial + 1),
            _ if !self.gate || initial < 2 || !element.running => None,
            _ => {
                let elapsed = element.elapsed(tick);
                (elapsed >= initial).then(|| tick.saturating_sub(elapsed % initial))
            }
        };
        last.is_some_and(|last| last > after && last <= tick)
    }

    /// The next tick at which OUT changes in a way that somebody can see. The
    /// low pulse of one tick counts as one change, at its end.
    pub(super) fn next_change(&self, tick: u64) -> Option<u64> {
        let element = self.element.as_ref()?;
        let initial = u64::from(element.initial);
        let at = match self.mode {
            Mode::TerminalCount | Mode::OneShot => element.tick_of(initial),
            Mode::SoftwareStrobe | Mode::HardwareStrobe => element.tick_of(initial + 1),
            _ if !self.gate || initial < 2 || !element.running => None,
            _ => Some(self.half_end(element, tick)),
        };
        at.filter(|at| *at > tick)
    }

    /// What a read of the counter gives: binary or BCD.
    pub(super) fn count(&self, tick: u64) -> u16 {
        let Some(element) = &self.element else {
            return self.register.map_or(0, |count| self.encode(u64::from(count)));
        };
        let elapsed = element.elapsed(tick);
        let initial = u64::from(element.initial);
        let modulus = if self.bcd { 10_000 } else { 0x1_0000 };
        let count = match self.mode {
            Mode::RateGenerator => initial - elapsed % initial.max(1),
            Mode::SquareWave => {
                let phase = elapsed % initial.max(1);
                let high = high_half(element.initial);
                let step = if phase < high { phase } else { phase - high };
                (initial & !1).saturating_sub(2 * step)
            }
            _ => (initial + modulus - elapsed % modulus) % modulus,
        };
        self.encode(count)
    }

    /// Whether the count written has not reached the counting element yet.
    pub(super) fn null_count(&self, tick: u64) -> bool {
        tick < self.null_until
    }

    fn decode(&self, raw: u16) -> u32 {
        if !self.bcd {
            return if raw == 0 { 0x1_0000 } else { u32::from(raw) };
        }
        let digit = |shift: u32| u32::from(raw >> shift) & 0xf;
        let count = digit(12) * 1000 + digit(8) * 100 + digit(4) * 10 + digit(0);
        if count == 0 { 10_000 } else { count }
    }

    fn encode(&self, count: u64) -> u16 {
        if !self.bcd {
            return count as u16;
        }
        let digit = |power: u64| (count / power % 10) as u16;
        digit(1000) << 12 | digit(100) << 8 | digit(10) << 4 | digit(1)
    }
}

fn period(initial: u32) -> u64 {
    u64::from(initial.max(1))
}

/// Ticks for which mode 3 keeps OUT high.
fn high_half(initial: u32) -> u64 {
    u64::from(initial).div_ceil(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing(mode: u8, count: u16, gate: bool) -> Timing {
        let mut timing = Timing::new(gate);
        timing.set_mode(Mode::from_bits(mode), false);
        timing.write(0, count);
        timing
    }

    fn wave(timing: &mut Timing, ticks: std::ops::Range<u64>) -> String {
        ticks
            .map(|tick| {
                timing.settle(tick);
                if timing.out(tick) { '-' } else { '_' }
            })
            .collect()
    }

    #[test]
    fn waveforms_are_the_manuals() {
        assert_eq!(wave(&mut timing(0, 4, true), 0..8), "_____---");
        assert_eq!(wave(&mut timing(1, 3, true), 0..6), "------");
        assert_eq!(wave(&mut timing(2, 3, true), 0..10), "---_--_--_");
        assert_eq!(wave(&mut timing(3, 4, true), 1..13), "--__--__--__");
        assert_eq!(wave(&mut timing(3, 5, true), 1..11), "---__---__");
        assert_eq!(wave(&mut timing(4, 3, true), 0..8), "----_---");
        assert_eq!(wave(&mut timing(6, 3, true), 0..4), "---_", "bit 2 of mode 2 is ignored");
    }

    #[test]
    fn gate_pauses_modes_0_and_4() {
        for (mode, expected) in [(0, "___________---"), (4, "-----------_--")] {
            let mut timing = timing(mode, 6, true);
            let mut seen = wave(&mut timing, 0..3);
            timing.set_gate(3, false);
            seen += &wave(&mut timing, 3..7);
            timing.set_gate(7, true);
            seen += &wave(&mut timing, 7..14);
            assert_eq!(seen, expected);
        }
    }

    #[test]
    fn gate_triggers_modes_1_and_5() {
        let mut one_shot = timing(1, 3, false);
        one_shot.set_gate(2, true);
        assert_eq!(wave(&mut one_shot, 2..8), "____--");
        one_shot.set_gate(8, false);
        one_shot.set_gate(9, true);
        one_shot.set_gate(10, false);
        one_shot.set_gate(11, true);
        assert_eq!(wave(&mut one_shot, 11..17), "____--", "retriggered");
        let mut strobe = timing(5, 3, false);
        strobe.set_gate(2, true);
        assert_eq!(wave(&mut strobe, 2..8), "----_-");
    }

    #[test]
    fn gate_restarts_modes_2_and_3() {
        for mode in [2, 3] {
            let mut timing = timing(mode, 4, true);
            timing.set_gate(4, false);
            assert_eq!(wave(&mut timing, 4..8), "----");
            timing.set_gate(8, true);
            assert_eq!(timing.count(9), 4);
        }
    }

    #[test]
    fn a_new_count_waits_for_the_period_in_mode_2() {
        let mut timing = timing(2, 4, true);
        timing.write(2, 3);
        assert!(timing.null_count(4));
        assert_eq!(wave(&mut timing, 1..11), "---_--_--_");
        assert!(!timing.null_count(10));
    }

    #[test]
    fn a_new_count_waits_for_the_half_in_mode_3() {
        let mut timing = timing(3, 8, true);
        timing.write(2, 4);
        assert_eq!(wave(&mut timing, 1..13), "----__--__--");
    }

    #[test]
    fn counts_go_down_and_wrap() {
        let down = timing(0, 4, true);
        assert_eq!([1, 2, 5, 6].map(|tick| down.count(tick)), [4, 3, 0, 0xffff]);
        let square = timing(3, 5, true);
        assert_eq!([1, 2, 3, 4, 5, 6].map(|tick| square.count(tick)), [4, 2, 0, 4, 2, 4]);
        let mut bcd = Timing::new(true);
        bcd.set_mode(Mode::TerminalCount, true);
        bcd.write(0, 0x0101);
        assert_eq!([1, 3, 103].map(|tick| bcd.count(tick)), [0x0101, 0x0099, 0x9999]);
        bcd.write(200, 0);
        assert_eq!(bcd.count(202), 0x9999);
    }

    #[test]
    fn changes_are_found_without_walking() {
        let rate = timing(2, 100, true);
        assert_eq!(rate.next_change(0), Some(101));
        assert_eq!(rate.next_change(101), Some(201));
        assert!(!rate.rose(0, 100));
        assert!(rate.rose(0, 101) && rate.rose(100, 1_000_000));
        assert!(!rate.rose(101, 200));
        let square = timing(3, 100, true);
        assert_eq!([1, 51].map(|tick| square.next_change(tick)), [Some(51), Some(101)]);
        let count = timing(0, 10, true);
        assert_eq!((count.next_change(0), count.next_change(11)), (Some(11), None));
        assert_eq!(timing(2, 1, true).next_change(5), None, "an illegal count is no storm");
    }
}
