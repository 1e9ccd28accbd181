//! The blocks that have been made, how they are found, and how they are linked.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;

use interpret::slow::SlowInsn;
use memory::{CodeHit, granule_mask};

use crate::cache::CodeCache;
use crate::emit::Made;
use crate::mode::Mode;

/// Host code is looked up by pieces of this many bytes.
const LINE: usize = 64;

/// The number of a block.
pub(crate) type BlockId = u32;

/// How an instruction accesses memory, as far as a miss of the TLB must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Once, up to 8 bytes, and nothing but that can make it fault: a page
    /// fault of the access is the instruction's.
    Single,
    /// What has been tested is the beginning of a run of unknown length.
    Run,
    /// In another way.
    Other,
}

/// Where one guest instruction's host code begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    /// Bytes from the start of the block's host code.
    pub(crate) host: u32,
    /// Bytes from the start of the guest code page.
    pub(crate) guest: u16,
    pub(crate) access: Access,
}

/// A direct branch out of a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    /// Return address of the stub that leaves to the translator.
    pub(crate) stub_end: usize,
    /// Address of the branch's displacement.
    pub(crate) patch: usize,
    /// The target, in bytes from the start of the guest code page.
    pub(crate) target: i64,
    /// Whether it leads to a block without windows.
    pub(crate) plain: bool,
    /// The block that it is linked to.
    pub(crate) linked: Option<BlockId>,
}

impl Way {
    /// The stub that the branch leads to while it is not linked.
    fn stub(&self) -> usize {
        self.stub_end - STUB
    }

    /// Whether it leaves the code page.
    pub(crate) fn crosses(&self) -> bool {
        !(0..0x1000).contains(&self.target)
    }
}

/// Bytes of a stub: a CALL.
pub(crate) const STUB: usize = 5;

/// What a block is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// Guest-physical address of its first instruction.
    pub(crate) gpa: u64,
    /// Guest-physical address of the second page, if the block is one
    /// instruction that reaches into it, else 0.
    pub(crate) second: u64,
    /// Its linear address, unless the code is position-independent.
    pub(crate) lin: u64,
    pub(crate) mode: Mode,
}

/// Straight-line guest code, with side exits, and what became of it.
pub(crate) struct Block {
    pub(crate) key: Key,
    /// Bytes of guest code.
    pub(crate) guest_len: u16,
    /// Addresses of the host code, stubs included.
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// Where jumps within the page enter; others enter at `start` with the
    /// linear address in R10.
    pub(crate) inner: usize,
    pub(crate) marks: Box<[Mark]>,
    /// Instructions that the interpreter executes, by their place in the guest
    /// code page.
    pub(crate) slow: Box<[(u16, SlowInsn)]>,
    pub(crate) ways: Box<[Way]>,
    /// Ways of other blocks that lead here.
    incoming: Vec<(BlockId, u8)>,
    pub(crate) valid: bool,
    /// All of its code lies in one large page.
    pub(crate) large: bool,
    /// Indirect branches have led here.
    target: bool,
}

/// Code of a page in one mode: guest-physical page, its linear address unless
/// the code is position-independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PageKey {
    gpa: u64,
    lin: u64,
    mode: Mode,
}

impl PageKey {
    fn of(key: &Key) -> Self {
        Self { gpa: key.gpa >> 12, lin: key.lin >> 12, mode: key.mode }
    }
}

impl Block {
    /// A block for `key`, whose code lies at `host`.
    pub(crate) fn new(key: Key, made: Made, host: Range<usize>, large: bool) -> Self {
        Self {
            key,
            guest_len: made.guest_len,
            start: host.start,
            end: host.end,
            inner: made.inner,
            marks: made.marks.into(),
            slow: made.slow.into(),
            ways: made.ways.into(),
            incoming: Vec::new(),
            valid: true,
            large,
            target: false,
        }
    }

    /// The place in the guest code page of the instruction whose host code
    /// holds `address`.
    pub(crate) fn guest_place(&self, address: usize) -> u16 {
        self.mark_at(address).guest
    }

    /// The mark of the instruction whose host code holds `address`.
    pub(crate) fn mark_at(&self, address: usize) -> Mark {
        let host = (address - self.start) as u32;
        let after = self.marks.partition_point(|mark| mark.host <= host);
        self.marks[after.saturating_sub(1)]
    }

    /// The place of the instruction after the one at `place`.
    pub(crate) fn next_place(&self, place: u16) -> Option<u16> {
        let index = self.marks.partition_point(|mark| mark.guest <= place);
        self.marks.get(index).map(|mark| mark.guest)
    }

    /// The pieces of page `page` that its guest code lies in.
    fn granules(&self, page: u64) -> u64 {
        let (start, len) = (self.key.gpa, u64::from(self.guest_len));
        if start >> 12 == page {
            granule_mask(start, len)
        } else {
            granule_mask(0, len.saturating_sub(0x1000 - start % 0x1000))
        }
    }

    /// The instruction at this place for the interpreter.
    pub(crate) fn slow_at(&self, place: u16) -> Option<&SlowInsn> {
        let index = self.slow.binary_search_by_key(&place, |(at, _)| *at).ok()?;
        Some(&self.slow[index].1)
    }

    /// Bytes that the block takes apart from host code.
    fn size(&self) -> usize {
        size_of::<Self>()
            + size_of_val(&*self.marks)
            + size_of_val(&*self.slow)
            + size_of_val(&*self.ways)
            + self.incoming.capacity() * size_of::<(BlockId, u8)>()
    }
}

/// Multiplies by a constant: keys are addresses, made by the guest, which can
/// slow down nobody but itself.
#[derive(Default)]
pub(crate) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(byte.into()));
    }
    fn write_u32(&mut self, value: u32) {
        self.write_u64(value.into());
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 29;
    }
}

type Map<K, V> = HashMap<K, V, BuildHasherDefault<KeyHasher>>;

/// All blocks of one vCPU.
#[derive(Default)]
pub(crate) struct Blocks {
    all: Vec<Block>,
    by_key: Map<Key, BlockId>,
    /// Blocks by the number of their guest page.
    pages: Map<u64, Vec<BlockId>>,
    /// Blocks that indirect branches have led to, by page: their places in it,
    /// and where their host code begins.
    targets: Map<PageKey, Vec<(u16, usize)>>,
    /// The last block with code in each line, from address `first` on.
    lines: Vec<BlockId>,
    first: usize,
    /// Links between pages, which hold as long as large mappings do.
    cross_links: Vec<(BlockId, u8)>,
    bytes: usize,
}

impl Blocks {
    pub(crate) fn get(&self, id: BlockId) -> &Block {
        &self.all[id as usize]
    }

    pub(crate) fn find(&self, key: &Key) -> Option<BlockId> {
        self.by_key.get(key).copied()
    }

    /// Bytes in use beside the code cache.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The block whose host code holds `address`. Blocks lie in the order in
    /// which they were made.
    #[inline]
    pub(crate) fn at(&self, address: usize) -> Option<BlockId> {
        let line = address.checked_sub(self.first)? / LINE;
        let mut id = *self.lines.get(line)?;
        loop {
            let block = self.all.get(id as usize)?;
            if block.start <= address {
                return (address < block.end).then_some(id);
            }
            id = id.checked_sub(1)?;
        }
    }

    /// Notes the block that reaches furthest into each line of host code.
    fn note_lines(&mut self, id: BlockId, host: Range<usize>) {
        if self.lines.is_empty() {
            self.first = host.start;
        }
        let last = (host.end - 1 - self.first) / LINE;
        let from = (host.start - self.first) / LINE;
        self.lines.resize(last + 1, id);
        self.lines[from..].fill(id);
    }

    /// Adds a block.
    pub(crate) fn add(&mut self, block: Block) -> BlockId {
        let id = self.all.len() as BlockId;
        self.pages.entry(block.key.gpa >> 12).or_default().push(id);
        if block.key.second != 0 {
            self.pages.entry(block.key.second >> 12).or_default().push(id);
        }
        self.note_lines(id, block.start..block.end);
        self.bytes += block.size() + size_of::<(Key, BlockId)>() * 2;
        self.by_key.insert(block.key, id);
        self.all.push(block);
        id
    }

    /// Whether a block may be linked to `to`: not if that needs a second page,
    /// which may be mapped elsewhere, unless both are parts of a large one.
    pub(crate) fn may_link(&self, to: BlockId) -> bool {
        let to = self.get(to);
        to.key.second == 0 || to.large && !to.key.mode.position_independent()
    }

    /// Makes `way` of `from` lead to `to`.
    pub(crate) fn link(&mut self, cache: &CodeCache, from: BlockId, way: u8, to: BlockId) {
        let target = &mut self.all[to as usize];
        target.incoming.push((from, way));
        let (inner, second) = (target.inner, target.key.second != 0);
        let way_of = &mut self.all[from as usize].ways[usize::from(way)];
        way_of.linked = Some(to);
        cache.patch(way_of.patch, inner);
        if second || way_of.crosses() {
            self.cross_links.push((from, way));
        }
    }

    fn unlink(&mut self, cache: &CodeCache, from: BlockId, way: u8) {
        let way = &mut self.all[from as usize].ways[usize::from(way)];
        if way.linked.take().is_some() {
            cache.patch(way.patch, way.stub());
        }
    }

    /// Cuts the links between pages: a large mapping may have changed.
    pub(crate) fn unlink_pages(&mut self, cache: &CodeCache) {
        for (from, way) in std::mem::take(&mut self.cross_links) {
            self.unlink(cache, from, way);
        }
    }

    /// Notes that indirect branches lead to block `id`, and gives its page. What
    /// needs a second page, which may be mapped elsewhere, is not noted.
    pub(crate) fn note_target(&mut self, id: BlockId) -> PageKey {
        let block = &mut self.all[id as usize];
        let page = PageKey::of(&block.key);
        if !block.target && block.key.second == 0 {
            block.target = true;
            let place = (block.key.gpa & 0xfff) as u16;
            self.targets.entry(page).or_default().push((place, block.start));
            self.bytes += size_of::<(u16, usize)>();
        }
        page
    }

    /// The blocks of a page that indirect branches have led to.
    pub(crate) fn targets(&self, page: PageKey) -> &[(u16, usize)] {
        self.targets.get(&page).map_or(&[], Vec::as_slice)
    }

    /// Drops the blocks that a write has hit; how many. `forget` is told of each.
    pub(crate) fn drop_hit(
        &mut self,
        cache: &CodeCache,
        hit: CodeHit,
        mut forget: impl FnMut(&Block),
    ) -> u64 {
        let page = hit.page.0 >> 12;
        let Some(blocks) = self.pages.get_mut(&page) else { return 0 };
        let all = &self.all;
        let (hit, rest) = std::mem::take(blocks)
            .into_iter()
            .partition::<Vec<_>, _>(|&id| all[id as usize].granules(page) & hit.granules != 0);
        *blocks = rest;
        let mut dropped = 0;
        for id in hit {
            if self.all[id as usize].valid {
                forget(&self.all[id as usize]);
                self.invalidate(cache, id);
                dropped += 1;
            }
        }
        dropped
    }

    fn invalidate(&mut self, cache: &CodeCache, id: BlockId) {
        let block = &mut self.all[id as usize];
        block.valid = false;
        let (key, start) = (block.key, block.start);
        let incoming = std::mem::take(&mut block.incoming);
        if block.target
            && let Some(targets) = self.targets.get_mut(&PageKey::of(&key))
        {
            targets.retain(|&(_, code)| code != start);
        }
        if self.by_key.get(&key) == Some(&id) {
            self.by_key.remove(&key);
        }
        for (from, way) in incoming {
            if self.all[from as usize].ways[usize::from(way)].linked == Some(id) {
                self.unlink(cache, from, way);
            }
        }
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}
