//! Huge pages for large buffers: a page fault costs more than the clearing of
//! what it brings, so few large ones beat many small ones.

use std::alloc::{Layout, alloc_zeroed};

use x86::PAGE_SIZE;

/// The size of a huge page, to whose multiples a buffer may be aligned.
pub const HUGE_PAGE: usize = 2 << 20;
/// Below this size a buffer has no room for one huge page in any alignment.
const WORTHWHILE: usize = 4 << 20;

/// The host has no memory for a buffer of this many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the host has no {0} bytes of memory to give")]
pub struct NoMemory(pub usize);

/// `len` zero bytes, in huge pages where the host has them to give. Nothing is
/// touched yet.
///
/// # Errors
/// If the host has no memory.
pub fn zeroed_buffer(len: usize) -> Result<Vec<u8>, NoMemory> {
    let layout = Layout::array::<u8>(len).map_err(|_| NoMemory(len))?;
    if len == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: the layout is not of size zero.
    let start = unsafe { alloc_zeroed(layout) };
    if start.is_null() {
        return Err(NoMemory(len));
    }
    // SAFETY: `start` is an allocation of the global allocator with this
    // layout, and all its bytes are zero.
    let mut buffer = unsafe { Vec::from_raw_parts(start, len, len) };
    if len >= WORTHWHILE {
        prefer_huge_pages(&mut buffer);
    }
    Ok(buffer)
}

/// Asks the host to back `buffer` by huge pages. That is advice: its contents
/// stay, and a host that has none to give is not an error.
pub(crate) fn prefer_huge_pages(buffer: &mut [u8]) {
    let page = PAGE_SIZE as usize;
    let start = buffer.as_mut_ptr();
    let Some(skip) = start.align_offset(page).checked_rem(page) else { return };
    let len = buffer.len().saturating_sub(skip) / page * page;
    if len > 0 {
        // SAFETY: the range lies inside `buffer`, which nobody else holds, and
        // MADV_HUGEPAGE changes neither contents nor access rights.
        unsafe { libc::madvise(start.add(skip).cast(), len, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zero_whatever_their_size() {
        for len in [0, 1, 4095, 4096, WORTHWHILE, WORTHWHILE + 4097] {
            let mut buffer = zeroed_buffer(len).unwrap();
            assert_eq!(buffer.len(), len);
            assert!(buffer.iter().all(|&byte| byte == 0));
            buffer.fill(7);
            prefer_huge_pages(&mut buffer);
            assert!(buffer.iter().all(|&byte| byte == 7));
        }
        assert_eq!(zeroed_buffer(usize::MAX), Err(NoMemory(usize::MAX)));
        assert_eq!(zeroed_buffer(1 << 62), Err(NoMemory(1 << 62)));
    }
}
