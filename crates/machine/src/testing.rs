//! What the machine's tests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::TickSource;

/// A counter that stands until it is told to pass.
pub(crate) struct FakeTicks {
    hz: u64,
    ticks: AtomicU64,
}

impl FakeTicks {
    pub(crate) fn new(hz: u64, ticks: u64) -> Arc<Self> {
        Arc::new(Self { hz, ticks: AtomicU64::new(ticks) })
    }

    pub(crate) fn pass(&self, ticks: u64) {
        self.ticks.fetch_add(ticks, Ordering::Relaxed);
    }
}

impl TickSource for FakeTicks {
    fn ticks(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }

    fn hz(&self) -> u64 {
        self.hz
    }
}
