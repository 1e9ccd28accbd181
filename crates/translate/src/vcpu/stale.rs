//! What must be forgotten: blocks whose code was written, and links
//! whose mappings were flushed.

use engine::Callout;
use interpret::slow::SlowPath;

use super::Core;

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

    pub(super) fn forget_all(&mut self, slow: &SlowPath) {
        self.forgotten += 1;
        self.prepared = None;
        self.generation = slow.generation();
        self.blocks.clear();
        self.cache.clear();
        self.tables.clear();
    }
}
