//! A buffer of bytes on their way, which grows as far as a common budget
//! allows.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What each ring may have whatever the others hold, so that every connection
/// can go on.
const OWN: usize = 16 << 10;

/// Bytes that all rings share.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    left: Arc<AtomicUsize>,
}

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { left: Arc::new(AtomicUsize::new(bytes)) }
    }

    fn take(&self, bytes: usize) -> bool {
        let take = |left: usize| left.checked_sub(bytes);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A ring of bytes.
pub(crate) struct Ring {
    /// Its length is a power of two, or zero.
    buffer: Vec<u8>,
    start: usize,
    len: usize,
    most: usize,
    budget: Budget,
}

impl Ring {
    /// An empty ring that will hold up to `most` bytes, a power of two.
    pub(crate) fn new(most: usize, budget: &Budget) -> Self {
        Self { buffer: Vec::new(), start: 0, len: 0, most, budget: budget.clone() }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How much more it may hold, if the budget allows.
    pub(crate) fn free(&self) -> usize {
        self.most - self.len
    }

    /// Makes room for up to `wanted` more bytes; how many there is room for.
    fn reserve(&mut self, wanted: usize) -> usize {
        let needed = self.len.saturating_add(wanted).min(self.most);
        while self.buffer.len() < needed {
            let size = (self.buffer.len() * 2).max(OWN.min(self.most));
            let more = size - self.buffer.len().max(OWN.min(size));
            if !self.budget.take(more) {
                break;
            }
            self.resize(size);
        }
        (self.buffer.len() - self.len).min(wanted)
    }

    fn resize(&mut self, size: usize) {
        let mut grown = Vec::with_capacity(size);
        self.copy_out(0, self.len, &mut grown);
        grown.resize(size, 0);
        self.buffer = grown;
        self.start = 0;
    }

    /// Forgets the memory that an empty ring does not need.
    fn release(&mut self) {
        self.budget.give_back(self.buffer.len().saturating_sub(OWN));
        self.buffer = Vec::new();
        self.start = 0;
    }

    fn mask(&self, at: usize) -> usize {
        at & (self.buffer.len().wrapping_sub(1))
    }

    /// The two parts of the `len` bytes from `offset` on.
    fn parts(&self, offset: usize, len: usize) -> (&[u8], &[u8]) {
        let len = len.min(self.len.saturating_sub(offset));
        if len == 0 {
            return (&[], &[]);
        }
        let from = self.mask(self.start + offset);
        let first = len.min(self.buffer.len() - from);
        (&self.buffer[from..from + first], &self.buffer[..len - first])
    }

    /// Appends what fits of `bytes`; how much that was.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> usize {
        let room = self.reserve(bytes.len());
        if room == 0 {
            return 0;
        }
        let at = self.mask(self.start + self.len);
        let first = room.min(self.buffer.len() - at);
        self.buffer[at..at + first].copy_from_slice(&bytes[..first]);
        self.buffer[..room - first].copy_from_slice(&bytes[first..room]);
        self.len += room;
        room
    }

    /// Appends what `source` has, once: how many bytes came, and whether that
    /// was as many as there was room for. Nothing if there is no room.
    pub(crate) fn fill(&mut self, mut source: impl Read) -> io::Result<Option<(usize, bool)>> {
        let room = self.reserve(self.free());
        if room == 0 {
            return Ok(None);
        }
        let at = self.mask(self.start + self.len);
        let first = room.min(self.buffer.len() - at);
        let (low, high) = self.buffer.split_at_mut(at);
        let mut slices = [IoSliceMut::new(&mut high[..first]), IoSliceMut::new(&mut low[..room - first])];
        let came = source.read_vectored(&mut slices)?.min(room);
        self.len += came;
        Ok(Some((came, came == room)))
    }

    /// Writes from the front to `sink`; whether everything was taken.
    pub(crate) fn drain(&mut self, mut sink: impl Write) -> io::Result<bool> {
        while self.len > 0 {
            let (first, second) = self.parts(0, self.len);
            let taken = sink.write_vectored(&[IoSlice::new(first), IoSlice::new(second)])?;
            if taken == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.discard(taken);
        }
        Ok(true)
    }

    /// Appends the `len` bytes from `offset` on to `out`.
    pub(crate) fn copy_out(&self, offset: usize, len: usize, out: &mut Vec<u8>) {
        let (first, second) = self.parts(offset, len);
        out.extend_from_slice(first);
        out.extend_from_slice(second);
    }

    /// Drops `len` bytes from the front.
    pub(crate) fn discard(&mut self, len: usize) {
        let len = len.min(self.len);
        self.len -= len;
        self.start = self.mask(self.start + len);
        if self.len == 0 {
            self.start = 0;
        }
    }

    /// Drops everything, the memory too.
    pub(crate) fn clear(&mut self) {
        self.len = 0;
        self.release();
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_order_around_the_end() {
        let mut ring = Ring::new(64 << 10, &Budget::new(1 << 20));
        let (mut put, mut got) = (0_u32, Vec::new());
        while put < 200_000 {
            let chunk: Vec<u8> = (0..3000).map(|n| ((put + n) % 251) as u8).collect();
            put += ring.push(&chunk) as u32;
            let take = ring.len().min(2900);
            ring.copy_out(0, take, &mut got);
            ring.discard(take);
        }
        assert!(got.iter().enumerate().all(|(n, &byte)| byte == (n % 251) as u8));
    }

    #[test]
    fn the_budget_bounds_all_but_gives_each_its_own() {
        let budget = Budget::new(48 << 10);
        let bytes = vec![7; 256 << 10];
        let mut first = Ring::new(256 << 10, &budget);
        assert_eq!(first.push(&bytes), 64 << 10);
        let mut second = Ring::new(256 << 10, &budget);
        assert_eq!(second.push(&bytes), OWN);
        drop(first);
        assert_eq!(second.push(&bytes), 48 << 10);
    }

    #[test]
    fn sockets_fill_and_drain_it() {
        let mut ring = Ring::new(32 << 10, &Budget::new(1 << 20));
        let source = vec![9; 40 << 10];
        assert_eq!(ring.fill(&source[..]).unwrap(), Some((32 << 10, true)));
        assert_eq!(ring.fill(&source[..]).unwrap(), None);
        let mut sink = Vec::new();
        assert!(ring.drain(&mut sink).unwrap());
        assert_eq!(sink, source[..32 << 10]);
    }
}
