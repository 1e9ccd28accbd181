//! When this process began, for the time to the first guest instruction.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// The moment at which `main` began, and the processor time that had been
/// spent by then: loading the program takes no other time worth mentioning.
static BEGAN: OnceLock<(Instant, Duration)> = OnceLock::new();

/// Notes that the program begins.
pub fn now() {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    let spent = Duration::try_from(spent).unwrap_or_default();
    BEGAN.get_or_init(|| (Instant::now(), spent));
}

/// How long after the process began `moment` was.
pub fn until(moment: Instant) -> Duration {
    BEGAN.get().map_or(Duration::ZERO, |(began, spent)| moment.duration_since(*began) + *spent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_is_more() {
        now();
        let first = Instant::now();
        std::thread::sleep(Duration::from_millis(2));
        assert!(until(Instant::now()) >= until(first) + Duration::from_millis(2));
    }
}
