//! Reading the tables: from CR3 to the leaf, with the reserved-bit checks.

use super::{PageTableMemory, Paging};
use crate::GuestPhysAddr;

/// Present.
pub(super) const P: u64 = 1 << 0;
/// Writable.
pub(super) const RW: u64 = 1 << 1;
/// User.
pub(super) const US: u64 = 1 << 2;
/// Accessed.
pub(super) const A: u64 = 1 << 5;
/// Dirty.
pub(super) const D: u64 = 1 << 6;
/// Page size: a leaf above the last level.
pub(super) const PS: u64 = 1 << 7;
/// Global.
pub(super) const G: u64 = 1 << 8;
/// Execute disable.
pub(super) const NX: u64 = 1 << 63;
/// Physical address of a table or page in an 8-byte entry.
pub(super) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Why a walk ended before a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WalkFault {
    /// P is clear in an entry.
    NotPresent,
    /// A reserved bit is set in a present entry.
    Reserved,
}

#[derive(Clone, Copy, Default)]
struct Entry {
    at: u64,
    value: u64,
}

/// A walk that reached a leaf.
pub(super) struct Walk {
    entries: [Entry; 5],
    used: usize,
    wide: bool,
    /// Bits set in every entry on the way: rights are their conjunction.
    pub(super) all: u64,
    /// Bits set in some entry on the way: XD forbids at any level.
    pub(super) any: u64,
    /// The leaf entry.
    pub(super) leaf: u64,
    /// Physical address of the page.
    pub(super) frame: u64,
    /// Binary logarithm of the page's size.
    pub(super) shift: u8,
}

impl Walk {
    #[inline]
    fn start(wide: bool) -> Self {
        Self { entries: [Entry::default(); 5], used: 0, wide, all: !0, any: 0, leaf: 0, frame: 0, shift: 12 }
    }

    #[inline]
    fn push(&mut self, at: u64, value: u64) {
        if let Some(slot) = self.entries.get_mut(self.used) {
            *slot = Entry { at, value };
            self.used += 1;
        }
        self.all &= value;
        self.any |= value;
        self.leaf = value;
    }

    #[inline]
    fn finish(mut self, frame: u64, shift: u8) -> Self {
        self.frame = frame & !((1 << shift) - 1);
        self.shift = shift;
        self
    }

    /// Sets the accessed flags of all entries, and the leaf's dirty flag for a
    /// write; false if an entry has changed under the walk.
    #[inline]
    pub(super) fn set_flags<M: PageTableMemory + ?Sized>(&self, mem: &M, write: bool) -> bool {
        let leaf_flags = if write { A | D } else { A };
        if self.all & A != 0 && self.leaf & leaf_flags == leaf_flags {
            return true;
        }
        self.update_entries(mem, leaf_flags)
    }

    #[cold]
    fn update_entries<M: PageTableMemory + ?Sized>(&self, mem: &M, leaf_flags: u64) -> bool {
        let (leaf, tables) = match self.entries.get(..self.used).and_then(<[Entry]>::split_last) {
            Some(parts) => parts,
            None => return true,
        };
        tables.iter().all(|entry| self.update(mem, entry, A)) && self.update(mem, leaf, leaf_flags)
    }

    fn update<M: PageTableMemory + ?Sized>(&self, mem: &M, entry: &Entry, flags: u64) -> bool {
        let new = entry.value | flags;
        if new == entry.value {
            return true;
        }
        let at = GuestPhysAddr(entry.at);
        if self.wide {
            mem.update_entry64(at, entry.value, new)
        } else {
            mem.update_entry32(at, entry.value as u32, new as u32)
        }
    }
}

impl Paging {
    /// Walks tables of 8-byte entries; `shift` is where the top level's index
    /// starts in a linear address.
    #[inline]
    pub(super) fn walk_wide<M: PageTableMemory + ?Sized>(
        &self,
        mem: &M,
        lin: u64,
        mut table: u64,
        mut shift: u8,
    ) -> Result<Walk, WalkFault> {
        let mut walk = Walk::start(true);
        loop {
            let at = table | (lin >> shift & 0x1ff) << 3;
            let entry = mem.read_entry64(GuestPhysAddr(at));
            if entry & P == 0 {
                return Err(WalkFault::NotPresent);
            }
            if entry & self.reserved != 0 {
                return Err(WalkFault::Reserved);
            }
            walk.push(at, entry);
            let address = entry & ADDRESS;
            if shift == 12 {
                return Ok(walk.finish(address, 12));
            }
            if entry & PS != 0 {
                let below_frame = (1 << shift) - (1 << 13);
                let allowed = shift == 21 || shift == 30 && self.gigabyte_pages;
                if !allowed || entry & below_frame != 0 {
                    return Err(WalkFault::Reserved);
                }
                return Ok(walk.finish(address, shift));
            }
            table = address;
            shift -= 9;
        }
    }

    /// Walks the two levels of 32-bit paging (SDM 3A 4.3).
    #[inline]
    pub(super) fn walk_narrow<M: PageTableMemory + ?Sized>(
        &self,
        mem: &M,
        lin: u64,
    ) -> Result<Walk, WalkFault> {
        let mut walk = Walk::start(false);
        let at = self.root | (lin >> 22 & 0x3ff) << 2;
        let pde = u64::from(mem.read_entry32(GuestPhysAddr(at)));
        if pde & P == 0 {
            return Err(WalkFault::NotPresent);
        }
        walk.push(at, pde);
        if self.pse && pde & PS != 0 {
            return self.large_narrow(walk, pde);
        }
        let at = pde & 0xffff_f000 | (lin >> 12 & 0x3ff) << 2;
        let pte = u64::from(mem.read_entry32(GuestPhysAddr(at)));
        if pte & P == 0 {
            return Err(WalkFault::NotPresent);
        }
        walk.push(at, pte);
        Ok(walk.finish(pte & 0xffff_f000, 12))
    }

    /// A 4 MiB page: bits 20:13 hold address bits 39:32 as far as the
    /// physical-address width reaches; those up to 21 above are reserved (SDM
    /// 3A table 4-4).
    #[inline]
    fn large_narrow(&self, walk: Walk, pde: u64) -> Result<Walk, WalkFault> {
        let high_bits = self.phys_bits.clamp(32, 40) - 32;
        let reserved = 0x3f_e000 & !0 << (13 + high_bits);
        if pde & reserved != 0 {
            return Err(WalkFault::Reserved);
        }
        let frame = pde & 0xffc0_0000 | (pde >> 13 & 0xff) << 32;
        Ok(walk.finish(frame, 22))
    }
}
