//! Which guest memory is still free while a kernel and its modules are placed.

use std::ops::Range;

use crate::e820::{E820Entry, E820Kind};
use crate::layout::LOADER;

/// Free RAM, lowest first.
#[derive(Debug)]
pub(crate) struct Places {
    free: Vec<Range<u64>>,
    end: u64,
}

impl Places {
    /// All RAM of `map`, apart from the loader's own area.
    pub(crate) fn new(map: &[E820Entry]) -> Self {
        let ram = map.iter().filter(|entry| entry.kind == E820Kind::Ram);
        let free: Vec<_> = ram.map(|entry| entry.start.0..entry.end()).collect();
        let mut places = Self { end: free.last().map_or(0, |last| last.end), free };
        places.remove(&LOADER);
        places
    }

    fn remove(&mut self, range: &Range<u64>) {
        let cut =
            |free: &Range<u64>| [free.start..free.end.min(range.start), free.start.max(range.end)..free.end];
        self.free = self.free.iter().flat_map(cut).filter(|free| !free.is_empty()).collect();
    }

    /// Takes `len` bytes from `start` on; false, and nothing taken, unless all
    /// of them are free.
    pub(crate) fn claim(&mut self, start: u64, len: u64) -> bool {
        let Some(end) = start.checked_add(len) else { return false };
        let fits = self.free.iter().any(|free| free.start <= start && end <= free.end);
        if fits {
            self.remove(&(start..end));
        }
        fits
    }

    /// Takes `len` bytes at the lowest multiple of `align` (a power of two)
    /// from `from` on.
    pub(crate) fn lowest(&mut self, len: u64, align: u64, from: u64) -> Option<u64> {
        let start = self.free.iter().find_map(|free| {
            let start = free.start.max(from).checked_next_multiple_of(align)?;
            (start.checked_add(len)? <= free.end).then_some(start)
        })?;
        self.claim(start, len).then_some(start)
    }

    /// Takes `len` bytes at the highest multiple of `align` (a power of two)
    /// inside `window`.
    pub(crate) fn highest(&mut self, len: u64, align: u64, window: Range<u64>) -> Option<u64> {
        let start = self.free.iter().rev().find_map(|free| {
            let start = free.end.min(window.end).checked_sub(len)? & !(align - 1);
            (start >= free.start.max(window.start)).then_some(start)
        })?;
        self.claim(start, len).then_some(start)
    }

    /// The end of RAM.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memory::RamLayout;

    fn places() -> Places {
        Places::new(&crate::e820(RamLayout::new(8 << 20), &[]))
    }

    #[test]
    fn nothing_is_given_twice() {
        let mut places = places();
        assert!(places.claim(0x20_0000, 0x1000));
        assert!(!places.claim(0x20_0fff, 1));
        assert!(!places.claim(0x1f_ffff, 2));
        assert!(places.claim(0x1f_0000, 0x1_0000));
        assert!(!places.claim(u64::MAX, 2));
        assert!(!places.claim(LOADER.start, 1));
        assert!(!places.claim(0x7f_ffff, 2));
    }

    #[test]
    fn searches_respect_alignment_and_window() {
        let mut places = places();
        assert_eq!(places.lowest(0x10, 0x1_0000, 0x10_0001), Some(0x11_0000));
        assert_eq!(places.lowest(0x10, 0x1000, 0x11_0000), Some(0x11_1000));
        assert_eq!(places.highest(0x1001, 0x1000, 0x10_0000..u64::MAX), Some(0x7f_e000));
        assert_eq!(places.highest(0x1000, 0x1000, 0x10_0000..0x40_0000), Some(0x3f_f000));
        assert_eq!(places.highest(8 << 20, 0x1000, 0..u64::MAX), None);
        assert_eq!(places.lowest(u64::MAX, 1, 1), None);
        assert_eq!(places.lowest(1, 1 << 63, u64::MAX), None);
    }
}
