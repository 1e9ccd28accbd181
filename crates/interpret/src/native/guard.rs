//! A stand-in for memory operands of which a page cannot be accessed.

use std::ptr::NonNull;

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

const PAGE: usize = 0x1000;
/// A hole, the page with memory, and two more holes.
const LEN: usize = 4 * PAGE;

/// Which pages of an operand cannot be accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hole {
    /// The first of two.
    First,
    /// The second of two.
    Second,
    /// All that there are.
    Both,
}

/// One page of memory between pages that fault.
pub(crate) struct Guard {
    start: NonNull<u8>,
}

// SAFETY: the mapping belongs to this value alone.
unsafe impl Send for Guard {}

impl Guard {
    /// # Errors
    /// If the host refuses the mapping.
    pub(super) fn new() -> rustix::io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at = unsafe { mmap_anonymous(std::ptr::null_mut(), LEN, ProtFlags::empty(), MapFlags::PRIVATE) }?;
        let guard = Self { start: NonNull::new(at.cast()).unwrap_or(NonNull::dangling()) };
        // SAFETY: the second page of our own mapping.
        unsafe { mprotect(at.wrapping_byte_add(PAGE), PAGE, MprotectFlags::READ | MprotectFlags::WRITE) }?;
        Ok(guard)
    }

    /// What stands for the operand at linear address `lin`: the same offset in
    /// a page, and the holes where it has them.
    pub(crate) fn operand(&mut self, lin: u64, hole: Hole) -> *mut u8 {
        let page = match hole {
            Hole::First => 0,
            Hole::Second => PAGE,
            Hole::Both => 2 * PAGE,
        };
        self.start.as_ptr().wrapping_add(page + lin as usize % PAGE)
    }

    /// The part of an operand of `size` bytes that lies in memory.
    pub(crate) fn part(&mut self, lin: u64, size: usize, hole: Hole) -> &mut [u8] {
        let offset = lin as usize % PAGE;
        let range = match hole {
            Hole::First => 0..(offset + size).saturating_sub(PAGE).min(PAGE),
            Hole::Second => offset..(offset + size).min(PAGE),
            Hole::Both => 0..0,
        };
        // SAFETY: the page is readable and writable, and borrowed with `self`;
        // the range lies inside it.
        unsafe {
            let page = self.start.as_ptr().add(PAGE + range.start);
            std::slice::from_raw_parts_mut(page, range.len())
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length; the borrows have ended.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), LEN) };
    }
}
