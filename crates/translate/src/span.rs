//! Pieces of address space that begin where a huge page may.
//!
//! Translated code is large and is executed from everywhere: in pages of 4 KiB
//! it uses more entries than the host's own TLB has.

use std::os::fd::AsFd;
use std::ptr::NonNull;

use memory::HUGE_PAGE;
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// `MADV_COLLAPSE`, which Linux has since 6.1 (madvise(2)).
const MADV_COLLAPSE: i32 = 25;

/// Address space of its own, from a multiple of a huge page on.
pub(crate) struct Span {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the address space belongs to this value alone.
unsafe impl Send for Span {}

impl Span {
    /// The first `len` bytes of a file, shared with its other mappings.
    ///
    /// # Errors
    /// If the host has no address space, or forbids `prot`.
    pub(crate) fn of_file(file: impl AsFd, len: usize, prot: ProtFlags) -> rustix::io::Result<Self> {
        let span = Self::reserve(len)?;
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: takes the place of the reservation, which nobody uses.
        unsafe { mmap(span.start.as_ptr().cast(), len, prot, flags, file, 0) }?;
        Ok(span)
    }

    fn reserve(len: usize) -> rustix::io::Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        let whole = len + HUGE_PAGE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at = unsafe { mmap_anonymous(std::ptr::null_mut(), whole, ProtFlags::empty(), flags) }?;
        let skip = (at as usize).next_multiple_of(HUGE_PAGE) - at as usize;
        let start = at.cast::<u8>().wrapping_add(skip);
        let span = Self {
            start: NonNull::new(start).unwrap_or(NonNull::dangling()),
            len: len.next_multiple_of(4096),
        };
        let behind = start.wrapping_add(span.len);
        for (surplus, bytes) in [(at.cast(), skip), (behind, whole - skip - span.len)] {
            if bytes > 0 {
                // SAFETY: what lies before and behind the span in the new mapping.
                unsafe { munmap(surplus.cast(), bytes) }?;
            }
        }
        Ok(span)
    }

    /// Where it begins.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Puts one huge page behind the bytes from `offset`, a multiple of its
    /// size, if the span has all of it and the host has one to give.
    pub(crate) fn collapse(&self, offset: usize) {
        if offset + HUGE_PAGE <= self.len {
            let at = self.start.as_ptr().wrapping_add(offset);
            // SAFETY: inside the mapping; contents and access rights stay.
            unsafe { libc::madvise(at.cast(), HUGE_PAGE, MADV_COLLAPSE) };
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        // SAFETY: mapped by `reserve` with this length, and only this value led
        // to it.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    #[test]
    fn a_collapsed_span_keeps_its_contents() {
        let len = 2 * HUGE_PAGE + 4096;
        let file = memfd_create("span", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, len as u64).unwrap();
        let span = Span::of_file(&file, len, ProtFlags::READ | ProtFlags::WRITE).unwrap();
        let other = Span::of_file(&file, len, ProtFlags::READ).unwrap();
        assert_eq!(span.start().as_ptr() as usize % HUGE_PAGE, 0);
        let places = [0, 4095, HUGE_PAGE + 1, len - 1];
        for place in places {
            // SAFETY: inside the span.
            unsafe { span.start().add(place).write(place as u8 | 1) };
        }
        for offset in [0, HUGE_PAGE, 2 * HUGE_PAGE] {
            span.collapse(offset);
            other.collapse(offset);
        }
        for place in places {
            // SAFETY: inside the spans.
            let seen = unsafe { (span.start().add(place).read(), other.start().add(place).read()) };
            assert_eq!(seen, (place as u8 | 1, place as u8 | 1));
        }
    }
}
