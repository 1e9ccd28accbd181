//! The memory map, as BIOS function E820 and everybody after it describes it
//! (ACPI 6.5, 15.1 and table 15.4).

use memory::{HIGH_RAM_START, RamLayout};
use x86::GuestPhysAddr;

use crate::layout::{BIOS_AREA, EBDA, ONE_MIB};

/// How many entries the zero page carries; the other protocols get no more.
pub(crate) const MAX_ENTRIES: usize = 128;

/// The kind of a memory range, by its number in the ACPI specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum E820Kind {
    /// For the guest to use.
    Ram = 1,
    /// Not to be touched, or device memory.
    Reserved = 2,
    /// ACPI tables, free once they are read.
    Acpi = 3,
    /// ACPI non-volatile storage.
    Nvs = 4,
}

/// One range of the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct E820Entry {
    /// First address.
    pub start: GuestPhysAddr,
    /// Bytes.
    pub len: u64,
    /// What it is.
    pub kind: E820Kind,
}

impl E820Entry {
    /// A range that the guest must leave alone.
    pub const fn reserved(start: GuestPhysAddr, len: u64) -> Self {
        Self { start, len, kind: E820Kind::Reserved }
    }

    /// The address behind the last byte.
    pub const fn end(&self) -> u64 {
        self.start.0.saturating_add(self.len)
    }

    const fn between(start: u64, end: u64, kind: E820Kind) -> Self {
        Self { start: GuestPhysAddr(start), len: end.saturating_sub(start), kind }
    }

    /// What `other` leaves of this range: nothing, one or two pieces.
    fn without(self, other: &Self) -> impl Iterator<Item = Self> {
        let before = Self::between(self.start.0, self.end().min(other.start.0), self.kind);
        let after = Self::between(self.start.0.max(other.end()), self.end(), self.kind);
        [before, after].into_iter().filter(|piece| piece.len > 0)
    }
}

/// The memory map of a machine: its RAM, the PC's fixed reservations, and
/// `reserved` (ECAM, ACPI tables and the like), which wins over RAM. Sorted,
/// without overlaps; neighbours of one kind are one entry.
pub fn e820(layout: RamLayout, reserved: &[E820Entry]) -> Vec<E820Entry> {
    let mut map = vec![
        E820Entry::between(0, EBDA.start, E820Kind::Ram),
        E820Entry::between(EBDA.start, EBDA.end, E820Kind::Reserved),
        E820Entry::between(BIOS_AREA.start, BIOS_AREA.end, E820Kind::Reserved),
        E820Entry::between(ONE_MIB, layout.low, E820Kind::Ram),
        E820Entry::between(HIGH_RAM_START, HIGH_RAM_START.saturating_add(layout.high), E820Kind::Ram),
    ];
    for entry in reserved.iter().filter(|entry| entry.len > 0) {
        map = map.into_iter().flat_map(|old| old.without(entry)).collect();
        map.push(E820Entry::between(entry.start.0, entry.end(), entry.kind));
    }
    map.retain(|entry| entry.len > 0);
    map.sort_by_key(|entry| entry.start);
    map.dedup_by(|next, last| {
        let joined = next.kind == last.kind && last.end() == next.start.0;
        if joined {
            last.len += next.len;
        }
        joined
    });
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_is_split_around_the_holes() {
        let map = e820(RamLayout::new(4 << 30), &[]);
        let ram: Vec<_> =
            map.iter().filter(|e| e.kind == E820Kind::Ram).map(|e| (e.start.0, e.end())).collect();
        assert_eq!(ram, [(0, 0x9_fc00), (1 << 20, 3 << 30), (1 << 32, 5 << 30)]);
    }

    #[test]
    fn reservations_cut_ram_and_neighbours_join() {
        let at = |start, len| E820Entry::reserved(GuestPhysAddr(start), len);
        let acpi = E820Entry { start: GuestPhysAddr(0x20_0000), len: 0x1000, kind: E820Kind::Acpi };
        let map = e820(RamLayout::new(16 << 20), &[at(0xa_0000, 0x4_0000), acpi, at(u64::MAX - 1, 50)]);
        let found: Vec<_> = map.iter().map(|e| (e.start.0, e.end(), e.kind)).collect();
        assert_eq!(
            found,
            [
                (0, 0x9_fc00, E820Kind::Ram),
                (0x9_fc00, 0x10_0000, E820Kind::Reserved),
                (0x10_0000, 0x20_0000, E820Kind::Ram),
                (0x20_0000, 0x20_1000, E820Kind::Acpi),
                (0x20_1000, 16 << 20, E820Kind::Ram),
                (u64::MAX - 1, u64::MAX, E820Kind::Reserved),
            ]
        );
    }
}
