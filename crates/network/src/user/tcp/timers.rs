//! When connections want attention.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// Deadlines by connection. One that has become later stays; whoever is asked
/// too early looks again.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, usize)>>,
}

impl Timers {
    /// Asks for `id` at `when`.
    pub(super) fn add(&mut self, when: Instant, id: usize) {
        self.heap.push(Reverse((when, id)));
    }

    /// The next that is due.
    pub(super) fn due(&mut self, now: Instant) -> Option<usize> {
        let due = self.first()? <= now;
        if due { self.heap.pop().map(|Reverse((_, id))| id) } else { None }
    }

    /// When the next is due.
    pub(super) fn first(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((when, _))| *when)
    }
}
