//! Finding the block of an address, and making it.

use std::time::{Duration, Instant};

use engine::TraceEvent;
use interpret::slow::{Fetched, SlowPath};
use x86::{Exception, GuestPhysAddr, LinearAddr, PAGE_SIZE};

use super::Core;
use crate::blocks::{Block, BlockId, Key};
use crate::cache::PARTS;
use crate::emit::{LARGE_PAGE, Source};
use crate::listing::Listed;
use crate::mode::Mode;

/// Room that a part of the cache must have before a block is made.
const BLOCK_ROOM: usize = 32 << 10;
/// The longest instruction, in bytes (SDM 2A 2.3.11).
pub(super) const MAX_INSN: usize = 15;
/// The most bytes of guest code in a block.
const MAX_BLOCK: usize = 512;

impl Core {
    /// The block at `lin`, made if need be; `None` if the instruction there
    /// crosses a page or does not lie in memory.
    pub(super) fn find_block(
        &mut self,
        slow: &mut SlowPath,
        mode: Mode,
        lin: LinearAddr,
    ) -> Result<Option<BlockId>, Exception> {
        let Some(fetched) = slow.fetch(lin)? else { return Ok(None) };
        if !mode.position_independent() {
            self.scope.note(lin, fetched.global, slow.tlb());
        }
        let gpa = fetched.gpa.0 | lin.page_offset();
        let lin_of = if mode.position_independent() { 0 } else { lin.0 };
        let key = Key { gpa, second: 0, lin: lin_of, mode };
        if let Some(id) = self.blocks.find(&key) {
            return Ok(Some(id));
        }
        let may_cross = lin.page_offset() > PAGE_SIZE - MAX_INSN as u64;
        let crossing = if may_cross { self.crossing_key(slow, key, lin) } else { None };
        if let Some(id) = crossing.and_then(|key| self.blocks.find(&key)) {
            return Ok(Some(id));
        }
        if let Some(id) = self.translate(slow, key, lin, &fetched) {
            return Ok(Some(id));
        }
        let boundary = (lin.0 | (PAGE_SIZE - 1)).wrapping_add(1).is_multiple_of(1 << LARGE_PAGE);
        let both = Fetched { large: fetched.large && !boundary, ..fetched };
        // If the second page faults, the interpreter says how.
        Ok(crossing.and_then(|key| self.translate(slow, key, lin, &both)))
    }

    /// The key of an instruction that crosses the end of its page; `None` if the
    /// second page cannot be fetched from.
    fn crossing_key(&mut self, slow: &mut SlowPath, key: Key, lin: LinearAddr) -> Option<Key> {
        let width = if key.mode.long() { u64::MAX } else { 0xffff_ffff };
        let next = LinearAddr((lin.0 | (PAGE_SIZE - 1)).wrapping_add(1) & width);
        let second = slow.fetch(next).ok()??;
        if !key.mode.position_independent() {
            self.scope.note(next, second.global, slow.tlb());
        }
        Some(Key { second: second.gpa.0, ..key })
    }

    fn translate(
        &mut self,
        slow: &mut SlowPath,
        key: Key,
        lin: LinearAddr,
        fetched: &Fetched,
    ) -> Option<BlockId> {
        if slow.forget_if_full() {
            self.forget_all(slow);
        }
        let tables = self.blocks.bytes(self.cache.part());
        if self.cache.room() < BLOCK_ROOM || tables > self.options.code_cache / PARTS {
            self.evict();
        }
        let code = GuestCode::of(key);
        let (mut bytes, mut again) = ([0; MAX_BLOCK], [0; MAX_BLOCK]);
        let bytes = &mut bytes[..code.room()];
        code.read(slow, bytes)?;
        let started = self.options.count.then(Instant::now);
        let made = loop {
            let source = Source { bytes, lin: lin.0, mode: key.mode, large: fetched.large };
            let made = self.emitter.block(source, slow, self.cache.next())?;
            let len = usize::from(made.guest_len);
            code.mark(slow, len);
            // A write of another thread is noticed from the mark on; what came
            // before it must show here.
            let again = &mut again[..len];
            code.read(slow, again)?;
            if bytes[..len] == *again {
                break made;
            }
            code.read(slow, bytes)?;
        };
        let origin = self.cache.next();
        let code = self.emitter.asm.code();
        let end = origin + code.len();
        if !self.cache.place(code) {
            return None;
        }
        self.counters.translating += started.map_or(Duration::ZERO, |at| at.elapsed());
        if slow.traces_blocks() {
            let guest = &bytes[..usize::from(made.guest_len)];
            let (runtime, mode, lin) = (&self.runtime, key.mode, lin.0);
            let listed = Listed { runtime, mode, lin, guest, origin, host: code, made: &made };
            slow.report(&TraceEvent::Block { lin, listing: listed.text().into() });
        }
        self.counters.blocks_made += 1;
        self.counters.guest_bytes += u64::from(made.guest_len);
        self.counters.host_bytes += code.len() as u64;
        self.blocks.add(Block::new(key, made, origin..end, fetched.large))
    }
}

/// Guest code in one page, or one instruction in two.
#[derive(Clone, Copy)]
struct GuestCode {
    start: GuestPhysAddr,
    second: Option<GuestPhysAddr>,
}

impl GuestCode {
    fn of(key: Key) -> Self {
        let second = (key.second != 0).then_some(GuestPhysAddr(key.second));
        Self { start: GuestPhysAddr(key.gpa), second }
    }

    /// Bytes in the first page.
    fn in_first(self) -> usize {
        (PAGE_SIZE - self.start.page_offset()) as usize
    }

    /// How many bytes a block can have at the most.
    fn room(self) -> usize {
        if self.second.is_some() { MAX_INSN } else { self.in_first().min(MAX_BLOCK) }
    }

    /// Reads the first `bytes.len()` bytes; `None` if they are not memory.
    fn read(self, slow: &SlowPath, bytes: &mut [u8]) -> Option<()> {
        let (first, second) = bytes.split_at_mut(self.in_first().min(bytes.len()));
        slow.memory().read(self.start, first).ok()?;
        match self.second {
            Some(at) => slow.memory().read(at, second).ok(),
            None => Some(()),
        }
    }

    /// Notes that the first `len` bytes are translated.
    fn mark(self, slow: &mut SlowPath, len: usize) {
        let first = self.in_first().min(len);
        slow.mark_code(self.start, first as u64);
        if let Some(at) = self.second.filter(|_| len > first) {
            slow.mark_code(at, (len - first) as u64);
        }
    }
}
