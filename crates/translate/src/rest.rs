//! Processors at rest: what a boot or a job has translated is not kept in
//! memory by a guest that has had nothing to do for a while.

use std::time::{Duration, Instant};

/// How long a processor is watched.
const SPAN: Duration = Duration::from_secs(5);
/// The part of that time, as 1/BUSY, that it may have worked in.
const BUSY: u32 = 20;

/// Watches how much of the time a processor is halted.
pub(crate) struct Rest {
    since: Instant,
    /// How long it had been halted then, in all.
    halted_then: Duration,
    /// The same when it was last asked for.
    halted: Duration,
}

impl Rest {
    pub(crate) fn new(now: Instant) -> Self {
        Self { since: now, halted_then: Duration::ZERO, halted: Duration::ZERO }
    }

    /// Whether the processor has been halted since the last time.
    #[inline]
    pub(crate) fn has_slept(&self, halted: Duration) -> bool {
        halted != self.halted
    }

    /// Whether it has been at rest for a while, by how long it has been
    /// `halted` in all; asked anew for each while.
    pub(crate) fn is_long(&mut self, halted: Duration, now: Instant) -> bool {
        self.halted = halted;
        let passed = now.saturating_duration_since(self.since);
        if passed < SPAN {
            return false;
        }
        let worked = passed.saturating_sub(halted.saturating_sub(self.halted_then));
        (self.since, self.halted_then) = (now, halted);
        worked < passed / BUSY
    }
}

/// Gives memory that was freed back to the host.
pub(crate) fn release_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it touches nothing but memory that is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_is_at_rest_when_it_was_halted_nearly_all_the_time() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut rest = Rest::new(start);
        assert!(!rest.has_slept(Duration::ZERO) && rest.has_slept(second));
        // Not long enough, then too busy, then at rest, then nothing new.
        assert!(!rest.is_long(4 * second, start + 4 * second));
        assert!(!rest.is_long(5 * second, start + 6 * second));
        assert!(rest.is_long(11 * second, start + 12 * second));
        assert!(!rest.is_long(12 * second, start + 13 * second));
        assert!(!rest.has_slept(12 * second));
    }
}
