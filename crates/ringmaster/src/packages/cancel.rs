//! Asking a fetch to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::PackageError;

/// How often a wait looks whether it has been cancelled.
pub(super) const TICK: Duration = Duration::from_millis(50);

/// A flag that a signal raises and that every wait of a fetch looks at.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicU8>);

impl Cancel {
    /// Asks to stop because of this signal.
    pub fn raise(&self, signal: u8) {
        self.0.store(signal, Ordering::SeqCst);
    }

    /// Fails if somebody asked to stop.
    pub fn check(&self) -> Result<(), PackageError> {
        match self.0.load(Ordering::SeqCst) {
            0 => Ok(()),
            signal => Err(PackageError::Interrupted(signal)),
        }
    }

    /// Sleeps, unless somebody asks to stop.
    pub(super) fn sleep(&self, time: Duration) -> Result<(), PackageError> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.check()?;
            thread::sleep(TICK);
        }
        self.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raised_flag_ends_a_sleep_at_once() {
        let cancel = Cancel::default();
        cancel.clone().raise(15);
        let start = Instant::now();
        let error = cancel.sleep(Duration::from_secs(60)).unwrap_err();
        assert!(matches!(error, PackageError::Interrupted(15)));
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}
