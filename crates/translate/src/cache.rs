//! The code cache: one piece of memory, mapped twice, so that it is never
//! writable and executable through the same mapping.

use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// The host gives and takes memory by pages of this size.
const HOST_PAGE: usize = 4096;
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
    writable: NonNull<u8>,
    executable: NonNull<u8>,
    capacity: usize,
    used: usize,
    /// Where the part ends that is being filled.
    end: usize,
    part: usize,
    /// How far there has been code since everything was dropped.
    reached: usize,
    /// What stays when the rest is dropped.
    kept: usize,
}

// SAFETY: the mappings belong to this value alone.
unsafe impl Send for CodeCache {}

impl CodeCache {
    /// # Errors
    /// If the host has no memory files or forbids executable mappings.
    pub(crate) fn new(capacity: usize) -> rustix::io::Result<Self> {
        let file = memfd_create("ringmaster-translated", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, capacity as u64)?;
        let map = |prot| {
            // SAFETY: a new mapping at an address of the kernel's choice.
            let at = unsafe { mmap(std::ptr::null_mut(), capacity, prot, MapFlags::SHARED, &file, 0) }?;
            Ok(NonNull::new(at.cast::<u8>()).unwrap_or(NonNull::dangling()))
        };
        let writable = map(ProtFlags::READ | ProtFlags::WRITE)?;
        let executable = map(ProtFlags::READ | ProtFlags::EXEC)?;
        Ok(Self {
            file,
            writable,
            executable,
            capacity,
            used: 0,
            end: capacity,
            part: 0,
            reached: 0,
            kept: 0,
        })
    }

    /// The addresses of all code, present and future.
    pub(crate) fn range(&self) -> std::ops::Range<usize> {
        let start = self.executable.as_ptr() as usize;
        start..start + self.capacity
    }

    /// The addresses of what is not kept for ever, present and future.
    pub(crate) fn changing(&self) -> std::ops::Range<usize> {
        let range = self.range();
        range.start + self.kept..range.end
    }

    /// Where the next code will lie.
    pub(crate) fn next(&self) -> usize {
        self.executable.as_ptr() as usize + self.used
    }

    /// Places `code`, made for [`Self::next`]; false if there is no room.
    pub(crate) fn place(&mut self, code: &[u8]) -> bool {
        let end = self.used + code.len();
        if end > self.end {
            return false;
        }
        // SAFETY: the space lies inside the writable mapping and is free.
        unsafe {
            std::ptr::copy_nonoverlapping(code.as_ptr(), self.writable.as_ptr().add(self.used), code.len());
        }
        self.used = end.next_multiple_of(16).min(self.end);
        self.reached = self.reached.max(self.used);
        true
    }

    /// What has been placed so far is kept; the rest is divided into parts, the
    /// first of which is filled first.
    pub(crate) fn keep(&mut self) {
        self.kept = self.used.next_multiple_of(64);
        self.begin(0);
    }

    /// Where the parts lie.
    pub(crate) fn layout(&self) -> Layout {
        let first = self.executable.as_ptr() as usize + self.kept;
        Layout { first, len: ((self.capacity - self.kept) / PARTS) & !63 }
    }

    /// Fills `part` from its start. None of the code there may be running.
    pub(crate) fn begin(&mut self, part: usize) {
        let (layout, origin) = (self.layout(), self.executable.as_ptr() as usize);
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
    pub(crate) fn release(&self) {
        let from = self.used.next_multiple_of(HOST_PAGE).min(self.capacity);
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // What cannot be given back is used again.
        let _ = fallocate(&self.file, hole, from as u64, (self.capacity - from) as u64);
    }

    /// Makes the branch whose displacement lies at `at` lead to `target`.
    pub(crate) fn patch(&self, at: usize, target: usize) {
        let offset = at.wrapping_sub(self.executable.as_ptr() as usize);
        debug_assert!(offset + 4 <= self.capacity);
        let rel = target.wrapping_sub(at + 4) as i32;
        // SAFETY: the displacement lies inside the writable mapping. Nobody
        // executes code of this cache now but this thread, which returns to it
        // by way of an indirect jump.
        unsafe {
            let place = self.writable.as_ptr().add(offset).cast::<i32>();
            if place.is_aligned() {
                (*place.cast::<AtomicI32>()).store(rel, Ordering::Release);
            } else {
                place.write_unaligned(rel);
            }
        }
    }
}

impl Drop for CodeCache {
    fn drop(&mut self) {
        for mapping in [self.writable, self.executable] {
            // SAFETY: mapped in `new` with this length; nobody runs the code of
            // a cache that is gone.
            let _ = unsafe { munmap(mapping.as_ptr().cast(), self.capacity) };
        }
    }
}
