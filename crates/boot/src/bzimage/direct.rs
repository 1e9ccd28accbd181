//! Entering a bzImage where its own unpacker would: the payload is unpacked
//! here, natively, and the kernel inside is started by its ELF entry.
//!
//! That is equivalent because it is the last step of the unpacker itself
//! (Linux `arch/x86/boot/compressed`): the same segments at the same places,
//! the same zero page in ESI or RSI, flat segments, and for 64 bits an identity
//! mapping. What the unpacker decides on its way is decided here too, or
//! written down in `docs/booting.md`: the image is not moved to a random
//! address, and paging has four levels.

use std::io;

use memory::GuestMemory;
use x86::{CpuState, Gpr, GuestPhysAddr, PAGE_SIZE};

use super::BzImage;
use super::header::XLF_KERNEL_64;
use crate::elf::{self, Headers};
use crate::image::{Segment, zero};
use crate::layout::INFO;
use crate::payload::{Payload, find_in};
use crate::places::Places;
use crate::{BootError, BootRequest, PayloadError, cpu};

/// Linux has its program headers right behind the ELF header.
const HEAD: usize = 4096;
const PAGE: usize = PAGE_SIZE as usize;
/// What a payload may hold besides what is loaded: symbols, relocations.
const NOT_LOADED: u64 = 256 << 20;

/// A payload that can be started by its ELF entry.
pub(super) struct Direct<'a> {
    payload: Payload<'a>,
    headers: Headers,
    entry: u64,
    /// How much of the image is unpacked at most.
    limit: usize,
}

impl<'a> Direct<'a> {
    /// Finds the kernel in `image` if it can be entered like this.
    ///
    /// # Errors
    /// If the payload is damaged: the kernel's own unpacker would only stop
    /// the guest.
    pub(super) fn find(image: &BzImage<'a>, memory: &GuestMemory) -> Result<Option<Self>, BootError> {
        // Before 2.10 the header does not say where the kernel belongs.
        if !image.speaks(2, 10) {
            return Ok(None);
        }
        let head = find_in(image).and_then(|payload| Ok((payload, payload.head(HEAD)?)));
        let (payload, head) = match head {
            Ok(found) => found,
            Err(PayloadError::NotDescribed | PayloadError::UnknownFormat(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if !elf::is_elf(&head) {
            return Ok(None);
        }
        let Ok(headers) = Headers::parse(&head) else { return Ok(None) };
        let offers_64 = image.header.xloadflags.get() & XLF_KERNEL_64 != 0;
        let start = headers.loads().map(|load| load.start).min();
        let entry = headers.physical_entry();
        let holds = |at| headers.loads().any(|load| at >= load.start && at - load.start < load.len);
        let fits = start == Some(image.header.pref_address.get()) && holds(entry);
        let limit = usize::try_from(memory.size().saturating_add(NOT_LOADED)).unwrap_or(usize::MAX);
        Ok((fits && headers.wide == offers_64).then_some(Self { payload, headers, entry, limit }))
    }

    /// Whether the kernel is a 64-bit one.
    pub(super) fn wide(&self) -> bool {
        self.headers.wide
    }

    /// Takes the memory from where the kernel belongs, `len` bytes; false if
    /// that is not free or too small.
    pub(super) fn place(&self, places: &mut Places, start: u64, len: u64) -> bool {
        let end = start.saturating_add(len);
        let inside = |load: &elf::Program| {
            load.start >= start && load.start.checked_add(load.len).is_some_and(|to| to <= end)
        };
        self.headers.loads().all(inside) && places.claim(start, len)
    }

    /// Unpacks the segments to where they belong.
    pub(super) fn write(&self, memory: &GuestMemory, request: &BootRequest<'_>) -> Result<(), BootError> {
        let skip_zeros = request.memory_is_zero;
        if !skip_zeros {
            for load in self.headers.loads() {
                let filled = load.start.saturating_add(load.filled);
                zero(memory, filled, load.len.saturating_sub(load.filled))?;
            }
        }
        self.payload.unpack_to(self.limit, &|offset, bytes| {
            self.pieces(offset, bytes).try_for_each(|piece| {
                if skip_zeros { write_unless_zero(memory, piece) } else { write(memory, piece) }
            })
        })?;
        Ok(())
    }

    /// What of the payload's `bytes` at `offset` belongs into memory.
    fn pieces<'b>(&'b self, offset: u64, bytes: &'b [u8]) -> impl Iterator<Item = Segment<'b>> + 'b {
        let end = offset.saturating_add(bytes.len() as u64);
        self.headers.loads().filter_map(move |load| {
            let from = load.offset.max(offset);
            let to = load.offset.saturating_add(load.filled).min(end);
            let data = bytes.get(usize::try_from(from.checked_sub(offset)?).ok()?..)?;
            let data = data.get(..usize::try_from(to.checked_sub(from)?).ok()?)?;
            let start = load.start.checked_add(from.checked_sub(load.offset)?)?;
            Some(Segment { start, data, len: data.len() as u64 })
        })
    }

    /// The state in which the unpacker would jump to the kernel.
    pub(super) fn entry_state(&self, memory: &GuestMemory) -> Result<CpuState, BootError> {
        let mut state = if self.headers.wide {
            cpu::long_mode(memory, self.entry)?
        } else {
            let entry =
                u32::try_from(self.entry).map_err(|_| BootError::EntryOutside(GuestPhysAddr(self.entry)))?;
            cpu::protected_mode(memory, entry)?
        };
        state.set_reg(Gpr::Rsi, INFO);
        Ok(state)
    }

    /// How the payload was packed, for people.
    pub(super) fn format(&self) -> impl std::fmt::Display {
        self.payload.format
    }
}

fn write(memory: &GuestMemory, piece: Segment<'_>) -> io::Result<()> {
    memory.write(GuestPhysAddr(piece.start), piece.data).map_err(io::Error::other)
}

/// The same, apart from whole pages of zeros: kernels have many.
fn write_unless_zero(memory: &GuestMemory, piece: Segment<'_>) -> io::Result<()> {
    let mut run = 0..0;
    for page in piece.data.chunks(PAGE) {
        if is_zero(page) {
            flush(memory, piece, run.clone())?;
            run = run.end + page.len()..run.end + page.len();
        } else {
            run.end += page.len();
        }
    }
    flush(memory, piece, run)
}

fn flush(memory: &GuestMemory, piece: Segment<'_>, run: std::ops::Range<usize>) -> io::Result<()> {
    let start = piece.start.saturating_add(run.start as u64);
    let data = piece.data.get(run).unwrap_or_default();
    write(memory, Segment { start, data, len: data.len() as u64 })
}

/// In pieces that the compiler makes vectors of, yet stops early.
fn is_zero(page: &[u8]) -> bool {
    page.chunks(64).all(|piece| piece.iter().fold(0, |bits, byte| bits | byte) == 0)
}

#[cfg(test)]
mod tests;
