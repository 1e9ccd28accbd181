//! Which pieces of RAM hold code that an engine has decoded or translated.
//!
//! Granularity is 64 bytes, so that data next to code does not cost the code.
//! An engine marks what it has decoded and remembers the page's version; a
//! write into a marked granule advances the version, and whoever finds another
//! version than the one it remembers decodes anew.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

use vm_memory::bitmap::{Bitmap, RefSlice, WithBitmapSlice};
use x86::{GuestPhysAddr, PAGE_SIZE};

use crate::rendezvous::Rendezvous;

/// Bytes that one bit stands for.
pub const GRANULE: u64 = 64;

/// Hits that are remembered.
const REMEMBERED: usize = 1024;

/// A write that hit code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CodeHit {
    /// The page that was written.
    pub page: GuestPhysAddr,
    /// The pieces with code that were written, a bit for each
    /// [`GRANULE`] bytes.
    pub granules: u64,
}

/// The latest hits of a machine, for engines that want to know where they were.
#[derive(Debug)]
pub(crate) struct CodeLog {
    /// How many there have been.
    epoch: AtomicU64,
    recent: Mutex<Box<[CodeHit; REMEMBERED]>>,
    pub(crate) rendezvous: Rendezvous,
}

impl Default for CodeLog {
    fn default() -> Self {
        Self {
            epoch: AtomicU64::new(0),
            recent: Mutex::new(Box::new([CodeHit::default(); REMEMBERED])),
            rendezvous: Rendezvous::default(),
        }
    }
}

impl CodeLog {
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    fn note(&self, hit: CodeHit) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let number = self.epoch.load(Ordering::Relaxed);
        recent[number as usize % REMEMBERED] = hit;
        self.epoch.store(number + 1, Ordering::Release);
        drop(recent);
        self.rendezvous.call_others();
    }

    /// The hits from number `since` on, and the number of the next; no hits at
    /// all if they are no longer known.
    pub(crate) fn since(&self, since: u64) -> (Option<Vec<CodeHit>>, u64) {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.epoch.load(Ordering::Relaxed);
        let known = now - since <= REMEMBERED as u64;
        let hits = known.then(|| (since..now).map(|number| recent[number as usize % REMEMBERED]).collect());
        (hits, now)
    }
}

#[derive(Debug, Default)]
struct Page {
    /// One bit for each 64 bytes that hold decoded code.
    granules: AtomicU64,
    version: AtomicU32,
    /// Who may write without a look, a bit for each seat.
    writers: AtomicU32,
}

/// The tracker for one region of memory; offsets count from its start.
#[derive(Debug, Default)]
pub struct CodePages {
    start: GuestPhysAddr,
    pages: Box<[Page]>,
    log: Arc<CodeLog>,
}

impl CodePages {
    /// A tracker for `len` bytes from `start` of the machine that has this
    /// `log`.
    pub(crate) fn new(start: GuestPhysAddr, len: u64, log: Arc<CodeLog>) -> Self {
        let pages = usize::try_from(len.div_ceil(PAGE_SIZE)).unwrap_or(0);
        // Zeroed by the host as they are touched: large guests start as fast
        // as small ones.
        let pages = Box::<[Page]>::new_zeroed_slice(pages);
        // SAFETY: a `Page` is made of atomic integers, for which zero is a value.
        Self { start, pages: unsafe { pages.assume_init() }, log }
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

    /// The same; gives who may write the page without a look.
    pub(crate) fn mark_and_ask(&self, offset: u64, len: u64) -> u32 {
        let Some(page) = self.page(offset) else { return 0 };
        page.granules.fetch_or(granule_mask(offset, len), Ordering::SeqCst);
        page.writers.load(Ordering::SeqCst)
    }

    /// Lets `who` write the page of `offset` without a look; false if it holds
    /// code. Of this and a mark, one sees the other.
    pub(crate) fn claim(&self, offset: u64, who: u32) -> bool {
        let Some(page) = self.page(offset) else { return false };
        if page.writers.load(Ordering::Relaxed) & who == 0 {
            page.writers.fetch_or(who, Ordering::SeqCst);
        }
        page.granules.load(Ordering::SeqCst) == 0
    }

    /// Takes that back.
    pub(crate) fn disclaim(&self, offset: u64, who: u32) {
        if let Some(page) = self.page(offset) {
            page.writers.fetch_and(!who, Ordering::SeqCst);
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

    /// Notes a write of `len` bytes at `offset` that has been done; true if it
    /// hit code.
    pub fn written(&self, offset: u64, len: u64) -> bool {
        // Who marks code reads it afterwards: it sees the write, or this sees
        // the mark.
        fence(Ordering::SeqCst);
        let mut hit = false;
        let mut at = offset;
        let end = offset.saturating_add(len);
        while at < end {
            let Some(page) = self.page(at) else { break };
            let next = (at / PAGE_SIZE + 1) * PAGE_SIZE;
            let written = granule_mask(at, end.min(next) - at);
            if page.granules.load(Ordering::Acquire) & written != 0 {
                let granules = page.granules.fetch_and(!written, Ordering::AcqRel) & written;
                page.version.fetch_add(1, Ordering::AcqRel);
                let page = self.start.wrapping_add(at).page();
                self.log.note(CodeHit { page, granules });
                hit = true;
            }
            at = next;
        }
        hit
    }
}

/// The bits of the granules that `len` bytes at `offset` touch, within the
/// page of `offset`.
pub fn granule_mask(offset: u64, len: u64) -> u64 {
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
        let code = CodePages::new(GuestPhysAddr(0), 0x4000, Arc::default());
        code.mark(0x1040, 0x50);
        assert!(!code.written(0x1000, 0x40));
        assert!(!code.written(0x10c0, 0x40));
        assert!(!code.written(0x3000, 0x1000));
        assert_eq!(code.version(0x1000), 0);
        assert!(code.written(0x108f, 1));
        assert_eq!(code.version(0x1fff), 1);
        assert!(code.covers(0x1040, 1) && !code.covers(0x1080, 64), "only what was written is gone");
    }

    #[test]
    fn hits_are_told_until_there_are_too_many() {
        let log = Arc::<CodeLog>::default();
        let code = CodePages::new(GuestPhysAddr(0x10_0000), 0x4000, Arc::clone(&log));
        code.mark(0x1040, 0x50);
        code.written(0x1000, 0x1000);
        let hit = CodeHit { page: GuestPhysAddr(0x10_1000), granules: 0b110 };
        assert_eq!(log.since(0), (Some(vec![hit]), 1));
        for _ in 0..REMEMBERED {
            code.mark(0, 1);
            code.written(0, 1);
        }
        assert_eq!(log.since(0), (None, REMEMBERED as u64 + 1));
    }

    #[test]
    fn a_write_over_many_pages_reaches_each() {
        let code = CodePages::new(GuestPhysAddr(0), 0x4000, Arc::default());
        for page in 0..4 {
            code.mark(page * 0x1000 + 0xfc0, 0x40);
        }
        assert!(code.written(0xff0, 0x2fd1));
        assert_eq!([0, 1, 2, 3].map(|page| code.version(page * 0x1000)), [1, 1, 1, 1]);
    }

    #[test]
    fn offsets_beyond_the_end_are_ignored() {
        let code = CodePages::new(GuestPhysAddr(0), 0x1000, Arc::default());
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
