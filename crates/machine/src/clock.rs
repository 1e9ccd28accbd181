//! The machine's time: one counter from which the guest's time-stamp counter
//! and virtual time are derived, so that they cannot drift apart.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chipset::{NANOS_PER_SEC, VmTime};
use paravirt::Moment;

/// A counter of the host that never stops and never runs backwards.
pub trait TickSource: Send + Sync {
    /// The counter. Cheap: it is read by every RDTSC of a guest.
    fn ticks(&self) -> u64;

    /// Its ticks in a second.
    fn hz(&self) -> u64;

    /// Whether the counter is the host's time-stamp counter.
    fn is_host_tsc(&self) -> bool {
        false
    }
}

/// Says in [`VmClock::frozen_at`] that the clock runs.
const RUNNING: u64 = u64::MAX;

/// The clock of one machine. It starts frozen at zero.
pub(crate) struct VmClock {
    source: Arc<dyn TickSource>,
    hz: u64,
    /// What the source showed when the machine's counter was zero.
    base: AtomicU64,
    /// The machine's counter while it stands still, else [`RUNNING`].
    frozen_at: AtomicU64,
}

impl VmClock {
    pub(crate) fn new(source: Arc<dyn TickSource>) -> Self {
        let hz = source.hz().max(1);
        Self { source, hz, base: AtomicU64::new(0), frozen_at: AtomicU64::new(0) }
    }

    /// The frequency of [`VmClock::ticks`].
    pub(crate) fn hz(&self) -> u64 {
        self.hz
    }

    /// The machine's time-stamp counter.
    pub(crate) fn ticks(&self) -> u64 {
        match self.frozen_at.load(Ordering::Acquire) {
            RUNNING => self.source.ticks().saturating_sub(self.base.load(Ordering::Relaxed)),
            frozen => frozen,
        }
    }

    /// The machine's counter minus the host's time-stamp counter, if the clock
    /// runs and the one is made from the other.
    pub(crate) fn tsc_offset(&self) -> Option<u64> {
        let running = self.frozen_at.load(Ordering::Acquire) == RUNNING;
        (running && self.source.is_host_tsc()).then(|| self.base.load(Ordering::Relaxed).wrapping_neg())
    }

    /// Virtual time.
    pub(crate) fn now(&self) -> VmTime {
        VmTime::from_nanos(self.nanos(self.ticks()))
    }

    /// Counter and virtual time of one moment.
    pub(crate) fn moment(&self) -> Moment {
        let ticks = self.ticks();
        Moment { ticks, nanos: self.nanos(ticks) }
    }

    fn nanos(&self, ticks: u64) -> u64 {
        let nanos = u128::from(ticks) * u128::from(NANOS_PER_SEC) / u128::from(self.hz);
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }

    /// Lets time pass; false if it did already.
    pub(crate) fn run(&self) -> bool {
        let frozen = self.frozen_at.load(Ordering::Acquire);
        if frozen != RUNNING {
            self.base.store(self.source.ticks().wrapping_sub(frozen), Ordering::Relaxed);
            self.frozen_at.store(RUNNING, Ordering::Release);
        }
        frozen != RUNNING
    }

    /// Stops time.
    pub(crate) fn freeze(&self) {
        self.frozen_at.store(self.ticks(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeTicks;

    #[test]
    fn time_stands_still_while_the_machine_does() {
        let ticks = FakeTicks::new(2_500_000_000, 77);
        let clock = VmClock::new(ticks.clone());
        ticks.pass(5000);
        assert_eq!((clock.ticks(), clock.now()), (0, VmTime::ZERO));
        clock.run();
        ticks.pass(5000);
        clock.run();
        assert_eq!((clock.ticks(), clock.now()), (5000, VmTime::from_nanos(2000)));
        clock.freeze();
        ticks.pass(1 << 40);
        clock.freeze();
        assert_eq!(clock.ticks(), 5000);
        clock.run();
        ticks.pass(1);
        assert_eq!(clock.ticks(), 5001);
    }

    #[test]
    fn virtual_time_and_counter_agree_after_a_century() {
        let ticks = FakeTicks::new(2_299_998_123, 0);
        let clock = VmClock::new(ticks.clone());
        clock.run();
        ticks.pass(2_299_998_123 * 86_400 * 36_525);
        let back = clock.now().ticks(clock.hz());
        assert!(clock.ticks() - back <= 3, "{back}");
    }
}
