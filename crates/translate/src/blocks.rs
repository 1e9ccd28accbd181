//! The blocks that have been made, how they are found, and how they are linked.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;

use interpret::slow::SlowInsn;
use memory::{CodeHit, granule_mask};

use crate::cache::{CodeCache, Layout, PARTS};
use crate::emit::Made;
use crate::mode::Mode;

/// Host code is looked up by pieces of this many bytes.
const LINE: usize = 64;

/// A block: the part of the code cache that it lies in, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockId {
    part: u8,
    number: u32,
}

impl BlockId {
    fn lies_in(self, part: usize) -> bool {
        usize::from(self.part) == part
    }
}

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
        self.marks[self.mark_number(address)]
    }

    fn mark_number(&self, address: usize) -> usize {
        let host = (address - self.start) as u32;
        self.marks.partition_point(|mark| mark.host <= host).saturating_sub(1)
    }

    /// The place of the instruction after the one whose host code holds
    /// `address`.
    pub(crate) fn place_behind(&self, address: usize) -> Option<u16> {
        self.marks.get(self.mark_number(address) + 1).map(|mark| mark.guest)
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

/// The blocks in one part of the code cache, in the order of their addresses.
#[derive(Default)]
struct Part {
    all: Vec<Block>,
    /// The last block with code in each line.
    lines: Vec<u32>,
    /// Bytes that they take apart from host code.
    bytes: usize,
}

impl Part {
    /// Notes the block that reaches furthest into each line of host code;
    /// addresses count from the start of the part.
    fn note_lines(&mut self, number: u32, host: Range<usize>) {
        let (from, last) = (host.start / LINE, (host.end - 1) / LINE);
        self.lines.resize(last + 1, number);
        self.lines[from..].fill(number);
    }

    /// The block whose host code holds `address`, in a part that begins at
    /// `start`.
    #[inline]
    fn at(&self, start: usize, address: usize) -> Option<u32> {
        let mut number = *self.lines.get((address - start) / LINE)?;
        loop {
            let block = self.all.get(number as usize)?;
            if block.start <= address {
                return (address < block.end).then_some(number);
            }
            number = number.checked_sub(1)?;
        }
    }
}

/// All blocks of one vCPU.
pub(crate) struct Blocks {
    layout: Layout,
    parts: [Part; PARTS],
    by_key: Map<Key, BlockId>,
    /// Blocks by the number of their guest page.
    pages: Map<u64, Vec<BlockId>>,
    /// Blocks that indirect branches have led to, by page: their places in it,
    /// and where their host code begins.
    targets: Map<PageKey, Vec<(u16, usize)>>,
    /// Links between pages, which hold as long as large mappings do.
    cross_links: Vec<(BlockId, u8)>,
}

impl Blocks {
    /// None yet, for a code cache with this layout.
    pub(crate) fn new(layout: Layout) -> Self {
        Self {
            layout,
            parts: Default::default(),
            by_key: Map::default(),
            pages: Map::default(),
            targets: Map::default(),
            cross_links: Vec::new(),
        }
    }

    pub(crate) fn get(&self, id: BlockId) -> &Block {
        &self.parts[usize::from(id.part)].all[id.number as usize]
    }

    fn get_mut(&mut self, id: BlockId) -> &mut Block {
        &mut self.parts[usize::from(id.part)].all[id.number as usize]
    }

    /// A way of a block that may be another one by now.
    fn way_mut(&mut self, from: BlockId, way: u8) -> Option<&mut Way> {
        let block = self.parts[usize::from(from.part)].all.get_mut(from.number as usize)?;
        block.ways.get_mut(usize::from(way))
    }

    pub(crate) fn find(&self, key: &Key) -> Option<BlockId> {
        self.by_key.get(key).copied()
    }

    /// Bytes that the blocks of a part take beside the code cache.
    pub(crate) fn bytes(&self, part: usize) -> usize {
        self.parts[part].bytes
    }

    /// The block whose host code holds `address`.
    #[inline]
    pub(crate) fn at(&self, address: usize) -> Option<BlockId> {
        let part = self.layout.part_of(address)?;
        let number = self.parts[part].at(self.layout.start(part), address)?;
        Some(BlockId { part: part as u8, number })
    }

    /// Adds a block, which lies behind all others in its part of the cache;
    /// `None` if it does not lie in the cache.
    pub(crate) fn add(&mut self, block: Block) -> Option<BlockId> {
        let part = self.layout.part_of(block.start)?;
        let start = self.layout.start(part);
        let into = &mut self.parts[part];
        let id = BlockId { part: part as u8, number: into.all.len() as u32 };
        into.note_lines(id.number, block.start - start..block.end - start);
        into.bytes += block.size() + size_of::<(Key, BlockId)>() * 2;
        self.pages.entry(block.key.gpa >> 12).or_default().push(id);
        if block.key.second != 0 {
            self.pages.entry(block.key.second >> 12).or_default().push(id);
        }
        self.by_key.insert(block.key, id);
        into.all.push(block);
        Some(id)
    }

    /// Whether a block may be linked to `to`: not if that needs a second page,
    /// which may be mapped elsewhere, unless both are parts of a large one.
    pub(crate) fn may_link(&self, to: BlockId) -> bool {
        let to = self.get(to);
        to.key.second == 0 || to.large && !to.key.mode.position_independent()
    }

    /// Makes `way` of `from` lead to `to`.
    pub(crate) fn link(&mut self, cache: &CodeCache, from: BlockId, way: u8, to: BlockId) {
        let target = self.get(to);
        let (inner, second) = (target.inner, target.key.second != 0);
        let Some(way_of) = self.way_mut(from, way) else { return };
        way_of.linked = Some(to);
        cache.patch(way_of.patch, inner);
        if second || way_of.crosses() {
            self.cross_links.push((from, way));
        }
        self.get_mut(to).incoming.push((from, way));
    }

    fn unlink(&mut self, cache: &CodeCache, from: BlockId, way: u8) {
        if let Some(way) = self.way_mut(from, way)
            && way.linked.take().is_some()
        {
            cache.patch(way.patch, way.stub());
        }
    }

    /// Cuts the links that lead to a block that is gone.
    fn unlink_incoming(&mut self, cache: &CodeCache, incoming: Vec<(BlockId, u8)>, gone: BlockId) {
        for (from, way) in incoming {
            if self.way_mut(from, way).is_some_and(|way| way.linked == Some(gone)) {
                self.unlink(cache, from, way);
            }
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
        let block = self.get_mut(id);
        let (page, start) = (PageKey::of(&block.key), block.start);
        if !block.target && block.key.second == 0 {
            block.target = true;
            let place = (block.key.gpa & 0xfff) as u16;
            self.targets.entry(page).or_default().push((place, start));
            self.parts[usize::from(id.part)].bytes += size_of::<(u16, usize)>();
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
        let blocks = std::mem::take(blocks);
        let is_hit = |&id: &BlockId| self.get(id).granules(page) & hit.granules != 0;
        let (hit, rest) = blocks.into_iter().partition::<Vec<_>, _>(is_hit);
        self.pages.insert(page, rest);
        let mut dropped = 0;
        for id in hit {
            if self.get(id).valid {
                forget(self.get(id));
                self.invalidate(cache, id);
                dropped += 1;
            }
        }
        dropped
    }

    fn invalidate(&mut self, cache: &CodeCache, id: BlockId) {
        let block = self.get_mut(id);
        block.valid = false;
        let (key, start, target) = (block.key, block.start, block.target);
        let incoming = std::mem::take(&mut block.incoming);
        if target && let Some(targets) = self.targets.get_mut(&PageKey::of(&key)) {
            targets.retain(|&(_, code)| code != start);
        }
        if self.by_key.get(&key) == Some(&id) {
            self.by_key.remove(&key);
        }
        self.unlink_incoming(cache, incoming, id);
    }

    /// Drops the blocks in a part of the code cache, and every link with them;
    /// how many. None of their code may be running.
    pub(crate) fn evict(&mut self, cache: &CodeCache, part: usize) -> u64 {
        let gone = std::mem::take(&mut self.parts[part]);
        self.by_key.retain(|_, id| !id.lies_in(part));
        self.pages.retain(|_, blocks| {
            blocks.retain(|id| !id.lies_in(part));
            !blocks.is_empty()
        });
        let layout = self.layout;
        self.targets.retain(|_, targets| {
            targets.retain(|&(_, code)| layout.part_of(code) != Some(part));
            !targets.is_empty()
        });
        self.cross_links.retain(|(from, _)| !from.lies_in(part));
        let count = gone.all.len() as u64;
        for (number, block) in gone.all.into_iter().enumerate() {
            for to in block.ways.iter().filter_map(|way| way.linked).filter(|to| !to.lies_in(part)) {
                self.get_mut(to).incoming.retain(|(from, _)| !from.lies_in(part));
            }
            let id = BlockId { part: part as u8, number: number as u32 };
            self.unlink_incoming(cache, block.incoming, id);
        }
        count
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.layout);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mode::Mode;

    /// A block of 32 bytes with one way out, whose displacement and stub lie in
    /// it.
    fn block(gpa: u64, start: usize) -> Block {
        let way = Way { stub_end: start + 32, patch: start, target: 0, plain: false, linked: None };
        let made = Made { guest_len: 4, inner: start, marks: Vec::new(), slow: Vec::new(), ways: vec![way] };
        let key = Key { gpa, second: 0, lin: gpa, mode: Mode::default() };
        Block::new(key, made, start..start + 32, false)
    }

    #[test]
    fn one_part_goes_with_its_links_and_the_others_stay() {
        let mut cache = CodeCache::new(1 << 20).unwrap();
        let layout = cache.layout();
        let mut blocks = Blocks::new(layout);
        let mut made = Vec::new();
        for part in 0..PARTS {
            cache.begin(part);
            for number in 0..2 {
                let gpa = 0x1000 * (part as u64 + 1) + number * 16;
                let start = cache.next();
                assert!(cache.place(&[0x90; 32]));
                made.push(blocks.add(block(gpa, start)).unwrap());
            }
        }
        // Around, so that one link leads into each part and one out of it.
        for number in 0..made.len() {
            blocks.link(&cache, made[number], 0, made[(number + 1) % made.len()]);
        }
        assert_eq!(blocks.evict(&cache, 1), 2);
        for (number, &id) in made.iter().enumerate() {
            let gpa = 0x1000 * (number as u64 / 2 + 1) + number as u64 % 2 * 16;
            let key = Key { gpa, second: 0, lin: gpa, mode: Mode::default() };
            if number / 2 == 1 {
                assert_eq!(blocks.find(&key), None);
                continue;
            }
            assert_eq!(blocks.find(&key), Some(id));
            let start = blocks.get(id).start;
            assert_eq!(blocks.at(start + 31), Some(id));
            let leads_to_gone = number == 1;
            assert_eq!(blocks.get(id).ways[0].linked.is_none(), leads_to_gone);
        }
        assert_eq!(blocks.get(made[4]).incoming, []);
        // What takes the place of the old is found, and linked anew.
        cache.begin(1);
        let start = cache.next();
        assert!(cache.place(&[0x90; 32]));
        let new = blocks.add(block(0x9000, start)).unwrap();
        blocks.link(&cache, made[1], 0, new);
        assert_eq!(blocks.at(start), Some(new));
        assert_eq!(blocks.get(made[1]).ways[0].linked, Some(new));
    }
}
