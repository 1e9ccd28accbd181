//! A chain of buffers as the guest made it available, checked as a whole.

use memory::{CodePages, GuestMemory};
use virtio_queue::DescriptorChain;
use virtio_queue::desc::split::Descriptor;
use vm_memory::bitmap::RefSlice;
use vm_memory::{Bytes, GuestAddress, GuestMemory as _, GuestMemoryMmap, Permissions, VolatileSlice};

/// The most buffers of one chain, as QEMU has it. Linux never makes more than
/// the queue's size.
const MAX_BUFFERS: usize = 1024;

/// A piece of the guest's memory.
pub type Slice<'a> = VolatileSlice<'a, RefSlice<'a, CodePages>>;

/// One buffer of a chain: it lies in RAM as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Its guest-physical address.
    pub at: GuestAddress,
    /// Its length in bytes.
    pub len: u32,
}

/// A chain of buffers: those that the device reads, then those that it writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    head: u16,
    readable: Vec<Buffer>,
    writable: Vec<Buffer>,
}

impl Chain {
    /// Takes a chain out of its table; None if it is not one: it loops, leads
    /// outside its table or the guest's memory, is too long, or has a buffer
    /// to read behind one to write.
    pub(crate) fn collect(
        memory: &GuestMemory,
        chain: DescriptorChain<&GuestMemoryMmap<CodePages>>,
    ) -> Option<Self> {
        let ram = memory.vm_memory();
        let mut collected = Self { head: chain.head_index(), ..Self::default() };
        let mut last: Option<Descriptor> = None;
        for descriptor in chain {
            collected.add(ram, descriptor)?;
            last = Some(descriptor);
        }
        // The iterator ends early, without a word, at whatever is wrong.
        (!last?.has_next()).then_some(collected)
    }

    fn add(&mut self, ram: &GuestMemoryMmap<CodePages>, descriptor: Descriptor) -> Option<()> {
        let buffer = Buffer { at: descriptor.addr(), len: descriptor.len() };
        let full = self.readable.len() + self.writable.len() >= MAX_BUFFERS;
        if full || buffer.len != 0 && !ram.check_range(buffer.at, buffer.len as usize, Permissions::ReadWrite)
        {
            return None;
        }
        match descriptor.is_write_only() {
            true => self.writable.push(buffer),
            false if self.writable.is_empty() => self.readable.push(buffer),
            false => return None,
        }
        Some(())
    }

    /// The index by which the guest knows it.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// The buffers for the device to read.
    pub fn readable(&self) -> &[Buffer] {
        &self.readable
    }

    /// The buffers for the device to write.
    pub fn writable(&self) -> &[Buffer] {
        &self.writable
    }

    /// Bytes for the device to read. They fit 32 bits.
    pub fn readable_len(&self) -> u64 {
        total(&self.readable)
    }

    /// Bytes for the device to write. They fit 32 bits.
    pub fn writable_len(&self) -> u64 {
        total(&self.writable)
    }

    /// Copies what is to be read from byte `offset` on; returns how much there
    /// was of it.
    pub fn read(&self, memory: &GuestMemory, offset: u64, data: &mut [u8]) -> usize {
        let mut done = 0;
        for slice in self.readable_slices(memory, offset, data.len() as u64) {
            let Some(rest) = data.get_mut(done..) else { break };
            done += slice.read(rest, 0).unwrap_or(0);
        }
        done
    }

    /// Copies `data` to what is to be written, from byte `offset` on; returns
    /// how much had room.
    pub fn write(&self, memory: &GuestMemory, offset: u64, data: &[u8]) -> usize {
        let mut done = 0;
        for slice in self.writable_slices(memory, offset, data.len() as u64) {
            let Some(rest) = data.get(done..) else { break };
            done += slice.write(rest, 0).unwrap_or(0);
        }
        done
    }

    /// Up to `len` bytes to read, from byte `offset` on, in place.
    pub fn readable_slices<'a>(&self, memory: &'a GuestMemory, offset: u64, len: u64) -> Vec<Slice<'a>> {
        slices(&self.readable, memory, offset, len)
    }

    /// Up to `len` bytes to write, from byte `offset` on, in place.
    pub fn writable_slices<'a>(&self, memory: &'a GuestMemory, offset: u64, len: u64) -> Vec<Slice<'a>> {
        slices(&self.writable, memory, offset, len)
    }
}

fn total(buffers: &[Buffer]) -> u64 {
    buffers.iter().map(|buffer| u64::from(buffer.len)).sum()
}

fn slices<'a>(buffers: &[Buffer], memory: &'a GuestMemory, offset: u64, len: u64) -> Vec<Slice<'a>> {
    let (mut skip, mut left) = (offset, len);
    let mut found = Vec::with_capacity(buffers.len());
    for buffer in buffers {
        let whole = u64::from(buffer.len);
        if skip >= whole {
            skip -= whole;
            continue;
        }
        let take = (whole - skip).min(left);
        if take == 0 {
            break;
        }
        let at = GuestAddress(buffer.at.0.wrapping_add(skip));
        let pieces = memory.vm_memory().get_slices(at, take as usize, Permissions::ReadWrite);
        found.extend(pieces.into_iter().flatten().map_while(Result::ok));
        (skip, left) = (0, left - take);
    }
    found
}
