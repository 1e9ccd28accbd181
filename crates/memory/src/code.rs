//! Which pieces of RAM hold code that an engine has decoded or translated.
//!
//! Granularity is 64 bytes, so that data next to code does not cost the code.
//! An engine marks what it has decoded and remembers the page's version; a
//! write into a marked granule advances the version, and whoever finds another
//! version than the one it remembers decodes anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use vm_memory::bitmap::{Bitmap, RefSlice, WithBitmapSlice};
use x86::PAGE_SIZE;

/// Bytes that one bit stands for.
pub const GRANULE: u64 = 64;

#[derive(Debug, Default)]
struct Page {
    /// One bit for each 64 bytes that hold decoded code.
    granules: AtomicU64,
    version: AtomicU32,
}

/// The tracker for one region of memory; offsets count from its start.
#[derive(Debug, Default)]
pub struct CodePages {
    pages: Box<[Page]>,
    /// Advances with every version of any page of any region of the machine.
    epoch: Arc<AtomicU64>,
}

impl CodePages {
    /// A tracker for `len` bytes of the machine that has this `epoch`.
    pub(crate) fn new(len: u64, epoch: Arc<AtomicU64>) -> Self {
        let pages = usize::try_from(len.div_ceil(PAGE_SIZE)).unwrap_or(0);
        // Zeroed by the host as they are touched: large guests start as fast
        // as small ones.
        let pages = Box::<[Page]>::new_zeroed_slice(pages);
        // SAFETY: a `Page` is two atomic integers, for which zero is a value.
        Self { pages: unsafe { pages.assume_init() }, epoch }
    }

    fn page(&self, offset: u64) -> Option<&Page> {
        self.pages.get(usize::try_from(offset / PAGE_SIZE).ok()?)
    }

    /// Notes that `len` bytes at `offset`, all in one page, hold code.
    pub fn mark(&self, offset: u64, len: u64) {
        if let Some(page) = self.page(offset) {
            page.granules.fetch_or(granule_mask(offset, len), Ordering::AcqRel);
        }
    }

    /// Whether the page that holds `offset` has any code.
    pub fn holds_code(&self, offset: u64) -> bool {
        self.page(offset).is_some_and(|page| page.granules.load(Ordering::Acquire) != 0)
    }

    /// Whether any of `len` bytes at `offset`, all in one page, lie in a piece
    /// that holds code.
    pub fn covers(&self, offset: u64, len: u64) -> bool {
        self.page(offset)
            .is_some_and(|page| page.granules.load(Ordering::Acquire) & granule_mask(offset, len) != 0)
    }

    /// The version of the code in the page that holds `offset`.
    pub fn version(&self, offset: u64) -> u32 {
        self.page(offset).map_or(0, |page| page.version.load(Ordering::Acquire))
    }

    /// Notes a write of `len` bytes at `offset`; true if it hit code.
    pub fn written(&self, offset: u64, len: u64) -> bool {
        let mut hit = false;
        let mut at = offset;
        let end = offset.saturating_add(len);
        while at < end {
            let Some(page) = self.page(at) else { break };
            let next = (at / PAGE_SIZE + 1) * PAGE_SIZE;
            let code = page.granules.load(Ordering::Acquire);
            if code & granule_mask(at, end.min(next) - at) != 0 {
                page.granules.store(0, Ordering::Release);
                page.version.fetch_add(1, Ordering::AcqRel);
                self.epoch.fetch_add(1, Ordering::AcqRel);
                hit = true;
            }
            at = next;
        }
        hit
    }
}

/// The bits of the granules that `len` bytes at `offset` touch, within the
/// page of `offset`.
fn granule_mask(offset: u64, len: u64) -> u64 {
    if len == 0 {
        return 0;
    }
    let start = offset % PAGE_SIZE;
    let first = start / GRANULE;
    let last = ((start + len.min(PAGE_SIZE) - 1) / GRANULE).min(63);
    (u64::MAX << first) & (u64::MAX >> (63 - last))
}

impl<'a> WithBitmapSlice<'a> for CodePages {
    type S = RefSlice<'a, Self>;
}

/// A "dirty" mark is the news of a write.
impl Bitmap for CodePages {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.written(offset as u64, len as u64);
    }

    fn dirty_at(&self, _offset: usize) -> bool {
        false
    }

    fn slice_at(&self, offset: usize) -> RefSlice<'_, Self> {
        RefSlice::new(self, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_writes_into_code_advance_the_version() {
        let code = CodePages::new(0x4000, Arc::default());
        code.mark(0x1040, 0x50);
        assert!(!code.written(0x1000, 0x40));
        assert!(!code.written(0x10c0, 0x40));
        assert!(!code.written(0x3000, 0x1000));
        assert_eq!(code.version(0x1000), 0);
        assert!(code.written(0x108f, 1));
        assert_eq!(code.version(0x1fff), 1);
        assert!(!code.holds_code(0x1000));
    }

    #[test]
    fn a_write_over_many_pages_reaches_each() {
        let code = CodePages::new(0x4000, Arc::default());
        for page in 0..4 {
            code.mark(page * 0x1000 + 0xfc0, 0x40);
        }
        assert!(code.written(0xff0, 0x2fd1));
        assert_eq!([0, 1, 2, 3].map(|page| code.version(page * 0x1000)), [1, 1, 1, 1]);
    }

    #[test]
    fn offsets_beyond_the_end_are_ignored() {
        let code = CodePages::new(0x1000, Arc::default());
        code.mark(0x1000, 8);
        assert!(!code.written(u64::MAX - 3, 8));
    }

    #[test]
    fn masks_cover_the_touched_granules() {
        assert_eq!(granule_mask(0, 4096), u64::MAX);
        assert_eq!(granule_mask(63, 2), 0b11);
        assert_eq!(granule_mask(4095, 1), 1 << 63);
        assert_eq!(granule_mask(64, 0), 0);
    }
}
