//! The APIC timer (SDM 3A 11.5.4): one-shot, periodic and TSC-deadline, on
//! virtual time. Nothing ticks: counts are computed when they are read.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::registers::{DIVIDE_MASK, LAPIC_TIMER_HZ};
use crate::{NANOS_PER_SEC, VmTime};

/// Nanoseconds in one tick of the undivided clock.
const NANOS_PER_TICK: u64 = NANOS_PER_SEC / LAPIC_TIMER_HZ;

/// A periodic timer asks for service no more often than this, so that a guest
/// that programs a period of a few nanoseconds does not occupy the machine.
/// Expiries in between merge, as they do when service comes late.
const MIN_PERIOD: Duration = Duration::from_micros(20);

/// How the timer counts: bits 18:17 of its LVT entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimerMode {
    OneShot,
    Periodic,
    TscDeadline,
    /// The reserved encoding: the timer does nothing.
    Reserved,
}

impl TimerMode {
    pub(super) const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::OneShot,
            1 => Self::Periodic,
            2 => Self::TscDeadline,
            _ => Self::Reserved,
        }
    }

    const fn counts(self) -> bool {
        matches!(self, Self::OneShot | Self::Periodic)
    }
}

/// The timer's registers and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerState {
    /// Initial count register.
    pub initial_count: u32,
    /// Divide configuration register.
    pub divide_configuration: u32,
    /// When the count was `count`; meaningful while it is not zero.
    pub since: VmTime,
    /// The count at `since`; zero when the timer has stopped.
    pub count: u32,
    /// IA32_TSC_DEADLINE; zero when disarmed.
    pub tsc_deadline: u64,
    /// The deadline in TSC ticks since the machine started; `None` while
    /// disarmed or if that moment never comes.
    pub deadline_tick: Option<u64>,
}

impl TimerState {
    pub(super) const RESET: Self = Self {
        initial_count: 0,
        divide_configuration: 0,
        since: VmTime::ZERO,
        count: 0,
        tsc_deadline: 0,
        deadline_tick: None,
    };

    /// Nanoseconds for one decrement of the count.
    fn nanos_per_count(&self) -> u64 {
        let config = self.divide_configuration;
        let code = (config & 0b11) | (config >> 1 & 0b100);
        // 000 divides by 2, 110 by 128, 111 by 1 (SDM 3A figure 11-10).
        NANOS_PER_TICK << ((code + 1) & 7)
    }

    fn counts_since_start(&self, now: VmTime) -> u64 {
        now.since(self.since).as_nanos() as u64 / self.nanos_per_count()
    }

    /// The current count at `now`.
    pub(super) fn current_count(&self, mode: TimerMode, now: VmTime) -> u32 {
        if !mode.counts() || self.count == 0 {
            return 0;
        }
        let passed = self.counts_since_start(now);
        let count = u64::from(self.count);
        if passed < count {
            return (count - passed) as u32;
        }
        match mode {
            TimerMode::Periodic if self.initial_count != 0 => {
                let initial = u64::from(self.initial_count);
                (initial - (passed - count) % initial) as u32
            }
            _ => 0,
        }
    }

    /// Starts counting from `value`; zero stops the timer.
    pub(super) fn set_initial_count(&mut self, mode: TimerMode, value: u32, now: VmTime) {
        if !mode.counts() {
            return;
        }
        self.initial_count = value;
        self.count = value;
        self.since = now;
    }

    /// Changes the clock's divider; the count goes on from where it is.
    pub(super) fn set_divide(&mut self, mode: TimerMode, value: u32, now: VmTime) {
        self.count = self.current_count(mode, now);
        self.since = now;
        self.divide_configuration = value & DIVIDE_MASK;
    }

    /// Follows a change of mode: going to or from TSC-deadline disarms.
    pub(super) fn change_mode(&mut self, from: TimerMode, to: TimerMode, now: VmTime) {
        if from == to {
            return;
        }
        if from.counts() && to.counts() {
            self.count = self.current_count(from, now);
            self.since = now;
            return;
        }
        let divide_configuration = self.divide_configuration;
        *self = Self { divide_configuration, ..Self::RESET };
    }

    /// Arms the TSC deadline `value`; zero disarms. `tick` is the machine's
    /// TSC tick now, and the guest's TSC runs `offset` ahead of it.
    pub(super) fn set_tsc_deadline(&mut self, value: u64, tick: u64, offset: u64) {
        self.tsc_deadline = value;
        let guest_tsc = tick.wrapping_add(offset);
        self.deadline_tick =
            if value == 0 { None } else { tick.checked_add(value.saturating_sub(guest_tsc)) };
    }

    /// When the timer next expires.
    pub(super) fn deadline(&self, mode: TimerMode, tsc_hz: u64) -> Option<VmTime> {
        match mode {
            TimerMode::OneShot | TimerMode::Periodic => {
                if self.count == 0 {
                    return None;
                }
                let nanos = u64::from(self.count) * self.nanos_per_count();
                let expiry = self.since + Duration::from_nanos(nanos);
                let earliest = if mode == TimerMode::Periodic { self.since + MIN_PERIOD } else { expiry };
                Some(expiry.max(earliest))
            }
            TimerMode::TscDeadline => self.deadline_tick.map(|tick| VmTime::of_tick(tick, tsc_hz)),
            TimerMode::Reserved => None,
        }
    }

    /// Lets the timer run up to `now`. True if it expired, however often.
    pub(super) fn advance(&mut self, mode: TimerMode, tsc_hz: u64, now: VmTime) -> bool {
        match mode {
            TimerMode::OneShot | TimerMode::Periodic => self.advance_count(mode, now),
            TimerMode::TscDeadline => {
                let due = self.deadline_tick.is_some_and(|tick| now.ticks(tsc_hz) >= tick);
                if due {
                    self.tsc_deadline = 0;
                    self.deadline_tick = None;
                }
                due
            }
            TimerMode::Reserved => false,
        }
    }

    fn advance_count(&mut self, mode: TimerMode, now: VmTime) -> bool {
        let count = u64::from(self.count);
        let passed = self.counts_since_start(now);
        if count == 0 || passed < count {
            return false;
        }
        let initial = u64::from(self.initial_count);
        if mode == TimerMode::OneShot || initial == 0 {
            self.count = 0;
            return true;
        }
        let whole = count + (passed - count) / initial * initial;
        self.since = self.since + Duration::from_nanos(whole * self.nanos_per_count());
        self.count = self.initial_count;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> VmTime {
        VmTime::from_nanos(nanos)
    }

    fn started(mode: TimerMode, divide: u32, count: u32) -> TimerState {
        let mut timer = TimerState::RESET;
        timer.set_divide(mode, divide, at(0));
        timer.set_initial_count(mode, count, at(0));
        timer
    }

    #[test]
    fn divides_as_the_manual_says() {
        let expected = [
            (0b0000, 2),
            (0b0001, 4),
            (0b0010, 8),
            (0b0011, 16),
            (0b1000, 32),
            (0b1001, 64),
            (0b1010, 128),
            (0b1011, 1),
        ];
        for (config, divisor) in expected {
            let timer = started(TimerMode::OneShot, config, 1000);
            assert_eq!(timer.deadline(TimerMode::OneShot, 1), Some(at(1000 * divisor)));
        }
    }

    #[test]
    fn one_shot_counts_down_once() {
        let mode = TimerMode::OneShot;
        let mut timer = started(mode, 0b1011, 100);
        assert_eq!(timer.current_count(mode, at(40)), 60);
        assert!(!timer.advance(mode, 1, at(99)));
        assert_eq!(timer.current_count(mode, at(100)), 0);
        assert!(timer.advance(mode, 1, at(100)));
        assert_eq!(timer.deadline(mode, 1), None);
        assert!(!timer.advance(mode, 1, at(1000)));
    }

    #[test]
    fn periodic_keeps_its_phase_and_merges_what_was_missed() {
        let mode = TimerMode::Periodic;
        let mut timer = started(mode, 0b1011, 100_000);
        assert!(timer.advance(mode, 1, at(350_000)));
        assert!(!timer.advance(mode, 1, at(350_000)));
        assert_eq!(timer.current_count(mode, at(350_000)), 50_000);
        assert_eq!(timer.deadline(mode, 1), Some(at(400_000)));
    }

    #[test]
    fn periodic_count_is_right_before_it_is_advanced() {
        let mode = TimerMode::Periodic;
        let timer = started(mode, 0b1011, 100);
        assert_eq!(timer.current_count(mode, at(100)), 100);
        assert_eq!(timer.current_count(mode, at(130)), 70);
        assert_eq!(timer.current_count(mode, at(1_030)), 70);
    }

    #[test]
    fn tiny_period_does_not_ask_for_a_storm() {
        let timer = started(TimerMode::Periodic, 0b1011, 1);
        assert_eq!(timer.deadline(TimerMode::Periodic, 1), Some(at(20_000)));
    }

    #[test]
    fn changing_the_divider_keeps_the_count() {
        let mode = TimerMode::OneShot;
        let mut timer = started(mode, 0b1011, 100);
        timer.set_divide(mode, 0b0000, at(40));
        assert_eq!(timer.current_count(mode, at(40)), 60);
        assert_eq!(timer.deadline(mode, 1), Some(at(160)));
    }

    #[test]
    fn mode_changes() {
        let mut timer = started(TimerMode::OneShot, 0b1011, 100);
        timer.change_mode(TimerMode::OneShot, TimerMode::Periodic, at(40));
        assert_eq!(timer.current_count(TimerMode::Periodic, at(50)), 50);
        timer.change_mode(TimerMode::Periodic, TimerMode::TscDeadline, at(50));
        assert_eq!(timer.deadline(TimerMode::TscDeadline, 1), None);
        timer.set_initial_count(TimerMode::TscDeadline, 7, at(60));
        assert_eq!(timer.initial_count, 0, "ignored in TSC-deadline mode");
    }

    #[test]
    fn tsc_deadline_in_guest_units() {
        let mode = TimerMode::TscDeadline;
        let hz = 2_000_000_000;
        let mut timer = TimerState::RESET;
        // Machine tick 1000, guest TSC 500: 600 is 100 ticks (50 ns) ahead.
        timer.set_tsc_deadline(600, 1000, 500u64.wrapping_neg());
        assert_eq!(timer.deadline(mode, hz), Some(at(550)));
        assert!(!timer.advance(mode, hz, at(549)));
        assert!(timer.advance(mode, hz, at(550)));
        assert_eq!(timer.tsc_deadline, 0);
        timer.set_tsc_deadline(10, 1000, 0);
        assert_eq!(timer.deadline(mode, hz), Some(at(500)), "already passed: due now");
    }

    #[test]
    fn the_farthest_deadline_never_comes() {
        let mut timer = TimerState::RESET;
        timer.set_tsc_deadline(u64::MAX, 1000, 500u64.wrapping_neg());
        assert_eq!(timer.deadline(TimerMode::TscDeadline, 1_000_000_000), None);
        assert!(!timer.advance(TimerMode::TscDeadline, 1, at(u64::MAX - 1)));
    }
}
