//! The software TLB: linear pages that need no walk.
//!
//! It has two levels. The first is small and made for inline code: for each
//! way to see memory and for reads and writes apart, so that an entry's
//! presence is the permission. The second is large, tagged with address-space
//! identifiers, and survives changes of CR3 (PCIDs, SDM 3A 4.10.1).
//!
//! Layout and lookup are the translator's contract too: it looks up both levels
//! from generated code.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use x86::{LinearAddr, PAGE_SIZE};

/// How a privilege sees memory. Each view has its own arrays, except those in
/// which every access takes the slow path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum View {
    /// CPL 0 to 2; with SMAP, user pages are out of reach.
    Supervisor = 0,
    /// CPL 0 to 2 with EFLAGS.AC set: SMAP does not apply.
    SupervisorAc = 1,
    /// CPL 3.
    User = 2,
    /// CPL 3 with alignment checks: never in the TLB.
    UserAligned = 3,
    /// As the first four, with data breakpoints to watch: never in the TLB.
    WatchedSupervisor = 4,
    /// See above.
    WatchedSupervisorAc = 5,
    /// See above.
    WatchedUser = 6,
    /// See above.
    WatchedUserAligned = 7,
}

impl View {
    /// The views that have arrays.
    pub const CACHED: [Self; VIEWS] = [Self::Supervisor, Self::SupervisorAc, Self::User];

    /// The same with data breakpoints to watch.
    pub(crate) const fn watched(self) -> Self {
        match self {
            Self::Supervisor => Self::WatchedSupervisor,
            Self::SupervisorAc => Self::WatchedSupervisorAc,
            Self::User => Self::WatchedUser,
            Self::UserAligned => Self::WatchedUserAligned,
            watched => watched,
        }
    }

    /// Whether accesses are user-mode accesses.
    pub const fn user(self) -> bool {
        matches!(self, Self::User | Self::WatchedUser) || self.aligned()
    }

    /// Whether accesses must be aligned.
    pub(crate) const fn aligned(self) -> bool {
        matches!(self, Self::UserAligned | Self::WatchedUserAligned)
    }

    /// The same without alignment checks.
    pub(crate) const fn unaligned(self) -> Self {
        match self {
            Self::UserAligned => Self::User,
            Self::WatchedUserAligned => Self::WatchedUser,
            other => other,
        }
    }

    /// Whether SMAP is suspended by EFLAGS.AC.
    pub const fn smap_override(self) -> bool {
        matches!(self, Self::SupervisorAc | Self::WatchedSupervisorAc)
    }

    pub(crate) const fn watches(self) -> bool {
        self as u8 >= Self::WatchedSupervisor as u8
    }

    /// Whether accesses may be remembered in the TLB.
    pub const fn cached(self) -> bool {
        (self as u8) < VIEWS as u8
    }

    /// The number of its arrays; all uncached views share arrays that stay
    /// empty.
    pub const fn array(self) -> usize {
        if self.cached() { self as usize } else { VIEWS }
    }
}

/// Views with arrays.
const VIEWS: usize = 3;
/// Arrays in all; the last one is for the views that are never cached.
const ARRAYS: usize = VIEWS + 1;
/// Entries of a first-level array.
pub const ENTRIES: usize = 1024;
/// First-level entries are cleared in chunks of this many.
pub const CHUNK: usize = 32;
/// Sets of the second level.
pub const SETS: usize = 4096;
/// Ways of a set.
pub const WAYS: usize = 4;
const PAGE_MASK: u64 = !(PAGE_SIZE - 1);
/// In [`Way::value`]: the entry belongs to all address spaces.
pub const GLOBAL: u64 = 1 << 6;
/// Identifiers fit into the offset bits of a tag; 0 stands for global pages.
const LAST_ASID: u64 = 0xfff;
/// Bits of the filter of large pages.
const FILTER: usize = 4096;
/// Bits of the filter of pages that may be written.
const WRITABLE: usize = 1 << 14;
/// The most code pages that are remembered before everything is forgotten.
const MAX_FETCHED: usize = 1 << 16;
/// Binary logarithms of the sizes of large pages; a piece of 4 MiB is flushed
/// in both halves.
const SHIFT_2M: u32 = 21;
const SHIFT_4M: u32 = 22;
const SHIFT_1G: u32 = 30;

/// One first-level array. A hit is `address + tag < 4096 - (size - 1)`.
#[repr(C, align(64))]
pub struct First {
    /// Negated linear address of the page.
    pub tags: [u64; ENTRIES],
    /// Host address of the page minus its linear address.
    pub addends: [u64; ENTRIES],
}

/// One second-level entry.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Way {
    /// Linear page, and the address space in the low 12 bits.
    pub tag: u64,
    /// Host page; in the low bits rights as [`right`] numbers them, and
    /// [`GLOBAL`].
    pub value: u64,
}

/// One set of the second level: a cache line.
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
pub struct Set(pub [Way; WAYS]);

/// The bit of [`Way::value`] that lets `view` read or write.
pub const fn right(view: View, write: bool) -> u64 {
    1 << (view.array() * 2 + write as usize)
}

/// The rights to write, of all views.
pub(crate) const WRITES: u64 = 0b10_1010;
const RIGHTS: u64 = 0b11_1111;

/// Flushes that concern pages which code was fetched from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CodeFlushes {
    /// Of single pages below 2^63, in any address space.
    pub low: u64,
    /// Of single pages above.
    pub high: u64,
    /// Of everything.
    pub all: u64,
}

/// The TLB of one vCPU. All-zero memory is not a valid one: see
/// [`Tlb::initialize`].
#[repr(C, align(64))]
pub struct Tlb {
    /// By view, then reads and writes.
    pub first: [[First; 2]; ARRAYS],
    /// Chunks with entries, a bit each.
    pub used: [[u32; 2]; ARRAYS],
    /// Chunks with entries that are not global.
    pub local: [[u32; 2]; ARRAYS],
    /// The current address space's identifier, 1 to 4095.
    pub asid: u64,
    /// The second level.
    pub second: [Set; SETS],
    victim: usize,
    second_used: bool,
    last_asid: u64,
    /// Identifier by PCID; 0 for none.
    asids: [u16; 4096],
    /// Which pieces of 2 MiB (hashed) have entries from large pages.
    large: [u64; FILTER / 64],
    /// Some entry is a piece of a page of 1 GiB.
    huge: bool,
    /// Which host pages (hashed) have had entries with rights to write since
    /// everything was forgotten.
    writable: [u64; WRITABLE / 64],
    /// Counts flushes of any kind, for those who cache translations
    /// themselves.
    pub flushes: u64,
    /// Counts pages that lost their rights to be written.
    forbidden: u64,
    /// Counts those that may concern code.
    pub code_flushes: CodeFlushes,
    /// How many single pages of an address space with code were flushed.
    space_flushes: [u32; 4096],
    /// Pages that code was fetched from.
    #[allow(clippy::box_collection, reason = "zeroed memory must be None")]
    fetched: Option<Box<HashSet<u64, BuildHasherDefault<PageHasher>>>>,
}

/// Page numbers need no better hash.
#[derive(Default)]
pub(crate) struct PageHasher(u64);

impl Hasher for PageHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(byte.into()));
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 32;
    }
}

/// A translation to be remembered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fill {
    pub(crate) lin: u64,
    pub(crate) host: *mut u8,
    /// Who may access it how, as [`right`] numbers it.
    pub(crate) rights: u64,
    pub(crate) global: bool,
    /// Binary logarithm of the page's size.
    pub(crate) shift: u8,
}

/// A tag that no access hits which begins in a page with this index: neither
/// that page nor the next, where the access may end.
const fn empty(index: usize) -> u64 {
    (((index ^ (ENTRIES / 2)) as u64) << 12).wrapping_neg()
}

/// The first-level entry of a linear address.
pub const fn index(lin: u64) -> usize {
    (lin >> 12) as usize % ENTRIES
}

/// The second-level set of a linear address.
pub const fn set_index(lin: u64) -> usize {
    let page = lin >> 12;
    (page ^ page >> 12) as usize % SETS
}

impl Tlb {
    pub(crate) fn new() -> Box<Self> {
        // SAFETY: every field is made of integers and an optional box, for which
        // zero is valid; `initialize` makes it an empty TLB.
        let mut tlb = unsafe { Box::<Self>::new_zeroed().assume_init() };
        tlb.initialize();
        tlb
    }

    /// Makes zeroed memory an empty TLB.
    pub fn initialize(&mut self) {
        for view in &mut self.first {
            for array in view {
                for (index, tag) in array.tags.iter_mut().enumerate() {
                    *tag = empty(index);
                }
            }
        }
        self.asid = 1;
        self.last_asid = 1;
        self.flushes = 1;
    }

    /// The host address of `size` bytes at `lin`, if they lie in one page that
    /// `view` may access so.
    #[inline(always)]
    pub(crate) fn lookup(&self, view: View, write: bool, lin: u64, size: u64) -> Option<*mut u8> {
        let array = &self.first[view.array()][usize::from(write)];
        let hit = lin.wrapping_add(array.tags[index(lin)]) <= PAGE_SIZE.wrapping_sub(size);
        hit.then(|| array.addends[index(lin)].wrapping_add(lin) as *mut u8)
    }

    /// Looks `lin` up in the second level and brings it to the first; false if
    /// it is not there.
    pub(crate) fn refill(&mut self, view: View, write: bool, lin: u64) -> bool {
        if !view.cached() {
            return false;
        }
        let page = lin & PAGE_MASK;
        let wanted = right(view, write);
        let found = self.second[set_index(lin)].0.iter().find(|way| {
            let tag = way.tag ^ page;
            (tag == 0 || tag == self.asid) && way.value & wanted != 0
        });
        let Some(&Way { value, .. }) = found else { return false };
        self.insert_first(view, write, lin, value & PAGE_MASK, value & GLOBAL != 0);
        true
    }

    fn insert_first(&mut self, view: View, write: bool, lin: u64, host: u64, global: bool) {
        let page = lin & PAGE_MASK;
        let array = &mut self.first[view.array()][usize::from(write)];
        array.tags[index(lin)] = page.wrapping_neg();
        array.addends[index(lin)] = host.wrapping_sub(page);
        let chunk = 1 << (index(lin) / CHUNK);
        self.used[view.array()][usize::from(write)] |= chunk;
        if !global {
            self.local[view.array()][usize::from(write)] |= chunk;
        }
    }

    /// Remembers a translation, and makes it ready for `view` if that has the
    /// right.
    pub(crate) fn insert(&mut self, view: View, write: bool, fill: Fill) {
        let page = fill.lin & PAGE_MASK;
        let tag = page | if fill.global { 0 } else { self.asid };
        let global = if fill.global { GLOBAL } else { 0 };
        let way = Way { tag, value: fill.host as u64 | fill.rights & RIGHTS | global };
        let set = &mut self.second[set_index(fill.lin)].0;
        let stale = |way: &Way| way.tag ^ page == 0 || way.tag ^ page == self.asid;
        let slot = set.iter().position(stale).or_else(|| set.iter().position(|way| way.value == 0));
        let slot = slot.unwrap_or_else(|| {
            self.victim += 1;
            self.victim % WAYS
        });
        set[slot] = way;
        self.second_used = true;
        if fill.rights & WRITES != 0 {
            let bit = writable_bit(fill.host as u64);
            self.writable[bit / 64] |= 1 << (bit % 64);
        }
        self.note_large(fill.lin, fill.shift);
        if view.cached() && fill.rights & right(view, write) != 0 {
            self.insert_first(view, write, fill.lin, fill.host as u64, fill.global);
        }
    }

    /// Forgets everything, of all address spaces.
    pub(crate) fn flush(&mut self) {
        self.flushes += 1;
        self.code_flushes.all += 1;
        self.large.fill(0);
        self.huge = false;
        self.writable.fill(0);
        if let Some(fetched) = &mut self.fetched {
            fetched.clear();
        }
        self.clear_first(|_, used, _| used);
        if std::mem::take(&mut self.second_used) {
            self.second.fill(Set::default());
        }
        self.asids.fill(0);
        self.last_asid = 1;
        self.asid = 1;
    }

    /// Clears the first-level chunks that `choose` takes from those in use and
    /// those with entries of one address space, by view.
    fn clear_first(&mut self, choose: impl Fn(usize, u32, u32) -> u32) {
        for view in 0..VIEWS {
            for write in 0..2 {
                let (used, local) = (self.used[view][write], self.local[view][write]);
                let mut chunks = choose(view, used, local);
                self.used[view][write] &= !chunks;
                self.local[view][write] &= !chunks;
                while chunks != 0 {
                    let start = chunks.trailing_zeros() as usize * CHUNK;
                    chunks &= chunks - 1;
                    for index in start..start + CHUNK {
                        self.first[view][write].tags[index] = empty(index);
                    }
                }
            }
        }
    }

    /// Enters the address space with this PCID, which keeps what is known of it
    /// if `keep`; global pages always stay.
    pub(crate) fn switch(&mut self, pcid: u16, keep: bool) {
        self.flushes += 1;
        let known = self.asids[usize::from(pcid) % 4096];
        let asid = if keep && known != 0 { u64::from(known) } else { self.fresh_asid(pcid) };
        if asid != self.asid {
            self.asid = asid;
            self.clear_first(|_, _, local| local);
        }
    }

    fn fresh_asid(&mut self, pcid: u16) -> u64 {
        if self.last_asid >= LAST_ASID {
            self.flush();
        }
        self.last_asid += 1;
        self.asids[usize::from(pcid) % 4096] = self.last_asid as u16;
        self.last_asid
    }

    /// Forgets what is known of an address space, global pages left out.
    /// `current` says whether it is the one in use.
    pub(crate) fn flush_space(&mut self, pcid: u16, current: bool) {
        self.asids[usize::from(pcid) % 4096] = 0;
        if current {
            self.switch(pcid, false);
        }
    }

    /// Forgets one page of an address space that is not the current one.
    pub(crate) fn flush_page_of(&mut self, pcid: u16, lin: u64) {
        let asid = u64::from(self.asids[usize::from(pcid) % 4096]);
        if asid == 0 || self.is_large(lin) {
            return self.flush_space(pcid, false);
        }
        for way in &mut self.second[set_index(lin)].0 {
            if way.tag == lin & PAGE_MASK | asid {
                *way = Way::default();
            }
        }
        self.space_flushes[asid as usize] += 1;
    }

    /// Forgets all but global pages.
    pub(crate) fn flush_local(&mut self, pcid: u16) {
        self.asids.fill(0);
        self.switch(pcid, false);
    }

    /// Notes that the entry for `lin` is a piece of a page of this size.
    pub(crate) fn note_large(&mut self, lin: u64, shift: u8) {
        if u32::from(shift) >= SHIFT_1G {
            self.huge = true;
        } else if shift > 12 {
            // Either half of a page of 4 MiB stands for both.
            let other = if u32::from(shift) == SHIFT_4M { lin ^ 1 << SHIFT_2M } else { lin };
            for bit in [large_bit(lin), large_bit(other)] {
                self.large[bit / 64] |= 1 << (bit % 64);
            }
        }
    }

    /// Whether the page of `lin` may be a piece of a large one.
    fn is_large(&self, lin: u64) -> bool {
        let bit = large_bit(lin);
        self.huge || self.large[bit / 64] & 1 << (bit % 64) != 0
    }

    /// Forgets the page of `lin` in the current address space, all of it if it
    /// is a large one (SDM 3A 4.10.4.1).
    pub(crate) fn flush_page(&mut self, lin: u64) {
        if self.huge {
            return self.flush();
        }
        self.flushes += 1;
        if !self.is_large(lin) {
            return self.flush_piece(lin & PAGE_MASK);
        }
        let start = lin >> SHIFT_4M << SHIFT_4M;
        for half in [start, start + (1 << SHIFT_2M)] {
            if self.is_large(half) || lin >> SHIFT_2M == half >> SHIFT_2M {
                for piece in 0..1 << (SHIFT_2M - 12) {
                    self.flush_piece(half + piece * PAGE_SIZE);
                }
            }
        }
    }

    /// Forgets one page of 4 KiB.
    fn flush_piece(&mut self, page: u64) {
        for view in &mut self.first[..VIEWS] {
            for array in view {
                if array.tags[index(page)] == page.wrapping_neg() {
                    array.tags[index(page)] = empty(index(page));
                }
            }
        }
        let asid = self.asid;
        for way in &mut self.second[set_index(page)].0 {
            if way.tag ^ page == 0 || way.tag ^ page == asid {
                *way = Way::default();
            }
        }
        if self.fetched.as_ref().is_some_and(|fetched| fetched.contains(&(page >> 12))) {
            self.space_flushes[asid as usize] += 1;
            if page >> 63 == 0 {
                self.code_flushes.low += 1;
            } else {
                self.code_flushes.high += 1;
            }
        }
    }

    /// Changes with everything that takes a translation or a right away.
    pub fn changes(&self) -> u64 {
        self.flushes + self.forbidden
    }

    /// How many single pages with code the current address space has lost.
    pub fn space_flushes(&self) -> u32 {
        self.space_flushes[self.asid as usize]
    }

    /// Notes that code was fetched from the page of `lin`: flushing it counts
    /// in [`Tlb::code_flushes`].
    pub fn note_fetch(&mut self, lin: LinearAddr) {
        let fetched = self.fetched.get_or_insert_default();
        if fetched.len() < MAX_FETCHED {
            fetched.insert(lin.0 >> 12);
        } else {
            self.flush();
            self.fetched.get_or_insert_default().insert(lin.0 >> 12);
        }
    }

    /// Takes away the rights to write the host page at `host` without a look.
    pub(crate) fn forbid_writes(&mut self, host: *mut u8) {
        let host = host as u64;
        let bit = writable_bit(host);
        if self.writable[bit / 64] & 1 << (bit % 64) == 0 {
            return;
        }
        self.forbidden += 1;
        for set in &mut self.second {
            for way in &mut set.0 {
                if way.value & PAGE_MASK == host {
                    way.value &= !WRITES;
                }
            }
        }
        for view in 0..VIEWS {
            let mut chunks = self.used[view][1];
            while chunks != 0 {
                let start = chunks.trailing_zeros() as usize * CHUNK;
                chunks &= chunks - 1;
                let array = &mut self.first[view][1];
                for index in start..start + CHUNK {
                    if array.addends[index].wrapping_sub(array.tags[index]) == host {
                        array.tags[index] = empty(index);
                    }
                }
            }
        }
    }
}

impl Tlb {
    /// Takes away all rights to write without a look.
    pub(crate) fn forbid_all_writes(&mut self) {
        self.forbidden += 1;
        self.second.iter_mut().flat_map(|set| &mut set.0).for_each(|way| way.value &= !WRITES);
        for view in 0..VIEWS {
            for (index, tag) in self.first[view][1].tags.iter_mut().enumerate() {
                *tag = empty(index);
            }
            (self.used[view][1], self.local[view][1]) = (0, 0);
        }
    }
}

fn writable_bit(host: u64) -> usize {
    let page = host >> 12;
    (page ^ page >> 14) as usize % WRITABLE
}

fn large_bit(lin: u64) -> usize {
    let piece = lin >> SHIFT_2M;
    (piece ^ piece >> 12) as usize % FILTER
}

/// Who owns a TLB: the vCPU itself, or somebody who has it among other data
/// that generated code reaches.
pub(crate) enum TlbBox {
    Owned(Box<Tlb>),
    Lent(std::ptr::NonNull<Tlb>),
}

impl std::ops::Deref for TlbBox {
    type Target = Tlb;
    #[inline(always)]
    fn deref(&self) -> &Tlb {
        match self {
            Self::Owned(tlb) => tlb,
            // SAFETY: see `deref_mut`.
            Self::Lent(tlb) => unsafe { tlb.as_ref() },
        }
    }
}

impl std::ops::DerefMut for TlbBox {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Tlb {
        match self {
            Self::Owned(tlb) => tlb,
            // SAFETY: `SlowPath::new`, the only place that lends one, demands
            // that it is valid and not accessed otherwise while the vCPU's
            // Rust code runs.
            Self::Lent(tlb) => unsafe { tlb.as_mut() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(lin: u64, host: *mut u8, rights: u64) -> Fill {
        Fill { lin, host, rights, global: false, shift: 12 }
    }

    #[repr(align(4096))]
    struct Page([u8; 4096]);

    #[test]
    fn views_and_directions_are_apart() {
        let mut tlb = Tlb::new();
        let mut page = Box::new(Page([0; 4096]));
        let host = page.0.as_mut_ptr();
        tlb.insert(View::User, false, fill(0x7000, host, right(View::User, false)));
        assert_eq!(tlb.lookup(View::User, false, 0x7010, 8), Some(host.wrapping_add(0x10)));
        assert_eq!(tlb.lookup(View::User, true, 0x7010, 8), None);
        assert_eq!(tlb.lookup(View::Supervisor, false, 0x7010, 8), None);
        assert_eq!(tlb.lookup(View::User, false, 0x7ff8, 8), Some(host.wrapping_add(0xff8)));
        assert_eq!(tlb.lookup(View::User, false, 0x7ff9, 8), None, "crosses the page");
        tlb.insert(View::UserAligned, false, fill(0x7000, host, RIGHTS));
        assert_eq!(tlb.lookup(View::UserAligned, false, 0x7000, 1), None);
    }

    #[test]
    fn address_spaces_are_kept_or_forgotten_and_global_pages_stay() {
        let mut tlb = Tlb::new();
        let mut page = Box::new(Page([0; 4096]));
        let host = page.0.as_mut_ptr();
        let hit = |tlb: &mut Tlb, lin| {
            tlb.lookup(View::User, true, lin, 1).is_some() || tlb.refill(View::User, true, lin)
        };
        tlb.switch(1, true);
        tlb.insert(View::User, true, fill(0x7000, host, RIGHTS));
        tlb.insert(View::User, true, Fill { global: true, ..fill(0x8000, host, RIGHTS) });
        tlb.switch(2, true);
        assert!(!hit(&mut tlb, 0x7000) && hit(&mut tlb, 0x8000));
        tlb.switch(1, true);
        assert!(hit(&mut tlb, 0x7000) && hit(&mut tlb, 0x8000));
        tlb.switch(1, false);
        assert!(!hit(&mut tlb, 0x7000) && hit(&mut tlb, 0x8000));
        tlb.flush_page(0x8000);
        assert!(!hit(&mut tlb, 0x8000));
        tlb.insert(View::User, true, fill(0x7000, host, RIGHTS));
        tlb.switch(3, true);
        tlb.flush_space(1, false);
        tlb.switch(1, true);
        assert!(!hit(&mut tlb, 0x7000), "INVPCID has forgotten it");
    }

    #[test]
    fn identifiers_wrap_without_reviving_entries() {
        let mut tlb = Tlb::new();
        let mut page = Box::new(Page([0; 4096]));
        tlb.insert(View::Supervisor, true, fill(0x7000, page.0.as_mut_ptr(), RIGHTS));
        for _ in 0..2 * LAST_ASID {
            tlb.switch(0, false);
            assert!(!tlb.refill(View::Supervisor, true, 0x7000));
            assert_eq!(tlb.lookup(View::Supervisor, true, 0x7000, 1), None);
        }
    }

    #[test]
    fn code_pages_lose_all_rights_to_write() {
        let mut tlb = Tlb::new();
        let mut page = Box::new(Page([0; 4096]));
        let host = page.0.as_mut_ptr();
        tlb.insert(View::User, true, fill(0x7000, host, RIGHTS));
        tlb.insert(View::Supervisor, true, fill(0xffff_8000_0000_9000, host, RIGHTS));
        tlb.forbid_writes(host);
        assert_eq!(tlb.lookup(View::User, true, 0x7000, 1), None);
        assert!(!tlb.refill(View::User, true, 0x7000));
        assert!(!tlb.refill(View::Supervisor, true, 0xffff_8000_0000_9000));
        assert!(tlb.refill(View::User, false, 0x7000));
    }

    #[test]
    fn all_rights_to_write_go_at_once() {
        let mut tlb = Tlb::new();
        let mut page = Box::new(Page([0; 4096]));
        let host = page.0.as_mut_ptr();
        for lin in [0x7000, 0xffff_8000_0000_9000] {
            tlb.insert(View::User, true, fill(lin, host, RIGHTS));
        }
        let changes = tlb.changes();
        tlb.forbid_all_writes();
        for lin in [0x7000, 0xffff_8000_0000_9000] {
            assert_eq!(tlb.lookup(View::User, true, lin, 1), None);
            assert!(!tlb.refill(View::User, true, lin) && tlb.refill(View::User, false, lin));
        }
        assert_ne!(tlb.changes(), changes);
    }

    #[test]
    fn nothing_hits_an_empty_entry() {
        let tlb = Tlb::new();
        for page in 0..ENTRIES as u64 {
            for size in [1, 8, 64, 512] {
                let end = (page << 12).wrapping_add(0xfff);
                // As generated code computes it.
                let sum = end.wrapping_add(size - 1).wrapping_add(tlb.first[2][0].tags[index(end)]);
                assert_ne!(sum >> 12, 0, "{page:#x}, {size}");
            }
        }
    }

    #[test]
    fn large_pages_go_as_a_whole() {
        let mut tlb = Tlb::new();
        let mut page = Box::new(Page([0; 4096]));
        let host = page.0.as_mut_ptr();
        let all =
            |tlb: &mut Tlb| [0x20_0000, 0x3f_f000, 0x40_0000].map(|lin| tlb.refill(View::User, true, lin));
        for lin in [0x20_0000, 0x3f_f000, 0x40_0000] {
            tlb.insert(
                View::User,
                true,
                Fill { shift: if lin < 0x40_0000 { 21 } else { 12 }, ..fill(lin, host, RIGHTS) },
            );
        }
        assert_eq!(all(&mut tlb), [true; 3]);
        tlb.flush_page(0x30_0000);
        assert_eq!(all(&mut tlb), [false, false, true]);
    }

    #[test]
    fn flushes_of_fetched_pages_are_counted() {
        let mut tlb = Tlb::new();
        tlb.note_fetch(LinearAddr(0x40_1000));
        let before = tlb.code_flushes;
        tlb.flush_page(0x7f_0000_0000);
        assert_eq!(tlb.code_flushes, before);
        tlb.flush_page(0x40_1fff);
        assert_eq!(tlb.code_flushes.low, before.low + 1);
    }
}
