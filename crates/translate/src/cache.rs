//! The code cache: one piece of memory, mapped twice, so that it is never
//! writable and executable through the same mapping.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicI32, Ordering};

use memory::HUGE_PAGE;
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, ftruncate, memfd_create};
use rustix::mm::ProtFlags;

use crate::span::Span;

/// The host gives and takes memory by pages of this size.
const HOST_PAGE: usize = 4096;
/// How much of a huge page code must fill before it gets one: what runs for a
/// moment needs none.
const WORTH_ONE: usize = HUGE_PAGE / 4;
/// Parts that are filled, and dropped, one after the other.
pub(crate) const PARTS: usize = 8;

/// Where the parts lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    first: usize,
    len: usize,
}

impl Layout {
    /// Where a part begins.
    pub(crate) const fn start(self, part: usize) -> usize {
        self.first + part * self.len
    }

    /// The part that an address lies in.
    #[inline]
    pub(crate) fn part_of(self, address: usize) -> Option<usize> {
        let part = address.checked_sub(self.first)? / self.len;
        (part < PARTS).then_some(part)
    }
}

/// The two mappings. At the start lies what is kept for ever.
pub(crate) struct CodeCache {
    file: OwnedFd,
    writable: Span,
    executable: Span,
    capacity: usize,
    used: usize,
    /// Where the part ends that is being filled.
    end: usize,
    part: usize,
    /// How far there has been code since everything was dropped.
    reached: usize,
    /// How far huge pages have been asked for.
    huge: usize,
    /// What stays when the rest is dropped.
    kept: usize,
}

impl CodeCache {
    /// # Errors
    /// If the host has no memory files or forbids executable mappings.
    pub(crate) fn new(capacity: usize) -> rustix::io::Result<Self> {
        let file = memfd_create("ringmaster-translated", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, capacity as u64)?;
        let writable = Span::of_file(&file, capacity, ProtFlags::READ | ProtFlags::WRITE)?;
        let executable = Span::of_file(&file, capacity, ProtFlags::READ | ProtFlags::EXEC)?;
        Ok(Self {
            file,
            writable,
            executable,
            capacity,
            used: 0,
            end: capacity,
            part: 0,
            reached: 0,
            huge: 0,
            kept: 0,
        })
    }

    /// The addresses of all code, present and future.
    pub(crate) fn range(&self) -> std::ops::Range<usize> {
        let start = self.executable.start().as_ptr() as usize;
        start..start + self.capacity
    }

    /// The addresses of what is not kept for ever, present and future.
    pub(crate) fn changing(&self) -> std::ops::Range<usize> {
        let range = self.range();
        range.start + self.kept..range.end
    }

    /// Where the next code will lie.
    pub(crate) fn next(&self) -> usize {
        self.executable.start().as_ptr() as usize + self.used
    }

    /// Places `code`, made for [`Self::next`]; false if there is no room.
    pub(crate) fn place(&mut self, code: &[u8]) -> bool {
        let end = self.used + code.len();
        if end > self.end {
            return false;
        }
        // SAFETY: the space lies inside the writable mapping and is free.
        unsafe {
            std::ptr::copy_nonoverlapping(
                code.as_ptr(),
                self.writable.start().as_ptr().add(self.used),
                code.len(),
            );
        }
        self.used = end.next_multiple_of(16).min(self.end);
        self.reached = self.reached.max(self.used);
        if self.used >= self.huge + WORTH_ONE {
            self.ask_for_huge_page();
        }
        true
    }

    /// Puts the next piece in one huge page. Code there may be running: the
    /// host sees to that.
    #[cold]
    fn ask_for_huge_page(&mut self) {
        self.writable.collapse(self.huge);
        self.executable.collapse(self.huge);
        self.huge += HUGE_PAGE;
    }

    /// What has been placed so far is kept; the rest is divided into parts, the
    /// first of which is filled first.
    pub(crate) fn keep(&mut self) {
        self.kept = self.used.next_multiple_of(64);
        self.begin(0);
    }

    /// Where the parts lie.
    pub(crate) fn layout(&self) -> Layout {
        let first = self.executable.start().as_ptr() as usize + self.kept;
        Layout { first, len: ((self.capacity - self.kept) / PARTS) & !63 }
    }

    /// Fills `part` from its start. None of the code there may be running.
    pub(crate) fn begin(&mut self, part: usize) {
        let (layout, origin) = (self.layout(), self.executable.start().as_ptr() as usize);
        self.part = part;
        self.used = layout.start(part) - origin;
        self.end = layout.start(part + 1) - origin;
    }

    /// Drops all code but what is kept. None of it may be running.
    pub(crate) fn clear(&mut self) {
        self.begin(0);
        self.reached = self.used;
    }

    /// The part that is being filled.
    pub(crate) fn part(&self) -> usize {
        self.part
    }

    /// Bytes that are left in it.
    pub(crate) fn room(&self) -> usize {
        self.end - self.used
    }

    /// Bytes that code takes, with what is kept.
    pub(crate) fn taken(&self) -> usize {
        self.reached
    }

    /// Gives the memory of dropped code back to the host.
    pub(crate) fn release(&mut self) {
        let from = self.used.next_multiple_of(HOST_PAGE).min(self.capacity);
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // What cannot be given back is used again.
        let _ = fallocate(&self.file, hole, from as u64, (self.capacity - from) as u64);
        self.huge = 0;
    }

    /// Makes the branch whose displacement lies at `at` lead to `target`.
    pub(crate) fn patch(&self, at: usize, target: usize) {
        let offset = at.wrapping_sub(self.executable.start().as_ptr() as usize);
        debug_assert!(offset + 4 <= self.capacity);
        let rel = target.wrapping_sub(at + 4) as i32;
        // SAFETY: the displacement lies inside the writable mapping. Nobody
        // executes code of this cache now but this thread, which returns to it
        // by way of an indirect jump.
        unsafe {
            let place = self.writable.start().as_ptr().add(offset).cast::<i32>();
            if place.is_aligned() {
                (*place.cast::<AtomicI32>()).store(rel, Ordering::Release);
            } else {
                place.write_unaligned(rel);
            }
        }
    }
}
