//! The software TLB: linear pages that need no walk.
//!
//! Reads and writes of each privilege have an array of their own, so that an
//! entry's presence is the permission. Entries carry a generation; a flush is
//! one increment.

/// How a privilege sees memory. Each view has its own arrays, except those in
/// which every access takes the slow path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum View {
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
    WatchedSupervisorAc = 5,
    WatchedUser = 6,
    WatchedUserAligned = 7,
}

impl View {
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

    pub(crate) const fn user(self) -> bool {
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
    pub(crate) const fn smap_override(self) -> bool {
        matches!(self, Self::SupervisorAc | Self::WatchedSupervisorAc)
    }

    pub(crate) const fn watches(self) -> bool {
        self as u8 >= Self::WatchedSupervisor as u8
    }

    /// Whether accesses may be remembered in the TLB.
    pub(crate) const fn cached(self) -> bool {
        (self as u8) < VIEWS as u8
    }
}

/// Views with arrays.
const VIEWS: usize = 3;
/// Arrays in all; the last one is for the views that are never cached.
const ARRAYS: usize = VIEWS + 1;
const ENTRIES: usize = 1024;
/// Generations fit into the offset bits of a tag.
const LAST_GENERATION: u64 = 0xfff;
const PAGE_MASK: u64 = !0xfff;

#[derive(Clone, Copy, Default)]
struct Entry {
    /// Linear page and generation.
    tag: u64,
    /// Host address of the page minus its linear address.
    addend: u64,
}

type Array = [Entry; ENTRIES];

pub(crate) struct Tlb {
    /// By view, then reads and writes.
    data: [[Array; 2]; ARRAYS],
    generation: u64,
    /// Which gigabytes (hashed into 64 bits) have entries from large pages.
    large: u64,
    /// Counts flushes of any kind, for those who cache translations
    /// themselves.
    pub(crate) flushes: u64,
}

impl Tlb {
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self {
            data: [[[Entry::default(); ENTRIES]; 2]; ARRAYS],
            generation: 1,
            large: 0,
            flushes: 0,
        })
    }

    /// The host address of `size` bytes at `lin`, if they lie in one page that
    /// `view` may access so.
    #[inline(always)]
    pub(crate) fn lookup(&self, view: View, write: bool, lin: u64, size: u64) -> Option<*mut u8> {
        let array = &self.data[(view as usize).min(VIEWS)][usize::from(write)];
        let entry = &array[(lin >> 12) as usize % ENTRIES];
        let hit = entry.tag == (lin & PAGE_MASK | self.generation) && (lin & 0xfff) + size <= 0x1000;
        hit.then(|| entry.addend.wrapping_add(lin) as *mut u8)
    }

    /// Remembers that `view` may read (or write) the page of `lin` at `host`.
    pub(crate) fn insert(&mut self, view: View, write: bool, lin: u64, host: *mut u8) {
        if !view.cached() {
            return;
        }
        let page = lin & PAGE_MASK;
        let entry = &mut self.data[view as usize][usize::from(write)][(lin >> 12) as usize % ENTRIES];
        *entry = Entry { tag: page | self.generation, addend: (host as u64).wrapping_sub(page) };
    }

    /// Forgets everything.
    pub(crate) fn flush(&mut self) {
        self.flushes += 1;
        self.large = 0;
        self.generation += 1;
        if self.generation > LAST_GENERATION {
            self.generation = 1;
            self.data.as_flattened_mut().as_flattened_mut().fill(Entry::default());
        }
    }

    /// Notes that the entry for `lin` is a piece of a large page.
    pub(crate) fn note_large(&mut self, lin: u64) {
        self.large |= large_bit(lin);
    }

    /// Forgets the page of `lin`, all of it if it is a large one (SDM 3A
    /// 4.10.4.1).
    pub(crate) fn flush_page(&mut self, lin: u64) {
        if self.large & large_bit(lin) != 0 {
            return self.flush();
        }
        self.flushes += 1;
        for array in self.data.as_flattened_mut() {
            array[(lin >> 12) as usize % ENTRIES] = Entry::default();
        }
    }

    /// Forgets which pages may be written without a look.
    pub(crate) fn flush_writes(&mut self) {
        for view in &mut self.data {
            view[1].fill(Entry::default());
        }
    }
}

fn large_bit(lin: u64) -> u64 {
    1 << (lin >> 30 & 63)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_and_directions_are_apart() {
        let mut tlb = Tlb::new();
        let mut page = [0_u8; 4096];
        let host = page.as_mut_ptr();
        tlb.insert(View::User, false, 0x7000, host);
        assert_eq!(tlb.lookup(View::User, false, 0x7010, 8), Some(host.wrapping_add(0x10)));
        assert_eq!(tlb.lookup(View::User, true, 0x7010, 8), None);
        assert_eq!(tlb.lookup(View::Supervisor, false, 0x7010, 8), None);
        assert_eq!(tlb.lookup(View::User, false, 0x7ff9, 8), None, "crosses the page");
        tlb.insert(View::UserAligned, false, 0x7000, host);
        assert_eq!(tlb.lookup(View::UserAligned, false, 0x7000, 1), None);
    }

    #[test]
    fn generations_wrap_without_reviving_entries() {
        let mut tlb = Tlb::new();
        let mut page = [0_u8; 4096];
        tlb.insert(View::Supervisor, true, 0x7000, page.as_mut_ptr());
        for _ in 0..LAST_GENERATION {
            tlb.flush();
            assert_eq!(tlb.lookup(View::Supervisor, true, 0x7000, 1), None);
        }
        assert_eq!(tlb.generation, 1);
    }
}
