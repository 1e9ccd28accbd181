//! Virtual time: nanoseconds that the machine has run. It stops with the VM.

use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Nanoseconds in a second.
pub const NANOS_PER_SEC: u64 = 1_000_000_000;

/// A point in virtual time: nanoseconds since the machine was first started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VmTime(u64);

impl VmTime {
    /// The moment the machine was first started.
    pub const ZERO: Self = Self(0);

    /// The point `nanos` nanoseconds after the start.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the start.
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// Time from `earlier` to `self`, zero if `earlier` is later.
    pub fn since(self, earlier: VmTime) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Whole ticks of a clock of `hz` that have passed since the start.
    pub fn ticks(self, hz: u64) -> u64 {
        ticks_in(self.0, hz)
    }

    /// The earliest time at which `ticks` ticks of a clock of `hz` have passed;
    /// the end of time if that does not fit.
    pub fn of_tick(ticks: u64, hz: u64) -> VmTime {
        let nanos = (u128::from(ticks) * u128::from(NANOS_PER_SEC)).div_ceil(u128::from(hz.max(1)));
        VmTime(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

fn ticks_in(nanos: u64, hz: u64) -> u64 {
    let ticks = u128::from(nanos) * u128::from(hz) / u128::from(NANOS_PER_SEC);
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

impl Add<Duration> for VmTime {
    type Output = VmTime;
    fn add(self, rhs: Duration) -> VmTime {
        let nanos = u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX);
        VmTime(self.0.saturating_add(nanos))
    }
}

impl Sub<VmTime> for VmTime {
    type Output = Duration;
    fn sub(self, rhs: VmTime) -> Duration {
        self.since(rhs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_and_times_are_inverse() {
        for tick in [0, 1, 2, 1193, 1_193_182, u64::from(u32::MAX)] {
            let at = VmTime::of_tick(tick, 1_193_182);
            assert_eq!(at.ticks(1_193_182), tick);
            if at.nanos() > 0 {
                assert!(VmTime::from_nanos(at.nanos() - 1).ticks(1_193_182) < tick);
            }
        }
    }

    #[test]
    fn time_saturates() {
        assert_eq!(VmTime::of_tick(u64::MAX, 1), VmTime::from_nanos(u64::MAX));
        assert_eq!(VmTime::ZERO.since(VmTime::from_nanos(5)), Duration::ZERO);
    }
}
