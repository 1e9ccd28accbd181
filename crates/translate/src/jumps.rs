//! Where indirect branches lead: a table for each mode and address space, which
//! generated code looks up in line.
//!
//! A table is found by what its code depends on ([`Meaning`]); within it an
//! entry's tag is the whole instruction pointer. So an address that is not
//! canonical hits nothing.

use std::collections::HashMap;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::blocks::Key;
use crate::keys::Meaning;

/// Binary logarithms of a table's entries: of supervisor code, most of which
/// all address spaces share, and of programs.
const BITS: [u32; 2] = [16, 13];
/// The most tables of each kind. The ones used last are in use: more than code
/// switches among by itself.
const MAX_TABLES: [usize; 2] = [8, 48];
/// Entries are few if they are less than one in so many: then they are cleared
/// one by one.
const FEW: usize = 8;
/// Tables that are found at once: of the modes that code switches among.
const RECENT: usize = 6;

/// The two kinds of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Supervisor = 0,
    User = 1,
}

impl Kind {
    /// The bits of an instruction pointer that choose an entry: place in the
    /// page, and the lowest bits of the page.
    pub(crate) const fn mask(self) -> u64 {
        ((1 << BITS[self as usize]) - 1) << 1
    }

    const fn entries(self) -> usize {
        1 << BITS[self as usize]
    }

    const fn index(self, rip: u64) -> usize {
        (rip >> 1) as usize & (self.entries() - 1)
    }
}

/// Where one instruction pointer leads. Code looks in the entry's first place
/// in line, and in the second in code that all share.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Entry {
    /// Negated instruction pointer.
    tag: u64,
    /// Host code.
    code: u64,
}

/// A tag that no instruction pointer hits which is looked up in this place. Zero
/// does for all but the first two: zero is what would hit them.
const fn empty(index: usize) -> u64 {
    if index < 2 { 4_u64.wrapping_neg() } else { 0 }
}

/// The second place of what has its first at `index`: where an entry goes that
/// has to make room.
const fn neighbour(index: usize) -> usize {
    index ^ 1
}

/// Memory of a table.
struct Entries {
    start: NonNull<Entry>,
    kind: Kind,
}

impl Entries {
    fn new(kind: Kind) -> rustix::io::Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        let len = kind.entries() * size_of::<Entry>();
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at =
            unsafe { mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags) }?;
        let start = NonNull::new(at.cast::<Entry>()).unwrap_or(NonNull::dangling());
        let mut entries = Self { start, kind };
        entries.empty_first();
        Ok(entries)
    }

    fn all(&mut self) -> &mut [Entry] {
        // SAFETY: the mapping is as long, belongs to this value alone, and zero
        // is a valid entry; generated code reads it only between calls.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.kind.entries()) }
    }

    /// Makes the first two places empty, for which zero is not enough.
    fn empty_first(&mut self) {
        for (index, entry) in self.all()[..2].iter_mut().enumerate() {
            entry.tag = empty(index);
        }
    }

    /// Where the entry of `rip` is, if there is one.
    #[inline]
    fn place_of(&mut self, rip: u64) -> Option<usize> {
        let first = self.kind.index(rip);
        [first, neighbour(first)].into_iter().find(|&index| self.all()[index].tag == rip.wrapping_neg())
    }
}

impl Drop for Entries {
    fn drop(&mut self) {
        let len = self.kind.entries() * size_of::<Entry>();
        // SAFETY: mapped in `new` with this length; the borrows have ended.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), len) };
    }
}

/// Which table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableId(usize);

struct Table {
    entries: Entries,
    /// Which entries are not empty, as long as they are few.
    noted: Vec<u32>,
    meaning: Option<Meaning>,
    /// Guest-physical by linear page numbers, of pages that its code lies in.
    pages: HashMap<u64, u64>,
    /// When it was last asked for.
    asked: u64,
}

impl Table {
    fn clear(&mut self) {
        self.pages.clear();
        let entries = self.entries.all();
        if self.noted.len() < entries.len() / FEW {
            for &index in &self.noted {
                entries[index as usize].tag = empty(index as usize);
            }
        } else {
            entries.fill(Entry { tag: 0, code: 0 });
            self.entries.empty_first();
        }
        self.noted.clear();
    }

    fn note(&mut self, rip: u64, code: u64) {
        let tag = rip.wrapping_neg();
        let index = self.entries.kind.index(rip);
        let old = self.entries.all()[index];
        if old.tag != tag && old.tag != empty(index) {
            self.put(neighbour(index), old);
        }
        self.put(index, Entry { tag, code });
    }

    fn put(&mut self, index: usize, entry: Entry) {
        let entries = self.entries.all();
        entries[index] = entry;
        if self.noted.len() < entries.len() / FEW {
            self.noted.push(index as u32);
        }
    }

    fn forget(&mut self, rip: u64) {
        while let Some(index) = self.entries.place_of(rip) {
            self.entries.all()[index].tag = empty(index);
        }
    }
}

/// All tables of one vCPU.
pub(crate) struct Tables {
    all: Vec<Table>,
    by_meaning: HashMap<Meaning, TableId>,
    /// Those asked for last, in a ring.
    recent: [Option<(Meaning, TableId)>; RECENT],
    turn: usize,
    clock: u64,
    /// A table that stays empty.
    nowhere: Entries,
    /// How often a table lost what it stood for.
    pub(crate) generation: u64,
}

// SAFETY: the mappings belong to this value alone; generated code that reads
// them runs on the thread that has it.
unsafe impl Send for Tables {}

impl Tables {
    /// # Errors
    /// If the host has no memory for them.
    pub(crate) fn new() -> rustix::io::Result<Self> {
        Ok(Self {
            all: Vec::new(),
            by_meaning: HashMap::new(),
            recent: [None; RECENT],
            turn: 0,
            clock: 0,
            nowhere: Entries::new(Kind::Supervisor)?,
            generation: 0,
        })
    }

    /// The table in which nothing is found.
    pub(crate) fn nowhere(&self) -> *mut Entry {
        self.nowhere.start.as_ptr()
    }

    /// The table for `meaning`; `None` if the host has no memory for it.
    #[inline]
    pub(crate) fn of(&mut self, meaning: Meaning) -> Option<TableId> {
        for &(known, table) in self.recent.iter().flatten() {
            if known == meaning {
                return Some(table);
            }
        }
        self.look_for(meaning)
    }

    #[cold]
    fn look_for(&mut self, meaning: Meaning) -> Option<TableId> {
        let table = match self.by_meaning.get(&meaning) {
            Some(&table) => table,
            None => self.assign(meaning)?,
        };
        self.clock += 1;
        self.all[table.0].asked = self.clock;
        self.turn = (self.turn + 1) % RECENT;
        self.recent[self.turn] = Some((meaning, table));
        Some(table)
    }

    /// Gives `meaning` a table: a new one, or the one not asked for for the
    /// longest time.
    fn assign(&mut self, meaning: Meaning) -> Option<TableId> {
        let kind = meaning.mode.jumps();
        let is_free = |table: &Table| table.entries.kind == kind && table.meaning.is_none();
        let free = self.all.iter().position(is_free).map(TableId);
        let table = free.or_else(|| self.add(kind)).or_else(|| self.reuse(kind))?;
        self.all[table.0].meaning = Some(meaning);
        self.by_meaning.insert(meaning, table);
        Some(table)
    }

    /// Makes one more table, if there may be one.
    fn add(&mut self, kind: Kind) -> Option<TableId> {
        let count = self.all.iter().filter(|table| table.entries.kind == kind).count();
        if count >= MAX_TABLES[kind as usize] {
            return None;
        }
        let entries = Entries::new(kind).ok()?;
        self.all.push(Table { entries, noted: Vec::new(), meaning: None, pages: HashMap::new(), asked: 0 });
        Some(TableId(self.all.len() - 1))
    }

    fn reuse(&mut self, kind: Kind) -> Option<TableId> {
        let recent = self.recent;
        let is_recent = |id| recent.iter().flatten().any(|(_, table)| *table == TableId(id));
        let of_kind = self.all.iter().enumerate().filter(|(_, table)| table.entries.kind == kind);
        let (oldest, _) = of_kind.filter(|(id, _)| !is_recent(*id)).min_by_key(|(_, table)| table.asked)?;
        let table = &mut self.all[oldest];
        table.clear();
        if let Some(meaning) = table.meaning.take() {
            self.by_meaning.remove(&meaning);
        }
        self.generation += 1;
        Some(TableId(oldest))
    }

    /// The table whose entries lie at `entries`, and what it stands for.
    pub(crate) fn at(&self, entries: *mut Entry) -> Option<(TableId, Meaning)> {
        let recent = self.recent.iter().flatten();
        let found = recent.copied().find(|(_, table)| self.entries(*table) == entries);
        found.map(|(meaning, table)| (table, meaning))
    }

    /// Where a table's entries lie.
    pub(crate) fn entries(&self, table: TableId) -> *mut Entry {
        self.all[table.0].entries.start.as_ptr()
    }

    /// Notes where the code for `rip` is.
    pub(crate) fn note(&mut self, table: TableId, rip: u64, code: u64) {
        self.all[table.0].note(rip, code);
    }

    /// The code for `rip`, if it is known.
    #[inline]
    pub(crate) fn find(&mut self, table: TableId, rip: u64) -> Option<u64> {
        let entries = &mut self.all[table.0].entries;
        entries.place_of(rip).map(|index| entries.all()[index].code)
    }

    /// The guest-physical number of a page that a table's code lies in, by its
    /// linear number.
    pub(crate) fn page(&self, table: TableId, lin: u64) -> Option<u64> {
        self.all[table.0].pages.get(&lin).copied()
    }

    /// Notes such a page; whether it is new.
    pub(crate) fn note_page(&mut self, table: TableId, lin: u64, gpa: u64) -> bool {
        self.all[table.0].pages.insert(lin, gpa) != Some(gpa)
    }

    /// Where a table's code has this guest-physical page: a linear page number.
    pub(crate) fn place_of(&self, table: TableId, gpa: u64) -> Option<u64> {
        self.all[table.0].pages.iter().find(|&(_, page)| *page == gpa).map(|(&lin, _)| lin)
    }

    /// Forgets where the code of a block is, in all tables.
    pub(crate) fn forget(&mut self, block: &Key) {
        let mode = block.mode.with_windows();
        for table in self.all.iter_mut().filter(|table| table.meaning.is_some_and(|it| it.mode == mode)) {
            if !mode.position_independent() {
                table.forget(block.lin);
                continue;
            }
            let pages = table.pages.iter().filter(|&(_, page)| *page == block.gpa >> 12);
            let found: Vec<u64> = pages.map(|(&lin, _)| lin << 12 | block.gpa & 0xfff).collect();
            found.into_iter().for_each(|rip| table.forget(rip));
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.generation += 1;
        self.by_meaning.clear();
        self.recent = [None; RECENT];
        for table in &mut self.all {
            table.clear();
            table.meaning = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_room_is_found_in_its_second_place() {
        let entries = Entries::new(Kind::User).unwrap();
        let mut table = Table { entries, noted: Vec::new(), meaning: None, pages: HashMap::new(), asked: 0 };
        let apart = Kind::User.entries() as u64 * 2;
        for rip in [0_u64, 2, 0x40_1236] {
            assert_eq!(table.entries.place_of(rip), None, "an empty table leads nowhere");
            let first = Kind::User.index(rip);
            table.note(rip, 1);
            table.note(rip + apart, 2);
            assert_eq!(table.entries.place_of(rip), Some(neighbour(first)));
            assert_eq!(table.entries.place_of(rip + apart), Some(first));
            assert_eq!(table.entries.all()[neighbour(first)].code, 1);
            table.note(rip, 3);
            assert_eq!(table.entries.all()[first].code, 3);
            table.forget(rip);
            assert_eq!(table.entries.place_of(rip), None);
            assert_eq!(table.entries.place_of(rip + apart), Some(neighbour(first)));
            table.clear();
            assert_eq!(table.entries.place_of(rip + apart), None);
        }
    }
}
