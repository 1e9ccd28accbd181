//! Guest memory as the page walker reads and updates it: in place, with atomic
//! accesses, because other vCPUs walk and write the same tables.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use x86::GuestPhysAddr;
use x86::paging::PageTableMemory;

use crate::GuestMemory;

impl GuestMemory {
    /// The entry at `at`, if it is memory; second, whether it may be written.
    fn entry<T>(&self, at: GuestPhysAddr) -> Option<(&T, bool)> {
        debug_assert!(at.0.is_multiple_of(size_of::<T>() as u64));
        let page = self.page(at)?;
        // SAFETY: the entry is aligned and so lies inside the page, which is
        // valid as long as `self`; T is an atomic, for which any bits are valid
        // and any concurrent change is sound.
        let entry = unsafe { page.start.add(at.page_offset() as usize).cast::<T>().as_ref() };
        Some((entry, page.writable))
    }
}

impl PageTableMemory for GuestMemory {
    fn read_entry32(&self, at: GuestPhysAddr) -> u32 {
        self.entry::<AtomicU32>(at).map_or(0, |(entry, _)| entry.load(Ordering::Relaxed))
    }

    fn read_entry64(&self, at: GuestPhysAddr) -> u64 {
        self.entry::<AtomicU64>(at).map_or(0, |(entry, _)| entry.load(Ordering::Relaxed))
    }

    fn update_entry32(&self, at: GuestPhysAddr, old: u32, new: u32) -> bool {
        let Some((entry, true)) = self.entry::<AtomicU32>(at) else { return true };
        let updated = entry.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        self.note_write(at, 4);
        updated
    }

    fn update_entry64(&self, at: GuestPhysAddr, old: u64, new: u64) -> bool {
        let Some((entry, true)) = self.entry::<AtomicU64>(at) else { return true };
        let updated = entry.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        self.note_write(at, 8);
        updated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_updated_only_from_the_value_that_was_read() {
        let memory = GuestMemory::new(2 << 20).unwrap();
        let at = GuestPhysAddr(0x3008);
        assert!(memory.update_entry64(at, 0, 0x1234));
        assert!(!memory.update_entry64(at, 0, 0x5678));
        assert_eq!(memory.read_entry64(at), 0x1234);
        assert_eq!(memory.read_entry32(GuestPhysAddr(1 << 40)), 0);
    }
}
