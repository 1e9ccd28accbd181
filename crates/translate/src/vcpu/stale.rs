//! What must be forgotten: blocks whose code was written, and links
//! whose mappings were flushed.

use std::time::{Duration, Instant};

use engine::Callout;
use interpret::slow::SlowPath;

use super::Core;
use crate::cache::PARTS;
use crate::rest::release_heap;

/// Bytes of code that a guest at rest may keep.
const AT_REST: usize = 4 << 20;

impl Core {
    /// Drops what writes to code and flushes have made wrong.
    #[inline]
    pub(super) fn forget_stale(&mut self, slow: &mut SlowPath) {
        let epoch = slow.memory().code_epoch();
        if epoch != self.epoch {
            self.drop_hits(slow);
        }
        let tlb = slow.tlb();
        let flushed = (tlb.code_flushes.all, self.scope.flushes(tlb));
        if flushed != self.linked_at {
            self.linked_at = flushed;
            self.blocks.unlink_pages(&self.cache);
        }
        if slow.generation() != self.generation {
            self.forget_all(slow);
        }
        let halted = slow.stats().halted;
        if self.rest.has_slept(halted) {
            self.tidy(slow, halted);
        }
    }

    /// Lets a guest that is at rest take little memory: what it still does is
    /// soon translated again.
    #[cold]
    fn tidy(&mut self, slow: &mut SlowPath, halted: Duration) {
        if self.rest.is_long(halted, Instant::now()) && self.cache.taken() > AT_REST {
            slow.forget();
            self.forget_all(slow);
            self.cache.release();
            release_heap();
        }
    }

    /// Drops the blocks that writes have hit since the last time.
    #[cold]
    fn drop_hits(&mut self, slow: &mut SlowPath) {
        let (hits, epoch) = slow.memory().code_hits(self.epoch);
        self.epoch = epoch;
        let Some(hits) = hits else { return self.forget_all(slow) };
        let mut dropped = 0;
        for hit in hits {
            let tables = &mut self.tables;
            dropped += self.blocks.drop_hit(&self.cache, hit, |block| tables.forget(&block.key));
        }
        slow.stats_mut().callouts[Callout::BlockInvalidated as usize] += dropped;
        self.prepared = None;
    }

    /// Makes room in the code cache: what lies in the part that was filled
    /// before all others is dropped.
    #[cold]
    pub(super) fn evict(&mut self) {
        let part = (self.cache.part() + 1) % PARTS;
        let evicted = self.blocks.evict(&self.cache, part);
        if evicted != 0 {
            self.forgotten += 1;
            self.prepared = None;
            self.tables.clear();
            self.counters.evicted += evicted;
        }
        self.cache.begin(part);
    }

    pub(super) fn forget_all(&mut self, slow: &SlowPath) {
        self.forgotten += 1;
        self.prepared = None;
        self.generation = slow.generation();
        self.blocks.clear();
        self.cache.clear();
        self.tables.clear();
    }
}
