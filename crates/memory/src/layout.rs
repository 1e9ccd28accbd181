//! Where RAM lies in the guest-physical address space.

use x86::GuestPhysAddr;

/// RAM below 4 GiB ends here at the latest; behind it lie PCI windows, IOAPIC,
/// local APIC and firmware.
pub const LOW_RAM_END: u64 = 0xc000_0000;
/// RAM that does not fit below goes here.
pub const HIGH_RAM_START: u64 = 1 << 32;
/// The smallest machine: real-mode memory, a kernel and a stack.
pub const MIN_RAM: u64 = 2 << 20;
/// The largest machine: far below what 46 physical address bits leave above
/// the hole.
pub const MAX_RAM: u64 = 1 << 40;

/// How a given amount of RAM is split around the hole below 4 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamLayout {
    /// Bytes from address zero.
    pub low: u64,
    /// Bytes from [`HIGH_RAM_START`].
    pub high: u64,
}

impl RamLayout {
    /// The layout of `size` bytes of RAM.
    pub const fn new(size: u64) -> Self {
        if size <= LOW_RAM_END {
            Self { low: size, high: 0 }
        } else {
            Self { low: LOW_RAM_END, high: size - LOW_RAM_END }
        }
    }

    /// The RAM ranges as (start, length), lowest first.
    pub fn ranges(self) -> impl Iterator<Item = (GuestPhysAddr, u64)> {
        [(GuestPhysAddr(0), self.low), (GuestPhysAddr(HIGH_RAM_START), self.high)]
            .into_iter()
            .filter(|&(_, len)| len > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hole_splits_large_memories() {
        assert_eq!(RamLayout::new(1 << 30).ranges().count(), 1);
        let ranges: Vec<_> = RamLayout::new(4 << 30).ranges().collect();
        assert_eq!(ranges, [(GuestPhysAddr(0), 3 << 30), (GuestPhysAddr(1 << 32), 1 << 30)]);
    }
}
