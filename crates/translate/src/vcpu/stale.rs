//! What must be forgotten: blocks whose code was written, links and jump-cache
//! entries whose mappings were flushed.

use engine::Callout;
use interpret::slow::SlowPath;

use super::Core;
use crate::blocks::Key;

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
        let mut gone = Vec::new();
        for hit in hits {
            dropped += self.blocks.drop_hit(&self.cache, hit, |block| gone.push(block.key));
        }
        self.forget_jumps(slow, &gone);
        slow.stats_mut().callouts[Callout::BlockInvalidated as usize] += dropped;
        self.prepared = None;
    }

    /// Makes the jump cache forget blocks that are gone. Where a block of
    /// position-independent code was mapped is not known, nor the keys of other
    /// address spaces.
    fn forget_jumps(&mut self, slow: &mut SlowPath, gone: &[Key]) {
        if self.scope.is_local() || gone.iter().any(|key| key.mode.position_independent()) {
            return self.clear_jumps();
        }
        let context = self.context.pointer().as_ptr();
        for block in gone {
            // Under any key but the present one it is not found any more.
            let key = self.key(slow, block.mode.with_windows());
            // SAFETY: no generated code runs now.
            unsafe { (*context).jumps.forget((*context).jump_mask, block.lin.wrapping_add(key)) };
        }
    }

    pub(super) fn forget_all(&mut self, slow: &SlowPath) {
        self.forgotten += 1;
        self.pages.clear();
        self.prepared = None;
        self.generation = slow.generation();
        self.blocks.clear();
        self.cache.clear();
        self.keys.forget();
        self.clear_jumps();
    }
}
